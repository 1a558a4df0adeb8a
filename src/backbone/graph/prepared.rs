//! A model that is ready to be cut: what loading makes, and running and measuring read.

use super::cut_points::CutPoint;
use super::onnx::ModelProto;
use super::pooling::Pooling;
use super::port::Port;

/// What the model's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scores {
    /// Softmax is still to be applied.
    Logits,
    /// They are probabilities already.
    Probabilities,
}

/// A candidate exit in the prepared graph.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) port: Port,
    pub(crate) pooling: Pooling,
    pub(crate) fraction: f64,
}

/// A model ready to be cut.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) model: ModelProto,
    /// The input as frames are fed: f32.
    pub(crate) input: Port,
    /// Name of the class scores: f32, `rows x classes`.
    pub(crate) scores: String,
    pub(crate) meaning: Scores,
    pub(crate) classes: usize,
    pub(crate) points: Vec<CutPoint>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) flops: u64,
    /// False: the graph runs one row at a time only.
    pub(crate) batches: bool,
    pub(crate) opset: i64,
    pub(crate) params: u64,
    /// How far two right ways to compute its probabilities may lie apart, as a share of the largest.
    pub(crate) rounding: f32,
}
