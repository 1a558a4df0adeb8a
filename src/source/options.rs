//! How to read a source.

use std::path::PathBuf;

use super::encode::Encoding;

/// How to read a source.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// What arrays (`.npy`, IDX) are encoded as; pictures in folders and videos stay as they are.
    pub encoding: Encoding,
    /// True classes: IDX (`.gz` or not), `.npy` with one dimension, or text with one class a line.
    pub labels: Option<PathBuf>,
    /// Only these frames of an array, in this order: an `.npy` with one dimension of indices.
    pub pick: Option<PathBuf>,
    /// The ffmpeg to run for videos; looked for on the `PATH`.
    pub ffmpeg: PathBuf,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { encoding: Encoding::Png, labels: None, pick: None, ffmpeg: PathBuf::from("ffmpeg") }
    }
}
