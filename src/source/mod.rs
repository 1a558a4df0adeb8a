//! Frames from files, for whatever needs a stream without cameras: the feeder, the demo and the replay.
//!
//! A source yields encoded pictures, as a camera would send them, one after the other and never all at once. The files are
//! foreign: every fault names the file, the reason and the fix. Knows nothing of Kafka but for [`feeder`].

mod encode;
mod error;
pub mod feeder;
mod folder;
mod idx;
mod labels;
mod mjpeg;
mod npy;
mod options;
mod picture;
mod pixels;
mod raster;
mod sniff;
mod video;

use std::io::BufRead as _;
use std::path::Path;

pub use encode::Encoding;
pub use error::SourceError;
pub use options::SourceOptions;
pub use picture::{FrameSource, Label, Picture};

/// What frames are read from.
const KINDS: &str =
    "frames are a folder of JPEG, PNG or WebP files, an .npy or IDX file (.gz or not), a Motion JPEG file or a video";

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
    let mut opened = sniff::sniff(path)?;
    match opened.kind {
        sniff::Kind::Npy => Ok(Box::new(raster::Raster::new(path, npy::open(path, opened)?, labels, options)?)),
        sniff::Kind::Idx => Ok(Box::new(raster::Raster::new(path, idx::open(path, opened)?, labels, options)?)),
        sniff::Kind::Jpegs => Ok(Box::new(mjpeg::Mjpeg::open(path, opened.bytes, labels))),
        sniff::Kind::Other => {
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
