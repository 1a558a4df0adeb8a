//! What a replay notes while it plays. Nouns only.

use std::sync::Arc;

use crate::heads::HeadSet;
use crate::plan::ExitId;

/// What became of one frame that could be decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Played {
    /// Its place in the stream, from 0.
    pub(super) frame: usize,
    /// The class that was served; none: the answer is no number.
    pub(super) served: Option<usize>,
    /// The class that the full model gives, likewise.
    pub(super) full: Option<usize>,
    /// Where it left.
    pub(super) exit: Option<ExitId>,
    /// Whether it was audited.
    pub(super) audited: bool,
    /// FLOPs spent on it: backbone, heads, and the copy of an audit.
    pub(super) flops: u64,
    /// Seconds of offramp's engine and of the plain model, its share of the batch.
    pub(super) seconds: f64,
    pub(super) plain_seconds: f64,
}

impl Played {
    /// The class served and the full model's, where there are both: only such frames say anything about agreement.
    pub(super) fn answers(&self) -> Option<(usize, usize)> {
        Some((self.served?, self.full?))
    }
}

/// What one exit in force says of one frame, whether the frame gets there or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Opinion {
    pub(super) exit: ExitId,
    pub(super) class: usize,
    pub(super) confidence: f32,
    /// Whether a frame that gets there leaves.
    pub(super) leaves: bool,
}

/// An alarm of the watch.
#[derive(Debug, Clone)]
pub(super) struct Alarm {
    pub(super) frame: usize,
    pub(super) audits: u64,
    pub(super) disagreements: u64,
    pub(super) exits_back_at: Option<usize>,
}

/// Everything that a replay found.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The frames that could be decoded, in order.
    pub(super) played: Vec<Played>,
    /// What the exits in force say of a frame, for those of `played` from the place asked for on.
    pub(super) opinions: Vec<Vec<Opinion>>,
    /// Frames that could not be decoded, and the first one's fault. The worker makes dead letters of them.
    pub(super) rejected: usize,
    pub(super) first_rejection: Option<String>,
    pub(super) heads: Arc<HeadSet>,
    pub(super) alarms: Vec<Alarm>,
    pub(super) learn_seconds: f64,
    pub(super) why: String,
}

impl Outcome {
    /// The frames from a place in the stream on.
    pub(super) fn from(&self, frame: usize) -> &[Played] {
        &self.played[self.played.partition_point(|played| played.frame < frame)..]
    }
}
