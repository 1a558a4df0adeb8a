//! The decoder's promises: pictures come out as Pillow would give them, copies are pure, and whatever the bytes are, a
//! frame is decoded or rejected with a reason, never a panic. Pure: neither Kafka nor ONNX Runtime.

#![allow(clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use, reason = "a test fails by panicking")]
#![allow(
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "values are copied, not computed, and test frames are small"
)]

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use offramp::decode::{DecodeLimits, Decoder, copies, mirror, shift};
use offramp::frame::{Channels, InputSpec, Layout, RejectReason, Resize};
use proptest::prelude::*;

fn spec(width: usize, height: usize, channels: Channels, layout: Layout) -> InputSpec {
    InputSpec {
        width,
        height,
        channels,
        layout,
        scale: 1.0,
        mean: vec![0.0; channels.count()],
        std: vec![1.0; channels.count()],
        resize: Resize::Stretch,
        mirror: true,
    }
}

fn decode(spec: &InputSpec, payload: &[u8], content_type: Option<&str>) -> Result<Vec<f32>, RejectReason> {
    let mut out = vec![f32::NAN; spec.len()];
    let mut decoder = Decoder::new(spec.clone(), DecodeLimits::default());
    decoder.decode(payload, content_type, &mut out).map_err(|rejection| rejection.reason())?;
    Ok(out)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Every pixel another colour.
fn rgb(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, (x * 3 + y * 5) as u8]))
}

fn smooth(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        Rgb([(x * 200.0) as u8, (y * 200.0) as u8, (x * y * 200.0) as u8])
    })
}

#[test]
fn a_png_of_the_right_size_is_copied_into_layout_and_channel_order() {
    let image = rgb(5, 4);
    let png = encoded(&image.clone().into(), ImageFormat::Png);
    for (channels, order) in [(Channels::Rgb, [0, 1, 2]), (Channels::Bgr, [2, 1, 0])] {
        let planes = decode(&spec(5, 4, channels, Layout::Nchw), &png, None).unwrap();
        let pixels = decode(&spec(5, 4, channels, Layout::Nhwc), &png, None).unwrap();
        for (x, y, pixel) in image.enumerate_pixels() {
            let at = (y * 5 + x) as usize;
            for (channel, source) in order.into_iter().enumerate() {
                assert_eq!(planes[channel * 20 + at], f32::from(pixel[source]));
                assert_eq!(pixels[at * 3 + channel], f32::from(pixel[source]));
            }
        }
    }
}

#[test]
fn scale_mean_and_std_are_applied_in_this_order() {
    let mut spec = spec(2, 1, Channels::Gray, Layout::Nchw);
    (spec.scale, spec.mean, spec.std) = (1.0 / 255.0, vec![0.5], vec![0.25]);
    let png = encoded(&GrayImage::from_raw(2, 1, vec![0, 255]).unwrap().into(), ImageFormat::Png);
    assert_eq!(decode(&spec, &png, None).unwrap(), [-2.0, 2.0]);
}

#[test]
fn all_formats_and_pixel_types_give_the_same_picture() {
    let image = DynamicImage::from(smooth(32, 24));
    let spec = spec(32, 24, Channels::Rgb, Layout::Nhwc);
    let plain = decode(&spec, &encoded(&image, ImageFormat::Png), None).unwrap();
    let variants = [
        ("webp", encoded(&image, ImageFormat::WebP), 0.0),
        ("alpha", encoded(&image.to_rgba8().into(), ImageFormat::Png), 0.0),
        ("16 bits", encoded(&image.to_rgb16().into(), ImageFormat::Png), 0.0),
        ("16 bits and alpha", encoded(&image.to_rgba16().into(), ImageFormat::Png), 0.0),
        ("raw", image.to_rgb8().into_raw(), 0.0),
        ("jpeg", encoded(&image, ImageFormat::Jpeg), 12.0),
    ];
    for (name, bytes, tolerance) in variants {
        let content_type = (name == "raw").then_some("application/x-raw; dtype=u8; shape=24x32x3");
        let other = decode(&spec, &bytes, content_type).unwrap();
        let worst = plain.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{name} differs by {worst}");
    }
}

#[test]
fn colour_becomes_grey_and_grey_becomes_colour() {
    let colour = encoded(&RgbImage::from_pixel(3, 2, Rgb([255, 0, 0])).into(), ImageFormat::Png);
    // Pillow: Image.new("RGB", (3, 2), (255, 0, 0)).convert("L") is 76.
    assert_eq!(decode(&spec(3, 2, Channels::Gray, Layout::Nchw), &colour, None).unwrap(), [76.0; 6]);
    let gray = encoded(&GrayImage::from_raw(2, 1, vec![9, 200]).unwrap().into(), ImageFormat::Png);
    let out = decode(&spec(2, 1, Channels::Rgb, Layout::Nchw), &gray, None).unwrap();
    assert_eq!(out, [9.0, 200.0, 9.0, 200.0, 9.0, 200.0]);
    let raw =
        decode(&spec(1, 1, Channels::Gray, Layout::Nchw), &[255, 0, 0], Some("application/x-raw;dtype=u8;shape=1x1x3"));
    assert_eq!(raw.unwrap(), [76.0]);
}

#[test]
fn a_grey_model_sees_a_jpegs_luma() {
    let image = DynamicImage::from(smooth(40, 40));
    let jpeg = encoded(&image, ImageFormat::Jpeg);
    let luma = decode(&spec(40, 40, Channels::Gray, Layout::Nchw), &jpeg, None).unwrap();
    let rec_601 = |px: &Rgb<u8>| 0.299 * f32::from(px[0]) + 0.587 * f32::from(px[1]) + 0.114 * f32::from(px[2]);
    let colour = image.to_rgb8();
    let worst = luma.iter().zip(colour.pixels()).map(|(a, px)| (a - rec_601(px)).abs()).fold(0.0, f32::max);
    assert!(worst <= 4.0, "luma differs by {worst}");
}

/// Regression: the decoder's short cut to luma calls this valid file (written by ffmpeg) corrupt.
#[test]
fn a_grey_model_reads_444_jpegs_with_optimised_tables() {
    let jpeg = include_bytes!("decode_444_optimised.jpg");
    let colour = decode(&spec(28, 28, Channels::Rgb, Layout::Nhwc), jpeg, None).unwrap();
    let gray = decode(&spec(28, 28, Channels::Gray, Layout::Nchw), jpeg, None).unwrap();
    let rec_601 = |px: &[f32]| 0.299 * px[0] + 0.587 * px[1] + 0.114 * px[2];
    let worst = gray.iter().zip(colour.chunks(3)).map(|(a, px)| (a - rec_601(px)).abs()).fold(0.0, f32::max);
    assert!(worst <= 3.0, "luma differs by {worst}");
}

#[test]
fn stretch_crop_and_letterbox_do_what_they_say() {
    // Left half black, right half white, twice as wide as high.
    let wide = GrayImage::from_fn(64, 32, |x, _| image::Luma([if x < 32 { 0 } else { 255 }]));
    let png = encoded(&wide.into(), ImageFormat::Png);
    let mut spec = spec(8, 8, Channels::Gray, Layout::Nchw);
    let stretched = decode(&spec, &png, None).unwrap();
    assert!(stretched.chunks(8).all(|row| row[..3] == [0.0; 3] && row[5..] == [255.0; 3]));
    spec.resize = Resize::Crop;
    let cropped = decode(&spec, &png, None).unwrap();
    assert!(cropped.chunks(8).all(|row| row[..3] == [0.0; 3] && row[5..] == [255.0; 3]));
    spec.resize = Resize::Letterbox;
    let boxed = decode(&spec, &png, None).unwrap();
    let rows: Vec<&[f32]> = boxed.chunks(8).collect();
    assert!(rows[..2].iter().chain(&rows[6..]).all(|row| *row == [0.0; 8]), "bars above and below");
    assert!(rows[2..6].iter().all(|row| row[5..] == [255.0; 3]), "the picture between them");
}

#[test]
fn resizing_matches_pillow() {
    // Pillow 13: Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).resize((4, 4), Image.BILINEAR).
    let ramp = GrayImage::from_fn(8, 8, |x, y| image::Luma([((y * 8 + x) * 4) as u8]));
    let png = encoded(&ramp.into(), ImageFormat::Png);
    let out = decode(&spec(4, 4, Channels::Gray, Layout::Nchw), &png, None).unwrap();
    let pillow =
        [26.0, 33.0, 41.0, 48.0, 83.0, 90.0, 98.0, 105.0, 147.0, 154.0, 162.0, 169.0, 204.0, 211.0, 219.0, 226.0];
    assert_eq!(out, pillow);
}

#[test]
fn prepared_tensors_are_taken_as_they_are() {
    let values = [0.5_f32, -1.0, 2.0, 3.0, 4.0, 5.0];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let content_type = Some("application/x-raw; dtype=f32; shape=1x2x3");
    let mut spec = spec(2, 1, Channels::Rgb, Layout::Nhwc);
    spec.scale = 0.001;
    assert_eq!(decode(&spec, &bytes, content_type).unwrap(), values);
    spec.layout = Layout::Nchw;
    assert_eq!(decode(&spec, &bytes, content_type).unwrap(), [0.5, 3.0, -1.0, 4.0, 2.0, 5.0]);
    let nan: Vec<u8> = [f32::NAN; 6].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(decode(&spec, &nan, content_type), Err(RejectReason::BadTensor));
}

#[test]
fn every_fault_has_its_reason() {
    let spec = spec(8, 8, Channels::Gray, Layout::Nchw);
    let png = encoded(&smooth(64, 64).into(), ImageFormat::Png);
    let jpeg = encoded(&smooth(64, 64).into(), ImageFormat::Jpeg);
    let webp = encoded(&smooth(64, 64).into(), ImageFormat::WebP);
    let raw = |content_type| decode(&spec, &[0; 64], Some(content_type));
    assert_eq!(decode(&spec, &[], None), Err(RejectReason::Empty));
    assert_eq!(decode(&spec, b"hello, world", None), Err(RejectReason::UnknownFormat));
    assert_eq!(decode(&spec, &vec![0xFF; 2 << 20], None), Err(RejectReason::TooLarge));
    for (name, whole) in [("png", &png), ("jpeg", &jpeg), ("webp", &webp)] {
        for length in [whole.len() / 4, whole.len() / 2, whole.len() - 20] {
            let cut = decode(&spec, &whole[..length], None);
            assert_eq!(cut, Err(RejectReason::Truncated), "{name} cut at {length} of {}", whole.len());
        }
    }
    assert_eq!(raw("application/x-raw; dtype=u8; shape=8x8x1"), Ok(vec![0.0; 64]));
    for bad in [
        "application/x-raw",
        "application/x-raw; dtype=i64; shape=8x8",
        "application/x-raw; dtype=u8",
        "application/x-raw; dtype=u8; shape=8x9x1",
        "application/x-raw; dtype=u8; shape=8x8x2",
        "application/x-raw; dtype=u8; shape=8x8x1x1x1",
        "application/x-raw; dtype=u8; shape=-8x8",
        "application/x-raw; dtype=f32; shape=4x4x1",
    ] {
        assert_eq!(raw(bad), Err(RejectReason::BadTensor), "{bad}");
    }
    let huge = "application/x-raw; dtype=u8; shape=99999999999x99999999999x3";
    assert_eq!(raw(huge), Err(RejectReason::TooLarge));
}

/// A PNG that is nothing but a header claiming this size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d".to_vec();
    png.extend(&chunk);
    png.extend(crc32(&chunk).to_be_bytes());
    // The decoder reads up to the first data chunk before it speaks.
    png.extend(b"\x00\x00\x00\x00IDAT");
    png.extend(crc32(b"IDAT").to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn bombs_are_refused_by_their_header() {
    let spec = spec(8, 8, Channels::Rgb, Layout::Nchw);
    assert_eq!(decode(&spec, &png_header(20_000, 20_000), None), Err(RejectReason::TooLarge));
    assert_eq!(decode(&spec, &png_header(60_000, 60_000), None), Err(RejectReason::TooLarge));
    assert_eq!(decode(&spec, &png_header(u32::MAX >> 1, u32::MAX >> 1), None), Err(RejectReason::TooLarge));
    // The same size, claimed by a JPEG and by a WebP whose other bytes are whole.
    let mut jpeg = encoded(&smooth(16, 16).into(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    assert_eq!(decode(&spec, &jpeg, None), Err(RejectReason::TooLarge));
    let mut webp = encoded(&smooth(16, 16).into(), ImageFormat::WebP);
    let size = webp.windows(4).position(|chunk| chunk == b"VP8L").unwrap() + 9;
    webp[size..size + 4].copy_from_slice(&0x0FFF_FFFF_u32.to_le_bytes());
    assert_eq!(decode(&spec, &webp, None), Err(RejectReason::TooLarge));
    // A small canvas, and in it a frame of 16383 x 16383.
    let vp8x = [&b"VP8X\x0a\x00\x00\x00\x00\x00\x00\x00"[..], &[7, 0, 0, 7, 0, 0]].concat();
    let vp8 = b"VP8 \x0a\x00\x00\x00\x10\x00\x00\x9d\x01\x2a\xff\x3f\xff\x3f";
    let nested = [b"RIFF\x2c\x00\x00\x00WEBP", &vp8x[..], vp8].concat();
    assert_eq!(decode(&spec, &nested, None), Err(RejectReason::TooLarge));
}

#[test]
fn a_frame_does_not_see_the_frame_before_it() {
    let spec = spec(16, 16, Channels::Rgb, Layout::Nchw);
    let mut decoder = Decoder::new(spec.clone(), DecodeLimits::default());
    let frames = [
        encoded(&rgb(64, 48).into(), ImageFormat::Png),
        encoded(&rgb(16, 16).into(), ImageFormat::Jpeg),
        encoded(&GrayImage::from_pixel(16, 16, image::Luma([7])).into(), ImageFormat::Png),
        b"\xFF\xD8\xFFbroken".to_vec(),
        encoded(&rgb(9, 33).into(), ImageFormat::WebP),
    ];
    for frame in frames.iter().chain(frames.iter().rev()) {
        let mut out = vec![0.0; spec.len()];
        let used = decoder.decode(frame, None, &mut out).map(|()| out).map_err(|rejection| rejection.reason());
        assert_eq!(used, decode(&spec, frame, None));
    }
}

fn channels() -> impl Strategy<Value = Channels> {
    prop_oneof![Just(Channels::Gray), Just(Channels::Rgb), Just(Channels::Bgr)]
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Nchw), Just(Layout::Nhwc)]
}

prop_compose! {
    fn frame_and_spec()(width in 1..9_usize, height in 1..9_usize, channels in channels(), layout in layouts())
        (values in prop::collection::vec(-9.0_f32..9.0, width * height * channels.count()),
         spec in Just(spec(width, height, channels, layout))) -> (InputSpec, Vec<f32>) { (spec, values) }
}

/// The same frame in the other layout.
fn relayout(spec: &InputSpec, frame: &[f32]) -> (InputSpec, Vec<f32>) {
    let (channels, area) = (spec.channels.count(), spec.width * spec.height);
    let mut other = spec.clone();
    let mut out = vec![0.0; frame.len()];
    for (at, value) in frame.iter().enumerate() {
        match spec.layout {
            Layout::Nchw => out[(at % area) * channels + at / area] = *value,
            Layout::Nhwc => out[(at % channels) * area + at / channels] = *value,
        }
    }
    other.layout = if spec.layout == Layout::Nchw { Layout::Nhwc } else { Layout::Nchw };
    (other, out)
}

proptest! {
    #[test]
    fn mirroring_twice_changes_nothing((spec, frame) in frame_and_spec()) {
        let (mut once, mut twice) = (vec![0.0; spec.len()], vec![0.0; spec.len()]);
        mirror(&spec, &frame, &mut once);
        mirror(&spec, &once, &mut twice);
        prop_assert_eq!(frame, twice);
    }

    #[test]
    fn a_shift_repeats_edges_and_moves_the_rest((spec, frame) in frame_and_spec(), dx in -12..12, dy in -12..12) {
        let mut out = vec![0.0; spec.len()];
        shift(&spec, &frame, dx, dy, &mut out);
        let (channels, area) = (spec.channels.count(), spec.width * spec.height);
        let at = |x: i32, y: i32, channel: usize| {
            let pixel = y as usize * spec.width + x as usize;
            if spec.layout == Layout::Nchw { channel * area + pixel } else { pixel * channels + channel }
        };
        for y in 0..spec.height as i32 {
            for x in 0..spec.width as i32 {
                let (sx, sy) = ((x - dx).clamp(0, spec.width as i32 - 1), (y - dy).clamp(0, spec.height as i32 - 1));
                for channel in 0..channels {
                    prop_assert_eq!(out[at(x, y, channel)], frame[at(sx, sy, channel)]);
                }
            }
        }
    }

    #[test]
    fn copies_do_not_depend_on_the_layout((spec, frame) in frame_and_spec(), dx in -4..4, dy in -4..4) {
        let (other, relaid) = relayout(&spec, &frame);
        let (mut here, mut there) = (vec![0.0; spec.len()], vec![0.0; spec.len()]);
        mirror(&spec, &frame, &mut here);
        mirror(&other, &relaid, &mut there);
        prop_assert_eq!(&relayout(&spec, &here).1, &there);
        shift(&spec, &frame, dx, dy, &mut here);
        shift(&other, &relaid, dx, dy, &mut there);
        prop_assert_eq!(&relayout(&spec, &here).1, &there);
    }

    /// Goal: the first copy is the mirror image unless that is forbidden; any other is the frame moved by a tenth at most.
    #[test]
    fn copies_are_mirrored_or_moved((spec, frame) in frame_and_spec(), number in 0u8..3, draw: u64, mirrored: bool) {
        let spec = InputSpec { mirror: mirrored, ..spec };
        let frames = [frame.clone(), frame.clone()].concat();
        let mut out = vec![f32::NAN; frames.len()];
        copies(&spec, &frames, number, |_| draw, &mut out);
        let (first, second) = out.split_at(frame.len());
        prop_assert_eq!(first, second);
        let mut expected = vec![0.0; frame.len()];
        mirror(&spec, &frame, &mut expected);
        let moved = |dx, dy| {
            let mut moved = vec![0.0; frame.len()];
            shift(&spec, &frame, dx, dy, &mut moved);
            moved == first
        };
        let most = |side: usize| i32::try_from((side + 5) / 10).unwrap().max(1);
        let (across, down) = (most(spec.width), most(spec.height));
        let any = (-across..=across).any(|dx| (-down..=down).any(|dy| (dx, dy) != (0, 0) && moved(dx, dy)));
        let sound = if number == 0 && mirrored { expected == first } else { any };
        prop_assert!(sound);
    }

    #[test]
    fn random_bytes_are_decoded_or_rejected(start in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let magics: [&[u8]; 5] = [b"", b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\x00\x00\x00WEBPVP8L", b"RIFF\x10\x00\x00\x00WEBPVP8 "];
        let payload = [magics[start], &bytes].concat();
        // No panic gets out, and nothing needs more memory than the limits allow.
        let _ = decode(&spec(4, 4, Channels::Rgb, Layout::Nchw), &payload, None);
    }

    #[test]
    fn damaged_pictures_are_decoded_or_rejected(
        kind in 0..3_usize, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][kind];
        let mut payload = encoded(&smooth(24, 17).into(), format);
        for (at, value) in edits {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        let _ = decode(&spec(8, 8, Channels::Rgb, Layout::Nhwc), &payload, None);
    }

    #[test]
    fn random_content_types_are_understood_or_rejected(text in "application/x-raw(; ?(dtype|shape)=[a-z0-9x]{0,12}){0,3}") {
        let _ = decode(&spec(4, 4, Channels::Gray, Layout::Nchw), &[0; 16], Some(&text));
    }
}
