//! Goal: a thumbnail is the mean luma of what the model sees, whether a JPEG was decoded for it or not.
//! Method: the means of a JPEG's blocks against all its pixels, given as a raw tensor. Pure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "test frames are small")]

use offramp::decode::{DecodeLimits, Decoder, Thumbnail};
use offramp::frame::{Channels, InputSpec, Layout, RejectReason, Resize};
use proptest::prelude::*;

const JPEGS: &[(&str, &[u8])] = &[
    ("no tables", include_bytes!("pictures/usb.jpg")),
    ("optimised", include_bytes!("pictures/optimised_420.jpg")),
    ("progressive", include_bytes!("pictures/progressive.jpg")),
    ("restarts", include_bytes!("pictures/restarts_422.jpg")),
    ("grey", include_bytes!("pictures/grey.jpg")),
    ("rgb", include_bytes!("pictures/rgb.jpg")),
    ("three scans", include_bytes!("pictures/three_scans.jpg")),
];

fn decoder(channels: Channels, (width, height): (usize, usize), resize: Resize) -> Decoder {
    let spec = InputSpec {
        width,
        height,
        channels,
        layout: Layout::Nchw,
        scale: 1.0 / 255.0,
        mean: vec![0.25; channels.count()],
        std: vec![0.5; channels.count()],
        resize,
        mirror: true,
    };
    Decoder::new(spec, DecodeLimits::default())
}

/// Mean and largest difference.
fn difference(a: &Thumbnail, b: &Thumbnail) -> (f32, u8) {
    let each = a.0.iter().zip(&b.0).map(|(a, b)| a.abs_diff(*b));
    (each.clone().map(f32::from).sum::<f32>() / 196.0, each.max().unwrap())
}

/// The same with an EXIF tag that turns it.
fn tagged(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let head = b"\xFF\xE1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0";
    [&jpeg[..2], head, &[orientation], b"\0\0\0\0\0\0", &jpeg[2..]].concat()
}

/// Goal: the means of blocks give the thumbnail that all pixels give. The parts of these small pictures are hardly larger than
/// a block, so a block is shared by neighbours: as far apart as here no camera's picture is.
#[test]
fn a_reduced_jpeg_looks_like_the_whole_one() {
    // Three scans of a colour each are left out: what they look like reduced has yet to be understood.
    for (name, jpeg) in JPEGS.iter().filter(|(name, _)| *name != "three scans") {
        for resize in [Resize::Stretch, Resize::Crop, Resize::Letterbox] {
            for orientation in 1..9 {
                let jpeg = tagged(jpeg, orientation);
                let mut decoder = decoder(Channels::Rgb, (56, 40), resize);
                let reduced = decoder.thumbnail(&jpeg, None).unwrap();
                let whole = decoder.pixels(&jpeg, None).unwrap();
                let full = decoder.thumbnail(&whole.values, Some(&whole.content_type())).unwrap();
                let (mean, most) = difference(&reduced, &full);
                assert!(
                    mean < 6.0 && most < 48,
                    "{name}, {resize:?}, {orientation}: {mean} on average, {most} at most"
                );
            }
        }
    }
}

/// Goal: frames that are answered from memory may not be ones that the decoder would refuse for missing pixels.
#[test]
fn half_a_jpeg_has_no_thumbnail() {
    for (name, jpeg) in JPEGS.iter().filter(|(name, _)| !matches!(*name, "progressive" | "three scans")) {
        let mut decoder = decoder(Channels::Rgb, (56, 40), Resize::Stretch);
        for length in [jpeg.len() / 2, jpeg.len() * 3 / 4] {
            let cut = decoder.thumbnail(&jpeg[..length], None).unwrap_err();
            assert_eq!(cut.reason(), RejectReason::Truncated, "{name}: {length}");
            let early = decoder.thumbnail(&[&jpeg[..length], &[0xFF, 0xD9]].concat(), None).unwrap_err();
            assert_eq!(early.reason(), RejectReason::Truncated, "{name}: {length} and an end marker");
        }
    }
}

/// Goal: tables and means of one picture say nothing about the next.
#[test]
fn a_thumbnail_does_not_see_the_picture_before_it() {
    let mut used = decoder(Channels::Rgb, (56, 40), Resize::Crop);
    for (name, jpeg) in JPEGS.iter().chain(JPEGS.iter().rev()) {
        let fresh = decoder(Channels::Rgb, (56, 40), Resize::Crop).thumbnail(jpeg, None).unwrap();
        assert_eq!(used.thumbnail(jpeg, None).unwrap(), fresh, "{name}");
        // A picture that names no tables of its own must not borrow those.
        let bare = used.thumbnail(
            b"\xFF\xD8\xFF\xC0\0\x0B\x08\0\x80\0\x80\x01\x01\x11\0\xFF\xDA\0\x08\x01\x01\0\0\x3F\0\0\0",
            None,
        );
        assert!(bare.is_err(), "after {name}");
    }
}

proptest! {
    /// Goal: each value is the mean of its part, borders between pixels included. Method: pixels that are 14 squares wide and
    /// high, each square of one value.
    #[test]
    fn parts_are_averaged(side in 1..6_usize, values in prop::collection::vec(any::<u8>(), 196), up in 1..4_usize) {
        let width = 14 * side;
        let row = |y: usize| (0..width).map(move |x| (y / side * 14) + x / side).collect::<Vec<_>>();
        let pixels: Vec<u8> = (0..width * up).flat_map(|y| row(y / up)).map(|at| values[at]).collect();
        let content_type = format!("application/x-raw; dtype=u8; shape={}x{width}x1", width * up);
        let found = decoder(Channels::Gray, (9, 7), Resize::Stretch).thumbnail(&pixels, Some(&content_type)).unwrap();
        prop_assert_eq!(&found.0[..], &values[..]);
    }

    /// Goal: a prepared tensor has the thumbnail of the pixels that it was made of.
    #[test]
    fn a_prepared_tensor_looks_like_its_pixels(values in prop::collection::vec(any::<u8>(), 6 * 5 * 3), bgr: bool) {
        let channels = if bgr { Channels::Bgr } else { Channels::Rgb };
        let mut decoder = decoder(channels, (5, 6), Resize::Stretch);
        let pixels = decoder.thumbnail(&values, Some("application/x-raw; dtype=u8; shape=6x5x3")).unwrap();
        let feed = |value: u8| ((f32::from(value) / 255.0 - 0.25) / 0.5).to_le_bytes();
        let order = if bgr { [2, 1, 0] } else { [0, 1, 2] };
        let floats: Vec<u8> = values.chunks(3).flat_map(|px| order.map(|at| feed(px[at])).concat()).collect();
        let prepared = decoder.thumbnail(&floats, Some("application/x-raw; dtype=f32; shape=6x5x3")).unwrap();
        prop_assert_eq!(prepared, pixels);
    }

    /// Goal: whatever the bytes are, there is a thumbnail or a reason, and no panic.
    #[test]
    fn damaged_jpegs_are_reduced_or_rejected(
        kind in 0..JPEGS.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut jpeg = JPEGS[kind].1.to_vec();
        for (at, value) in edits {
            let at = at.index(jpeg.len());
            jpeg[at] = value;
        }
        let mut decoder = decoder(Channels::Gray, (14, 14), Resize::Crop);
        if let Err(rejection) = decoder.thumbnail(&jpeg, None) {
            prop_assert!(!rejection.detail().contains("gave up"), "{}", rejection);
        }
    }
}
