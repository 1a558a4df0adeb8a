//! Why a source cannot be read.

use std::path::{Path, PathBuf};

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
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn content(path: &Path, reason: impl Into<String>, fix: &'static str) -> Self {
        Self::Content { path: path.to_owned(), reason: reason.into(), fix }
    }
}
