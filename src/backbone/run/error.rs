//! What went wrong in ONNX Runtime.

use super::runtime::RuntimeError;

/// ONNX Runtime refused a model or failed on a batch; its own words.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("ONNX Runtime: {0}")]
    Ort(String),
}

impl<T> From<ort::Error<T>> for SessionError {
    fn from(error: ort::Error<T>) -> Self {
        Self::Ort(error.message().trim_end().to_owned())
    }
}
