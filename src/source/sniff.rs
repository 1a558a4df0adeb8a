//! What a file is, by its first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::SourceError;
use crate::decode::JPEG_START;

/// What the first bytes of a file say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Npy,
    Idx,
    Jpegs,
    Other,
}

/// An opened file, unpacked if it was gzipped, and nothing of it consumed.
pub(super) struct Opened {
    pub(super) kind: Kind,
    pub(super) bytes: Box<dyn BufRead + Send>,
}

/// Opens a file and looks at its first bytes.
pub(super) fn sniff(path: &Path) -> Result<Opened, SourceError> {
    let fault = |source| SourceError::io(path, source);
    let mut file = BufReader::new(File::open(path).map_err(fault)?);
    let is_gzip = file.fill_buf().map_err(fault)?.starts_with(&[0x1F, 0x8B]);
    let mut bytes: Box<dyn BufRead + Send> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) };
    let start = bytes.fill_buf().map_err(fault)?;
    if start.is_empty() {
        return Err(SourceError::content(path, "the file is empty", "give a file with frames in it"));
    }
    let kind = if start.starts_with(b"\x93NUMPY") {
        Kind::Npy
    } else if start.starts_with(&[0, 0]) && matches!(start.get(2), Some(0x08..=0x0E)) && start.len() > 3 {
        Kind::Idx
    } else if start.starts_with(&JPEG_START) || is_mjpeg_name(path) {
        Kind::Jpegs
    } else {
        Kind::Other
    };
    Ok(Opened { kind, bytes })
}

fn is_mjpeg_name(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("mjpeg") || ext.eq_ignore_ascii_case("mjpg"))
}
