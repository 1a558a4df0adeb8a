//! Videos, read by an `ffmpeg` of the user's as a child process that writes JPEGs into a pipe.
//!
//! A process of its own: no video library is linked, and a crash in one is an error message.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::mjpeg::{Splitter, fault, picture};
use super::{FrameSource, Label, Picture, SourceError};

/// Bytes of ffmpeg's own words that are kept for an error message.
const WORDS_MAX: u64 = 4 << 10;
const FIX_MISSING: &str = "if it is a video, install ffmpeg and put it on the PATH (Debian: apt-get install ffmpeg)";
const FIX_FAILED: &str = "check that ffmpeg can play the file";

/// A source over a video. Dropping it ends the child.
pub(super) struct Video {
    path: PathBuf,
    child: Child,
    splitter: Splitter<ChildStdout>,
    words: Option<JoinHandle<String>>,
    labels: Option<std::vec::IntoIter<Label>>,
    index: u64,
    done: bool,
}

impl Video {
    pub(super) fn open(path: &Path, ffmpeg: &Path, labels: Option<Vec<Label>>) -> Result<Self, SourceError> {
        let video_fault = |reason: String, fix| SourceError::Video { path: path.to_owned(), reason, fix };
        // An absolute path with a protocol of its own: a file's name is never taken for an option or an address.
        let absolute = std::path::absolute(path).map_err(|source| SourceError::io(path, source))?;
        let mut input = std::ffi::OsString::from("file:");
        input.push(&absolute);
        let mut child = Command::new(ffmpeg)
            .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe", "-i"])
            .arg(input)
            .args(["-map", "0:v:0", "-f", "image2pipe", "-c:v", "mjpeg", "-q:v", "2", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| video_fault(format!("{} does not start: {error}", ffmpeg.display()), FIX_MISSING))?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(video_fault("ffmpeg has no pipes".to_owned(), FIX_FAILED));
        };
        // Read beside the pictures, or a talkative ffmpeg would wait for us while we wait for it.
        let words = std::thread::spawn(move || {
            let mut words = Vec::new();
            // What cannot be read is missing from an error message, no more.
            drop(stderr.by_ref().take(WORDS_MAX).read_to_end(&mut words));
            drop(std::io::copy(&mut stderr, &mut std::io::sink()));
            String::from_utf8_lossy(&words).into_owned()
        });
        Ok(Self {
            path: path.to_owned(),
            child,
            splitter: Splitter::new(stdout),
            words: Some(words),
            labels: labels.map(Vec::into_iter),
            index: 0,
            done: false,
        })
    }

    /// The child's verdict once its pipe is at its end.
    fn finish(&mut self) -> Option<SourceError> {
        self.done = true;
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        // The first complaint is the cause; those behind it follow from it.
        let first = words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
        let reason = match self.child.wait() {
            Ok(status) if !status.success() => format!("ffmpeg ended with {status}: {first}"),
            Ok(_) if self.index == 0 => format!("ffmpeg found no pictures in it: {first}"),
            Ok(_) => return None,
            Err(error) => format!("ffmpeg cannot be waited for: {error}"),
        };
        Some(SourceError::Video { path: self.path.clone(), reason, fix: FIX_FAILED })
    }
}

impl Iterator for Video {
    type Item = Result<Picture, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let index = self.index;
        match self.splitter.next_picture() {
            Some(Ok(bytes)) => {
                self.index += 1;
                let label = self.labels.as_mut().and_then(Iterator::next);
                Some(Ok(picture(&self.path, index, bytes, label)))
            }
            // The child's own words say more than the torn picture at the end of its pipe.
            Some(Err(torn)) => Some(Err(self.finish().unwrap_or_else(|| fault(&self.path, index, torn)))),
            None => self.finish().map(Err),
        }
    }
}

impl FrameSource for Video {
    fn frames(&self) -> Option<u64> {
        None
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        if !self.done {
            // Both fail only if the child is gone already.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
