//! What a replay notes while it plays. Nouns only.

use std::sync::Arc;

use super::drift::Shift;
use crate::heads::HeadSet;
use crate::plan::{ExitId, Plan};
use crate::source::Picture;

/// What became of one frame that could be decoded.
#[derive(Debug, Clone, Copy)]
pub struct Played {
    /// Its place in the stream, from 0.
    pub frame: usize,
    /// The class that was served; none: the answer is no number.
    pub served: Option<usize>,
    /// The class that the full model gives, likewise.
    pub full: Option<usize>,
    /// Where it left.
    pub exit: Option<ExitId>,
    /// Whether it was audited.
    pub audited: bool,
    /// FLOPs spent on it: backbone, heads, and the copy of an audit.
    pub flops: u64,
    /// Seconds of offramp's engine, its share of the batch.
    pub seconds: f64,
    /// Seconds of the plain model, likewise.
    pub plain_seconds: f64,
}

impl Played {
    /// The class served and the full model's, where there are both: only such frames say anything about agreement.
    pub(super) fn answers(&self) -> Option<(usize, usize)> {
        Some((self.served?, self.full?))
    }
}

/// What one exit in force says of one frame, whether the frame gets there or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opinion {
    /// Which exit.
    pub exit: ExitId,
    /// Its class.
    pub class: usize,
    /// How sure it is.
    pub confidence: f32,
    /// Whether a frame that gets there leaves.
    pub leaves: bool,
}

/// An alarm of the watch.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// Frames that had been played.
    pub frame: usize,
    /// Audits on which it was raised.
    pub audits: u64,
    /// Disagreements among them.
    pub disagreements: u64,
    /// Frames that had been played when exits were on again.
    pub exits_back_at: Option<usize>,
}

/// Everything that a replay found.
#[derive(Debug)]
pub struct Outcome {
    /// The frames that could be decoded, in order.
    pub played: Vec<Played>,
    /// What the exits in force say of a frame, for those of `played` from the place asked for on.
    pub opinions: Vec<Vec<Opinion>>,
    /// Frames that could not be decoded; a worker makes dead letters of them.
    pub rejected: usize,
    /// The first of them, by its place in the stream, and why.
    pub first_rejection: Option<(usize, String)>,
    /// The policy in force at the end.
    pub heads: Arc<HeadSet>,
    /// Alarms, in order.
    pub alarms: Vec<Alarm>,
    /// Seconds spent on learning.
    pub learn_seconds: f64,
    /// The learner's last word.
    pub why: String,
}

impl Outcome {
    /// The frames from a place in the stream on.
    pub(super) fn from(&self, frame: usize) -> &[Played] {
        &self.played[self.played.partition_point(|played| played.frame < frame)..]
    }
}

/// The stream that was played.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) pictures: &'a [Picture],
    /// Which picture was played when.
    pub(super) order: &'a [usize],
    pub(super) truth: &'a [Option<usize>],
    pub(super) shift: Option<Shift>,
    pub(super) outcome: &'a Outcome,
}

impl Scene<'_> {
    /// The first frame that could not be decoded, by its name, and why.
    pub(super) fn first_rejection(&self) -> Option<String> {
        let (frame, why) = self.outcome.first_rejection.as_ref()?;
        let picture = self.order.get(*frame).and_then(|number| self.pictures.get(*number));
        Some(format!("{}: {why}", picture.map_or("a frame", |picture| &picture.name)))
    }
}
