//! Goal: pictures as cameras send them are answered, and what is no picture is refused in words that help its sender.
//! Method: files by Pillow, ffmpeg and cjpeg (tests/pictures/make.py), and lossless pictures that are turned, cut, padded and
//! wrapped here. Pure: neither Kafka nor ONNX Runtime.

#![allow(clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use, reason = "a test fails by panicking")]
#![allow(clippy::float_cmp, clippy::cast_possible_truncation, reason = "values are copied, and test frames are small")]

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops};
use offramp::decode::{DecodeLimits, Decoder, Pixels};
use offramp::frame::{Channels, InputSpec, Layout, Orientation, Origin, RawFrame, RejectReason, Rejection, Resize};
use proptest::prelude::*;

const USB: &[u8] = include_bytes!("pictures/usb.jpg");
const OPTIMISED: &[u8] = include_bytes!("pictures/optimised_420.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("pictures/progressive.jpg");
const UPRIGHT: &[u8] = include_bytes!("pictures/upright.png");

/// A JPEG of each kind: how its colours are sampled and laid out in scans.
const JPEGS: &[(&str, &[u8])] = &[
    ("no tables", USB),
    ("optimised", OPTIMISED),
    ("progressive", PROGRESSIVE),
    ("restarts", include_bytes!("pictures/restarts_422.jpg")),
    ("grey", include_bytes!("pictures/grey.jpg")),
    ("rgb", include_bytes!("pictures/rgb.jpg")),
    ("three scans", include_bytes!("pictures/three_scans.jpg")),
];

fn spec(width: usize, height: usize, resize: Resize) -> InputSpec {
    InputSpec {
        width,
        height,
        channels: Channels::Rgb,
        layout: Layout::Nhwc,
        scale: 1.0,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        resize,
        mirror: true,
    }
}

fn decoder() -> Decoder {
    Decoder::new(spec(8, 8, Resize::Stretch), DecodeLimits::default())
}

fn pixels(payload: &[u8]) -> Result<Pixels, Rejection> {
    decoder().pixels(payload, None)
}

fn reason(payload: &[u8]) -> Option<RejectReason> {
    pixels(payload).err().map(|rejection| rejection.reason())
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(image.clone()).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Every pixel another colour.
fn colours(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, (x * 3 + y * 5) as u8]))
}

/// A TIFF block with one tag, in either byte order.
fn exif(orientation: u16, is_big: bool) -> Vec<u8> {
    let word = |value: u16| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let long = |value: u32| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut block = if is_big { b"MM".to_vec() } else { b"II".to_vec() };
    block.extend(word(42));
    block.extend(long(8));
    block.extend(word(1));
    block.extend([word(0x112), word(3)].concat());
    block.extend(long(1));
    block.extend([word(orientation), word(0)].concat());
    block.extend(long(0));
    block
}

/// The picture with an EXIF block where its format has it.
fn tagged(picture: &[u8], format: ImageFormat, block: &[u8]) -> Vec<u8> {
    let length = block.len() as u32;
    match format {
        ImageFormat::Jpeg => {
            let head = [&[0xFF, 0xE1][..], &(length as u16 + 8).to_be_bytes(), b"Exif\0\0", block].concat();
            [&picture[..2], &head, &picture[2..]].concat()
        }
        ImageFormat::Png => {
            let body = [b"eXIf", block].concat();
            let chunk = [&length.to_be_bytes()[..], &body, &crc32(&body).to_be_bytes()].concat();
            // Behind the header, which is 25 bytes long.
            [&picture[..33], &chunk, &picture[33..]].concat()
        }
        _ => {
            let pad = vec![0; block.len() % 2];
            let mut webp = [picture, b"EXIF", &length.to_le_bytes(), block, &pad].concat();
            let riff = (webp.len() as u32 - 8).to_le_bytes();
            webp[4..8].copy_from_slice(&riff);
            webp
        }
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// What a viewer does to a picture with this tag (EXIF 2.32, 4.6.4).
fn viewed(image: &RgbImage, orientation: u16) -> RgbImage {
    match orientation {
        2 => imageops::flip_horizontal(image),
        3 => imageops::rotate180(image),
        4 => imageops::flip_vertical(image),
        5 => imageops::flip_horizontal(&imageops::rotate90(image)),
        6 => imageops::rotate90(image),
        7 => imageops::flip_horizontal(&imageops::rotate270(image)),
        8 => imageops::rotate270(image),
        _ => image.clone(),
    }
}

fn image_of(pixels: Pixels) -> RgbImage {
    RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.values).unwrap()
}

#[test]
fn pictures_that_pillow_tagged_are_turned_upright_unless_that_is_switched_off() {
    let upright = pixels(UPRIGHT).unwrap();
    for (name, picture, tolerance) in [
        ("exif3.png", &include_bytes!("pictures/exif3.png")[..], 0),
        ("exif8.webp", &include_bytes!("pictures/exif8.webp")[..], 0),
        ("exif6.jpg", &include_bytes!("pictures/exif6.jpg")[..], 24),
    ] {
        let turned = pixels(picture).unwrap();
        assert_eq!((turned.width, turned.height), (24, 16), "{name}");
        let worst = turned.values.iter().zip(&upright.values).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(tolerance), "{name} differs by {worst:?}");
        let stored = decoder().oriented(Orientation::Ignore).pixels(picture, None).unwrap();
        assert_ne!(stored.values, turned.values, "{name} as it is stored");
    }
}

proptest! {
    /// Goal: any tag, in any format, does to the pixels what a viewer does. Method: the decoded picture without the tag,
    /// turned by another library.
    #[test]
    fn a_tag_turns_the_pixels_as_a_viewer_does(
        orientation in 0_u16..10, is_big: bool, width in 1_u32..40, height in 1_u32..40, kind in 0..3_usize
    ) {
        let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][kind];
        let picture = encoded(&colours(width, height), format);
        let expected = viewed(&image_of(pixels(&picture).unwrap()), orientation);
        let turned = pixels(&tagged(&picture, format, &exif(orientation, is_big))).unwrap();
        prop_assert_eq!((turned.width as u32, turned.height as u32), expected.dimensions());
        prop_assert_eq!(turned.values, expected.into_raw());
    }

    /// Goal: the model is fed the same tensor by a tagged picture as by the upright one, whatever its size and rule.
    #[test]
    fn a_tagged_picture_is_the_upright_one_to_the_model(
        orientation in 1_u16..9, width in 1_u32..40, height in 1_u32..40,
        (w, h) in (1..20_usize, 1..20_usize),
        resize in prop_oneof![Just(Resize::Stretch), Just(Resize::Crop), Just(Resize::Letterbox)],
    ) {
        let stored = colours(width, height);
        let tagged = tagged(&encoded(&stored, ImageFormat::Png), ImageFormat::Png, &exif(orientation, false));
        let upright = encoded(&viewed(&stored, orientation), ImageFormat::Png);
        let spec = spec(w, h, resize);
        let fed = |payload: &[u8]| {
            let mut out = vec![f32::NAN; spec.len()];
            Decoder::new(spec.clone(), DecodeLimits::default()).decode(payload, None, &mut out).map(|()| out).unwrap()
        };
        prop_assert_eq!(fed(&tagged), fed(&upright));
    }

    /// Goal: a broken EXIF block is no reason to refuse a picture, and is bounded. Method: any bytes in its place.
    #[test]
    fn a_broken_exif_block_turns_nothing_worse_than_a_turn(
        bytes in prop::collection::vec(any::<u8>(), 0..80), start in 0..3_usize, kind in 0..3_usize
    ) {
        let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][kind];
        let block = [[&b""[..], b"II*\0", b"MM\0*"][start], &bytes].concat();
        let picture = encoded(&colours(9, 5), format);
        let found = pixels(&tagged(&picture, format, &block)).unwrap();
        let plain = image_of(pixels(&picture).unwrap());
        let is_turn = (1..9).any(|orientation| viewed(&plain, orientation).into_raw() == found.values);
        prop_assert!(is_turn);
    }
}

/// The segments in front of the first scan, and the rest.
fn segments(jpeg: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut found, mut at) = (Vec::new(), 2);
    while jpeg[at + 1] != 0xDA {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        found.push(&jpeg[at..end]);
        at = end;
    }
    (found, &jpeg[at..])
}

#[test]
fn a_picture_without_huffman_tables_gets_the_standard_ones() {
    let whole = encoded(&colours(40, 30), ImageFormat::Jpeg);
    let (head, rest) = segments(&whole);
    let bare: Vec<&[u8]> = head.into_iter().filter(|segment| segment[1] != 0xC4).collect();
    let bare = [&whole[..2], &bare.concat(), rest].concat();
    assert!(bare.len() + 400 < whole.len(), "the encoder uses the standard tables");
    assert_eq!(pixels(&bare).unwrap(), pixels(&whole).unwrap());
    // The same scene by another encoder.
    let (usb, other) = (pixels(USB).unwrap(), pixels(OPTIMISED).unwrap());
    let sum: u64 = usb.values.iter().zip(&other.values).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(sum < 4 * usb.values.len() as u64, "mean difference {}", sum / usb.values.len() as u64);
}

/// Goal: what lacks only its end marker is answered; what lacks a byte more is truncated, not malformed.
#[test]
fn only_the_end_marker_may_be_missing() {
    for (name, whole) in JPEGS {
        let all = pixels(whole).unwrap();
        assert_eq!(pixels(&whole[..whole.len() - 2]).unwrap(), all, "{name} without its end marker");
        assert_eq!(pixels(&whole[..whole.len() - 1]).unwrap(), all, "{name} without the last byte");
        for length in 3..whole.len() - 2 {
            assert_eq!(reason(&whole[..length]), Some(RejectReason::Truncated), "{name}: {length} of {}", whole.len());
        }
    }
}

/// Goal: half a scan is refused though an end marker was put behind it. A decoder would make up the rest in grey. What is
/// missing of the last row of blocks alone may pass.
#[test]
fn an_end_marker_too_early_is_noticed() {
    for (name, whole) in JPEGS {
        let scan = whole.len() - segments(whole).1.len() + 14;
        let last_row = scan + (whole.len() - scan) * 3 / 4;
        for length in (scan..last_row).step_by(5) {
            let early = pixels(&[&whole[..length], &[0xFF, 0xD9]].concat()).map(drop);
            let found = early.err().map(|rejection| rejection.reason());
            // What is cut between two scans may be a table; a progressive picture that ends there is whole, only less sharp.
            let is_between = match *name {
                "progressive" => matches!(found, None | Some(RejectReason::Corrupt)),
                "three scans" => found == Some(RejectReason::Corrupt),
                _ => false,
            };
            assert!(is_between || found == Some(RejectReason::Truncated), "{name}: {length} of {}", whole.len());
        }
    }
}

#[test]
fn stray_zeros_between_segments_are_passed_over() {
    for (name, whole) in JPEGS {
        let (head, rest) = segments(whole);
        for zeros in [1, 2, 5, 300] {
            let strayed: Vec<u8> = head.iter().flat_map(|segment| [segment, &vec![0; zeros][..]].concat()).collect();
            let strayed = [&whole[..2], &strayed, rest].concat();
            assert_eq!(pixels(&strayed).unwrap(), pixels(whole).unwrap(), "{name}, {zeros} zeros");
        }
    }
}

#[test]
fn half_a_png_or_webp_is_truncated_and_a_missing_last_chunk_is_not() {
    let image = colours(64, 64);
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let whole = encoded(&image, format);
        for length in [whole.len() / 4, whole.len() / 2, whole.len() - 30] {
            assert_eq!(reason(&whole[..length]), Some(RejectReason::Truncated), "{format:?}: {length}");
        }
    }
    let png = encoded(&image, ImageFormat::Png);
    assert_eq!(pixels(&png[..png.len() - 12]).unwrap(), pixels(&png).unwrap());
}

/// Goal: the sender of a wrapped picture reads what it is wrapped in and what to do.
#[test]
fn a_wrapping_is_named() {
    let jpeg = encoded(&colours(4, 4), ImageFormat::Jpeg);
    let png = encoded(&colours(4, 4), ImageFormat::Png);
    let varint = |mut length: usize| {
        let mut bytes = Vec::new();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes
    };
    let field = |number: u8, body: &[u8]| [&[number << 3 | 2][..], &varint(body.len()), body].concat();
    // Of 4,000 zeros, and of the first bytes of such a payload that a person would paste.
    let base64 = |start: &str| [start.as_bytes(), &[b'A'; 200]].concat();
    let wrapped: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("base64 of a JPEG", base64("/9j/4AAQSkZJRg"), &["JPEG in base64", "b64decode"]),
        ("base64 of a PNG", base64("iVBORw0KGgoAAAANSUhEUg"), &["PNG in base64"]),
        ("base64 of a WebP", base64("UklGRiQAAABXRUJQ"), &["WebP in base64"]),
        ("a JSON string", base64("\"/9j/4AAQSkZJRg"), &["base64 in a JSON string"]),
        ("a data URL", b"data:image/jpeg;base64,/9j/4AAQ".to_vec(), &["data: URL"]),
        ("JSON", b"{\"camera\": \"front\", \"image\": \"/9j/4AAQ\"}".to_vec(), &["JSON", "bytes alone"]),
        ("a JSON array", b" [255, 216, 255, 224]".to_vec(), &["JSON"]),
        // Python: pickle.dumps(b"\xff\xd8\xff\xe0", 4)
        ("pickle", b"\x80\x04\x95\x08\0\0\0\0\0\0\0C\x04\xff\xd8\xff\xe0\x94.".to_vec(), &["pickle", "imencode"]),
        ("registry", [&[0, 0, 0, 0, 42, 0][..], &field(1, &jpeg)].concat(), &["schema registry", "schema 42", "JPEG"]),
        ("registry and JSON", b"\0\0\0\0\x07{\"image\": 1}".to_vec(), &["schema registry", "schema 7", "JSON"]),
        ("Protobuf", [field(1, b"front"), field(2, &png)].concat(), &["Protobuf", "PNG", "byte"]),
        ("Protobuf in Protobuf", field(3, &[field(1, b"front"), field(2, &jpeg)].concat()), &["Protobuf", "JPEG"]),
        ("MessagePack", [&b"\x81\xA5image\xC4\x80"[..], &jpeg].concat(), &["message with a JPEG from byte 9"]),
        ("NumPy", b"\x93NUMPY\x01\0v\0{'descr': '|u1'}".to_vec(), &["NumPy", "application/x-raw"]),
        ("gzip", b"\x1F\x8B\x08\0\0\0\0\0".to_vec(), &["gzip", "compression.type"]),
        ("bare pixels", vec![9; 8 * 8 * 3], &["raw tensor", "dtype=u8"]),
        ("bare floats", vec![9; 8 * 8 * 3 * 4], &["raw tensor", "dtype=f32"]),
    ];
    for (name, payload, words) in wrapped {
        let rejection = pixels(&payload).unwrap_err();
        assert_eq!(rejection.reason(), RejectReason::UnknownFormat, "{name}");
        for word in words {
            assert!(rejection.detail().contains(word), "{name}: {}", rejection.detail());
        }
    }
    assert!(!pixels(b"hello, world").unwrap_err().detail().contains("looks like"));
}

proptest! {
    /// Goal: guessing at foreign bytes never panics, and its words stay short.
    #[test]
    fn guesses_are_bounded(start in 0..12_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let starts: [&[u8]; 12] = [
            b"", b"\0\0\0\0\x01", b"{\"", b"[", b"\"", b"/9j/", b"\x80\x04", b"\x0A", b"data:", b"\0\0\0\x18ftyp", b"RIFF", b"\x12\xFF",
        ];
        let payload = [starts[start], &bytes].concat();
        if let Err(rejection) = pixels(&payload) {
            prop_assert!(rejection.detail().len() < 400, "{}", rejection.detail());
        }
    }
}

#[test]
fn header_names_are_read_in_either_case() {
    for name in ["content-type", "Content-Type", "CONTENT-TYPE"] {
        let frame = RawFrame {
            origin: Origin { topic: "frames".into(), partition: 0, offset: 0 },
            key: None,
            payload: vec![7; 12],
            captured_at_ms: None,
            headers: vec![(name.into(), Some(b"application/x-raw; dtype=u8; shape=2x2x3".to_vec()))],
            headers_left_out: 0,
        };
        let found = decoder().pixels(&frame.payload, frame.content_type()).unwrap();
        assert_eq!((found.width, found.height), (2, 2), "{name}");
    }
}
