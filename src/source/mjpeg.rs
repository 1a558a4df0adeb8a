//! A stream of JPEGs, one after the other: Motion JPEG files, recorded HTTP streams, what ffmpeg writes into a pipe.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::{FrameSource, Label, Picture, SourceError};
use crate::decode::{JPEG_START, JpegEnd, jpeg_end};

/// Bytes of one picture that are still believed.
const PICTURE_BYTES_MAX: usize = 64 << 20;
/// Bytes read at a time.
const CHUNK: u64 = 64 << 10;

/// Splits a stream into pictures; what lies between them (multipart headers, say) is skipped.
pub(super) struct Splitter<R> {
    stream: R,
    held: Vec<u8>,
    /// Bytes of `held` that are known to hold no end; the walk starts over only when that much more has come.
    walked: usize,
    at_end: bool,
}

/// Why a stream cannot be split further.
#[derive(Debug)]
pub(super) enum SplitFault {
    Io(std::io::Error),
    TooLong,
    Truncated,
}

impl<R: Read> Splitter<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, held: Vec::new(), walked: 0, at_end: false }
    }

    /// The next picture, from its start marker to its end marker.
    pub(super) fn next_picture(&mut self) -> Option<Result<Vec<u8>, SplitFault>> {
        loop {
            self.skip_to_start();
            if self.held.len() >= 2 * self.walked || self.at_end {
                match jpeg_end(&self.held) {
                    JpegEnd::At(length) => {
                        let rest = self.held.split_off(length);
                        self.walked = 0;
                        return Some(Ok(std::mem::replace(&mut self.held, rest)));
                    }
                    JpegEnd::Broken if self.held.len() >= JPEG_START.len() => {
                        // Not a picture after all: go on behind this start.
                        self.held.drain(..2);
                        self.walked = 0;
                        continue;
                    }
                    JpegEnd::Broken | JpegEnd::Truncated => self.walked = self.held.len(),
                }
            }
            if self.at_end {
                let is_rest = self.held.len() > JPEG_START.len();
                self.held.clear();
                return is_rest.then_some(Err(SplitFault::Truncated));
            }
            if self.held.len() > PICTURE_BYTES_MAX {
                self.at_end = true;
                self.held.clear();
                return Some(Err(SplitFault::TooLong));
            }
            let read = self.stream.by_ref().take(CHUNK).read_to_end(&mut self.held);
            match read {
                Ok(0) => self.at_end = true,
                Ok(_) => {}
                Err(error) => {
                    self.at_end = true;
                    self.held.clear();
                    return Some(Err(SplitFault::Io(error)));
                }
            }
        }
    }

    /// Drops what lies in front of the next start; keeps two bytes that may be the beginning of one.
    fn skip_to_start(&mut self) {
        if self.held.starts_with(&JPEG_START) {
            return;
        }
        let found = self.held.windows(JPEG_START.len()).position(|window| window == JPEG_START);
        let skip = found.unwrap_or_else(|| self.held.len().saturating_sub(2));
        self.held.drain(..skip);
        self.walked = 0;
    }
}

/// A source over a Motion JPEG file.
pub(super) struct Mjpeg {
    path: PathBuf,
    splitter: Splitter<Box<dyn BufRead + Send>>,
    labels: Option<std::vec::IntoIter<Label>>,
    index: u64,
}

impl Mjpeg {
    pub(super) fn open(path: &Path, bytes: Box<dyn BufRead + Send>, labels: Option<Vec<Label>>) -> Self {
        Self { path: path.to_owned(), splitter: Splitter::new(bytes), labels: labels.map(Vec::into_iter), index: 0 }
    }
}

/// A picture out of a stream, named by its number.
pub(super) fn picture(path: &Path, index: u64, bytes: Vec<u8>, label: Option<Label>) -> Picture {
    let name = format!("{}#{index}", path.display());
    Picture { name, bytes, content_type: "image/jpeg".to_owned(), label }
}

/// The fault in words.
pub(super) fn fault(path: &Path, index: u64, fault: SplitFault) -> SourceError {
    match fault {
        SplitFault::Io(source) => SourceError::io(path, source),
        SplitFault::TooLong => SourceError::content(
            path,
            format!("picture {index} does not end within 64 MiB"),
            "the file is damaged, or no stream of JPEGs",
        ),
        SplitFault::Truncated => SourceError::content(
            path,
            format!("it ends inside picture {index}"),
            "the recording was cut off; the pictures in front of it are whole",
        ),
    }
}

impl Iterator for Mjpeg {
    type Item = Result<Picture, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        let split = self.splitter.next_picture();
        if split.is_none() && index == 0 {
            self.index = 1;
            let fix = "give a file of JPEGs one after the other, or a video under its usual name";
            return Some(Err(SourceError::content(&self.path, "there is no JPEG in it", fix)));
        }
        self.index += 1;
        let label = self.labels.as_mut().and_then(Iterator::next);
        Some(match split? {
            Ok(bytes) => Ok(picture(&self.path, index, bytes, label)),
            Err(error) => Err(fault(&self.path, index, error)),
        })
    }
}

impl FrameSource for Mjpeg {
    fn frames(&self) -> Option<u64> {
        None
    }
}
