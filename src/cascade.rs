//! 4 · Segments, exits and compaction: one batch through the backbone, each row leaving where it may.
//!
//! Knows neither Kafka nor ONNX Runtime: it drives anything that implements [`Segments`] and [`Auditor`].

use crate::plan::ExitId;

/// A backbone cut at some exits. It owns the buffers between its segments, so rows never leave it while they travel.
///
/// Use per batch: `load` rows into the input, then for each segment `run`, and between two segments `compact` away the
/// rows that left. Rows are independent: a row in a batch gives what the row alone gives.
pub trait Segments {
    /// The exits at which it is cut, by depth. There is one more segment than exits.
    fn exits(&self) -> &[ExitId];

    /// The input buffer for `rows` frames, `rows * InputSpec::len()` values, to be filled by the caller.
    fn load(&mut self, rows: usize) -> &mut [f32];

    /// Runs one segment on the first `rows` rows of its input; the result stays inside as the next segment's input.
    ///
    /// # Errors
    /// When the runtime fails: an outage of this lane, never the frame's fault.
    fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError>;

    /// Keeps only the rows `keep` (strictly ascending positions) of what segment `segment` produced, moved to the front.
    fn compact(&mut self, segment: usize, keep: &[usize]);
}

/// What a segment shows to the outside. Row-major.
#[derive(Debug)]
pub enum StepOutput<'a> {
    /// Pooled features at the segment's exit, `rows x feature_width`.
    Features(&'a [f32]),
    /// After the last segment: the backbone's class probabilities, `rows x classes`.
    Probabilities(&'a [f32]),
}

/// The whole backbone with the pooled features of every candidate as extra outputs: what audited frames run on.
pub trait Auditor {
    /// The input buffer for `rows` frames, to be filled by the caller.
    fn load(&mut self, rows: usize) -> &mut [f32];

    /// Runs the whole model on the first `rows` rows.
    ///
    /// # Errors
    /// When the runtime fails.
    fn run(&mut self, rows: usize) -> Result<AuditOutput<'_>, EngineError>;
}

/// Result of an audit run. Row-major.
#[derive(Debug)]
pub struct AuditOutput<'a> {
    /// The backbone's class probabilities, `rows x classes`.
    pub probabilities: &'a [f32],
    /// Per candidate by depth: pooled features, `rows x feature_width`.
    pub features: Vec<&'a [f32]>,
}

/// The runtime failed on a batch.
#[derive(Debug, thiserror::Error)]
#[error("segment {segment} failed: {reason}")]
pub struct EngineError {
    /// Which segment, 0 based.
    pub segment: usize,
    /// The runtime's own words.
    pub reason: String,
}
