//! Frames from files, for whatever needs a stream without cameras: the feeder, the demo and the replay.
//!
//! A source yields encoded pictures, as a camera would send them, one after the other and never all at once. The files are
//! foreign: every fault names the file, the reason and the fix. Knows nothing of Kafka but for [`feeder`].

mod encode;
pub mod feeder;
mod folder;
mod idx;
mod labels;
mod mjpeg;
mod npy;
mod raster;
mod video;

use std::fmt;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

pub use encode::Encoding;

/// What frames are read from.
const KINDS: &str =
    "frames are a folder of JPEG, PNG or WebP files, an .npy or IDX file (.gz or not), a Motion JPEG file or a video";

/// A frame as a camera would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it came from, for people: a file's name, or the file's name and the frame's number.
    pub name: String,
    /// The encoded picture or raw tensor.
    pub bytes: Vec<u8>,
    /// Its media type, as for the `content-type` header.
    pub content_type: String,
    /// Its true class, where the source knows it. Never sent to Kafka.
    pub label: Option<Label>,
}

/// A true class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Label {
    /// Index in the backbone's output.
    Index(usize),
    /// Name, as in the backbone's labels.
    Name(String),
}

impl Label {
    /// The index in the backbone's output; names are compared without regard to case and to `-`, `_` and space.
    #[must_use]
    pub fn resolve(&self, labels: &[String]) -> Option<usize> {
        let plain = |text: &str| -> String {
            text.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).flat_map(char::to_lowercase).collect()
        };
        match self {
            Self::Index(index) => (*index < labels.len()).then_some(*index),
            Self::Name(name) => labels.iter().position(|label| plain(label) == plain(name)),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => index.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Frames one after the other. After an error about one frame the source may go on; after `None` it is at its end.
pub trait FrameSource: Iterator<Item = Result<Picture, SourceError>> + Send {
    /// How many frames it has in all, where that is known beforehand.
    fn frames(&self) -> Option<u64>;
}

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

/// A source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refuses.
    #[error("cannot read {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The content is not what it should be.
    #[error("{}: {reason}; {fix}", path.display())]
    Content {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// The program that reads videos fails.
    #[error("{} cannot be read as a video: {reason}; {fix}", path.display())]
    Video {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// A picture cannot be encoded.
    #[error("{name} cannot be encoded: {reason}; choose another --format")]
    Encode {
        /// Which frame.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// A decoder's complaint comes as a system error too, and no permission cures that.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::UnexpectedEof => {
            "the file is damaged: fetch it again"
        }
        _ => "check the path and its permissions",
    }
}

impl SourceError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn content(path: &Path, reason: impl Into<String>, fix: &'static str) -> Self {
        Self::Content { path: path.to_owned(), reason: reason.into(), fix }
    }
}

/// Opens a source. What it is follows from its first bytes, and for Motion JPEG and video from its name:
///
/// * a folder: every `.jpg`, `.jpeg`, `.png` and `.webp` in it, sorted by path; a sub-folder's name is the class;
/// * `.npy`: `uint8` with shape `(N, H, W)` or `(N, H, W, 1 or 3)`;
/// * IDX, gzipped or not: unsigned bytes with 3 or 4 dimensions (MNIST's format);
/// * `.mjpeg`, `.mjpg`, or a stream of JPEGs: split into its pictures;
/// * anything else: a video, read by ffmpeg.
///
/// # Errors
/// If it cannot be opened, is empty or is malformed. Faults further inside come with the frame.
pub fn open(path: &Path, options: &SourceOptions) -> Result<Box<dyn FrameSource>, SourceError> {
    let labels = options.labels.as_deref().map(labels::read).transpose()?;
    let metadata = std::fs::metadata(path).map_err(|source| SourceError::io(path, source))?;
    if metadata.is_dir() {
        return Ok(Box::new(folder::Folder::open(path, labels)?));
    }
    let mut opened = raster::sniff(path)?;
    match opened.kind {
        raster::Kind::Npy => Ok(Box::new(raster::Raster::new(path, npy::open(path, opened)?, labels, options)?)),
        raster::Kind::Idx => Ok(Box::new(raster::Raster::new(path, idx::open(path, opened)?, labels, options)?)),
        raster::Kind::Jpegs => Ok(Box::new(mjpeg::Mjpeg::open(path, opened.bytes, labels))),
        raster::Kind::Other => {
            let start = opened.bytes.fill_buf().map_err(|source| SourceError::io(path, source))?;
            if let Some(reason) = no_video(path, start) {
                return Err(SourceError::content(path, reason, KINDS));
            }
            Ok(Box::new(video::Video::open(path, &options.ffmpeg, labels)?))
        }
    }
}

/// Why a file is no video, where that is plain: no ffmpeg would help.
fn no_video(path: &Path, start: &[u8]) -> Option<&'static str> {
    // Formats of ffmpeg's own that are text, or begin with it.
    const TEXTS: [&[u8]; 3] = [b"YUV4MPEG2", b"#EXTM3U", b"ffconcat"];
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
        return Some("it is a model");
    }
    let cut = |error: std::str::Utf8Error| start.get(..error.valid_up_to()).filter(|_| error.error_len().is_none());
    let text = std::str::from_utf8(start).map_or_else(cut, |text| Some(text.as_bytes()))?;
    let plain = text.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
    (plain && !TEXTS.iter().any(|known| start.starts_with(known))).then_some("it is text")
}
