//! Arrays of pictures, whatever file they are in: frames one after another, or those that were picked.

use std::io::Read as _;
use std::path::Path;

use super::encode::{Encoding, encode};
use super::pixels::Pixels;
use super::{FrameSource, Label, Picture, SourceError, SourceOptions, labels};

/// A source over an array.
pub(super) struct Raster {
    path: std::path::PathBuf,
    pixels: Pixels,
    labels: Option<Vec<Label>>,
    encoding: Encoding,
    next: u64,
    picked: Option<Picked>,
    failed: bool,
}

/// Frames to show out of order: all are held in memory, since a gzipped file cannot be read backwards.
struct Picked {
    order: std::vec::IntoIter<u64>,
    store: Vec<u8>,
    count: u64,
}

impl Raster {
    pub(super) fn new(
        path: &Path,
        pixels: Pixels,
        labels: Option<Vec<Label>>,
        options: &SourceOptions,
    ) -> Result<Self, SourceError> {
        if let (Some(labels), Some(from)) = (&labels, &options.labels)
            && labels.len() as u64 != pixels.frames
        {
            let reason = format!("{} labels for {} frames of {}", labels.len(), pixels.frames, path.display());
            return Err(SourceError::content(from, reason, "give the labels that belong to these frames"));
        }
        let encoding = options.encoding;
        let mut raster = Self { path: path.to_owned(), pixels, labels, encoding, next: 0, picked: None, failed: false };
        if let Some(pick) = &options.pick {
            raster.picked = Some(raster.pick(pick)?);
        }
        Ok(raster)
    }

    fn pick(&mut self, from: &Path) -> Result<Picked, SourceError> {
        let order = labels::read_indices(from)?;
        if let Some(beyond) = order.iter().find(|&&index| index >= self.pixels.frames) {
            let reason = format!("it picks frame {beyond} of {}", self.pixels.frames);
            return Err(SourceError::content(from, reason, "give indices into this very file"));
        }
        let mut store = Vec::new();
        self.pixels.bytes.read_to_end(&mut store).map_err(|source| SourceError::io(&self.path, source))?;
        let count = order.len() as u64;
        Ok(Picked { order: order.into_iter(), store, count })
    }

    /// The number and the pixels of the next frame.
    fn advance(&mut self) -> Option<Result<(u64, Vec<u8>), SourceError>> {
        let length = self.pixels.size.bytes();
        let short = |path: &Path, index: u64, frames: u64| {
            let reason = format!("it ends inside frame {index} of the {frames} that its header promises");
            SourceError::content(path, reason, "the file is truncated: copy or fetch it again")
        };
        if let Some(picked) = &mut self.picked {
            let index = picked.order.next()?;
            let start = usize::try_from(index).ok().and_then(|index| index.checked_mul(length));
            let pixels = start.and_then(|start| picked.store.get(start..start.checked_add(length)?));
            return Some(match pixels {
                Some(pixels) => Ok((index, pixels.to_vec())),
                None => Err(short(&self.path, index, self.pixels.frames)),
            });
        }
        if self.next == self.pixels.frames {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let mut pixels = vec![0; length];
        Some(match self.pixels.bytes.read_exact(&mut pixels) {
            Ok(()) => Ok((index, pixels)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(short(&self.path, index, self.pixels.frames))
            }
            Err(error) => Err(SourceError::io(&self.path, error)),
        })
    }

    fn picture(&self, index: u64, pixels: &[u8]) -> Result<Picture, SourceError> {
        let name = format!("{}#{index}", self.path.display());
        let (bytes, content_type) = encode(&name, pixels, self.pixels.size, self.encoding)?;
        let at = usize::try_from(index).ok();
        let label = self.labels.as_ref().and_then(|labels| labels.get(at?).cloned());
        Ok(Picture { name, bytes, content_type, label })
    }
}

impl Iterator for Raster {
    type Item = Result<Picture, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let frame = self.advance()?;
        // A file that cannot be read at one place gives nothing behind it either.
        self.failed = frame.is_err();
        Some(frame.and_then(|(index, pixels)| self.picture(index, &pixels)))
    }
}

impl FrameSource for Raster {
    fn frames(&self) -> Option<u64> {
        Some(self.picked.as_ref().map_or(self.pixels.frames, |picked| picked.count))
    }
}
