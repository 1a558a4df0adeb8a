//! The chunks of a WebP: one still picture, of a size that is checked wherever it is named. Pure.
//!
//! The decoder checks a frame's own size against the canvas only after it has made room for the frame; so look first.

use super::refusal::{check_size, corrupt, truncated};
use crate::frame::{RejectReason, Rejection};

/// Chunks that are still believed in one file; real ones have up to seven.
const CHUNKS_MAX: usize = 64;

/// First bytes of a WebP; its length stands between them.
const START: (&[u8], &[u8]) = (b"RIFF", b"WEBP");

/// What the chunks say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    /// The EXIF block: a TIFF header and what follows.
    pub(super) exif: Option<&'a [u8]>,
    /// There are fewer bytes than the file says it has.
    pub(super) is_cut: bool,
}

/// Whether these bytes begin as a WebP does.
pub(super) fn is_start(bytes: &[u8]) -> bool {
    bytes.starts_with(START.0) && bytes.get(8..).is_some_and(|rest| rest.starts_with(START.1))
}

/// Checks every size that the file names, and that no chunk is cut and none an animation's. Begins as [`is_start`] wants.
pub(super) fn outline(bytes: &[u8], max_pixels: u64) -> Result<Outline<'_>, Rejection> {
    let declared = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |length| u32::from_le_bytes(*length));
    let mut outline = Outline { exif: None, is_cut: u64::from(declared) + 8 > bytes.len() as u64 };
    let mut at = 12;
    for _ in 0..CHUNKS_MAX {
        let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
            return Ok(outline);
        };
        let (Some(&name), Some(&length)) = (rest.first_chunk::<4>(), rest.get(4..).and_then(<[u8]>::first_chunk))
        else {
            // Stray bytes behind the last chunk are no harm.
            return Ok(outline);
        };
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let Some(body) = rest.get(8..).and_then(|body| body.get(..length)) else {
            return Err(truncated("the WebP ends inside a chunk"));
        };
        if &name == b"ANIM" || &name == b"ANMF" {
            return Err(Rejection::new(RejectReason::UnknownFormat, "an animated WebP is not one frame"));
        }
        if &name == b"EXIF" {
            outline.exif = outline.exif.or(Some(body));
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
