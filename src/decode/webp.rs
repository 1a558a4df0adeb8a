//! The chunks of a WebP: one still picture, of a size that is checked wherever it is named. Pure.
//!
//! The decoder checks a frame's own size against the canvas only after it has made room for the frame; so look first.

use super::refusal::{check_size, corrupt};
use crate::frame::{RejectReason, Rejection};

/// Chunks that are still believed in one file; real ones have up to seven.
const CHUNKS_MAX: usize = 64;

/// Checks every size that the file names, and that it is whole and not an animation. Starts with `RIFF….WEBP`.
pub(super) fn check(bytes: &[u8], max_pixels: u64) -> Result<(), Rejection> {
    let mut at = 12;
    for _ in 0..CHUNKS_MAX {
        let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        let (Some(&name), Some(&length)) = (rest.first_chunk::<4>(), rest.get(4..).and_then(<[u8]>::first_chunk))
        else {
            // Stray bytes behind the last chunk are no harm.
            return Ok(());
        };
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let Some(body) = rest.get(8..).and_then(|body| body.get(..length)) else {
            return Err(corrupt("the WebP ends inside a chunk"));
        };
        if &name == b"ANIM" || &name == b"ANMF" {
            return Err(Rejection::new(RejectReason::UnknownFormat, "an animated WebP is not one frame"));
        }
        if let Some((width, height)) = size_in(name, body) {
            check_size(width, height, max_pixels)?;
        }
        // Chunks are padded to an even length.
        at = at.saturating_add(8).saturating_add(length).saturating_add(length % 2);
    }
    Err(corrupt(format!("the WebP has more than {CHUNKS_MAX} chunks")))
}

/// The size that a chunk names, if it is long enough to name one.
fn size_in(name: [u8; 4], body: &[u8]) -> Option<(u64, u64)> {
    let at = |from: usize| body.get(from..).and_then(<[u8]>::first_chunk::<4>).copied().map(u32::from_le_bytes);
    match &name {
        // Frame tag (3 bytes), start code (3 bytes), then 14 bits of width and of height, each in two bytes.
        b"VP8 " => at(6).map(|bits| (u64::from(bits & 0x3FFF), u64::from((bits >> 16) & 0x3FFF))),
        // Signature, then width - 1 and height - 1 in 14 bits each.
        b"VP8L" => at(1).map(|bits| (u64::from(bits & 0x3FFF) + 1, u64::from((bits >> 14) & 0x3FFF) + 1)),
        // Flags (4 bytes), then width - 1 and height - 1 in 24 bits each.
        b"VP8X" => {
            let (width, height) = (at(4)? & 0x00FF_FFFF, at(6)? >> 8);
            Some((u64::from(width) + 1, u64::from(height) + 1))
        }
        _ => None,
    }
}
