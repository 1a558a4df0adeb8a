//! Why a backbone cannot be used.

use std::path::{Path, PathBuf};

use super::run::error::SessionError;
use super::run::runtime::RuntimeError;
use crate::cascade::EngineError;
use crate::plan::ExitId;

/// Why a backbone cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// ONNX Runtime's library is missing or too old.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The manifest is wrong; every problem is listed.
    #[error("{}:\n  {problems}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// One per line.
        problems: String,
    },
    /// The model is broken or of a kind that cannot be served.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what helps.
        reason: String,
    },
    /// A cut was asked for that the plan does not have.
    #[error("exits {} are not in ascending order among the plan's {candidates} candidates", listed(asked))]
    Exits {
        /// What was asked for.
        asked: Vec<ExitId>,
        /// How many there are.
        candidates: usize,
    },
    /// The runtime's library cannot execute on what was asked for.
    #[error("{0}")]
    Provider(String),
    /// A part of the model cannot be loaded.
    #[error("segment {segment} cannot be loaded: {reason}")]
    Segment {
        /// Which, 0 based.
        segment: usize,
        /// The runtime's own words.
        reason: String,
    },
    /// A run failed while measuring.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn listed(exits: &[ExitId]) -> String {
    exits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl BackboneError {
    pub(super) fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn model(path: &Path, reason: impl Into<String>) -> Self {
        Self::Model { path: path.to_owned(), reason: reason.into() }
    }

    pub(super) fn provider(error: SessionError) -> Self {
        match error {
            SessionError::Runtime(error) => Self::Runtime(error),
            SessionError::Ort(reason) => Self::Provider(reason),
        }
    }

    pub(super) fn segment(segment: usize, error: SessionError) -> Self {
        match error {
            SessionError::Runtime(error) => Self::Runtime(error),
            error @ SessionError::Ort(_) => Self::Segment { segment, reason: error.to_string() },
        }
    }
}
