//! The pixels of an array of pictures, behind a header that says their number and size.

use std::io::BufRead;
use std::path::Path;

use super::SourceError;
use super::encode::Size;

/// Bytes of one frame that are still believed; 64 MiB hold any camera's picture.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// The pixels of an array behind its header.
pub(super) struct Pixels {
    pub(super) frames: u64,
    pub(super) size: Size,
    pub(super) bytes: Box<dyn BufRead + Send>,
}

impl Pixels {
    /// Checks what a header said.
    pub(super) fn new(
        path: &Path,
        frames: u64,
        (height, width, channels): (u64, u64, u64),
        bytes: Box<dyn BufRead + Send>,
    ) -> Result<Self, SourceError> {
        let total = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(channels));
        let fits = total.is_some_and(|bytes| bytes > 0 && bytes <= FRAME_BYTES_MAX as u64);
        if !fits || !matches!(channels, 1 | 3) {
            let reason = format!("its frames are {height} x {width} x {channels} by its header");
            let fix = "frames must be height x width or height x width x 3 bytes, 64 MiB at most";
            return Err(SourceError::content(path, reason, fix));
        }
        if frames == 0 {
            return Err(SourceError::content(path, "it has no frames by its header", "give a file with frames in it"));
        }
        let narrow = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let size = Size { height: narrow(height), width: narrow(width), channels: narrow(channels) };
        Ok(Self { frames, size, bytes })
    }
}
