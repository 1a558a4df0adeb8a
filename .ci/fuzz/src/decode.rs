//! Feeds libFuzzer's bytes to the decoder of frames as if a camera had sent them, with content types made from them too. A
//! frame is decoded or rejected in few words; a panic in our own files, a hang or memory without bound is a finding. Panics of
//! the picture decoders are caught where frames are decoded, and are none.
#![no_main]
#![allow(dead_code, unused_imports, unreachable_pub, reason = "the library uses more of these files")]

use std::sync::Once;

#[path = "../../../src/decode/mod.rs"]
mod decode;
#[path = "../../../src/frame.rs"]
mod frame;

use decode::{DecodeLimits, Decoder};
use frame::{Channels, InputSpec, Layout, Orientation, Resize};

static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    HOOK.call_once(only_our_own_panics);
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let limits = DecodeLimits { max_bytes: 1 << 16, max_pixels: 1 << 18 };
    let spec = spec(choice);
    let orientation = if choice & 32 == 0 { Orientation::Exif } else { Orientation::Ignore };
    let mut decoder = Decoder::new(spec.clone(), limits).oriented(orientation);
    // Up to the first line's end stands a content type, where one is wanted.
    let line = rest.iter().position(|&byte| byte == b'\n').filter(|_| choice & 64 != 0);
    let (line, payload) = line.and_then(|at| rest.split_at_checked(at)).unwrap_or((&[], rest));
    let content_type = std::str::from_utf8(line).ok().filter(|line| !line.is_empty());
    let mut row = vec![0.0; spec.len()];
    match decoder.decode(payload, content_type, &mut row) {
        Ok(()) => assert!(row.iter().all(|value| value.is_finite()), "a value that is no number"),
        Err(rejection) => assert!(rejection.detail().len() < 1000, "too many words"),
    }
    let fresh = decoder.thumbnail(payload, content_type).ok();
    assert_eq!(decoder.thumbnail(payload, content_type).ok(), fresh, "a frame sees the frame before it");
});

fn spec(choice: u8) -> InputSpec {
    let channels = [Channels::Gray, Channels::Rgb, Channels::Bgr, Channels::Rgb][usize::from(choice & 3)];
    InputSpec {
        width: 24,
        height: 20,
        channels,
        layout: if choice & 4 == 0 { Layout::Nchw } else { Layout::Nhwc },
        scale: 1.0 / 255.0,
        mean: vec![0.5; channels.count()],
        std: vec![0.25; channels.count()],
        resize: [Resize::Stretch, Resize::Crop, Resize::Letterbox, Resize::Crop][usize::from(choice >> 3 & 3)],
        mirror: true,
    }
}

/// libFuzzer ends at any panic; those of other crates go on to where they are caught.
fn only_our_own_panics() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(std::panic::Location::file).unwrap_or_default();
        if place.contains("src/decode") || place.contains("src/frame") {
            end(panic);
        }
    }));
}
