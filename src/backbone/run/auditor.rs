//! The whole backbone with every candidate's features: what a lane audits with.

use super::error::SessionError;
use super::frames::Frames;
use super::probabilities::Probabilities;
use super::runner::{Runner, Source};
use crate::cascade::{AuditOutput, Auditor, EngineError};

/// The whole backbone with the pooled features of every candidate; owned by one lane thread.
#[derive(Debug)]
pub struct Audited {
    /// Class scores first, then features by candidate.
    whole: Runner,
    frames: Frames,
    scores: Probabilities,
}

impl Audited {
    /// `whole` shows the class scores first, then features by candidate.
    pub(crate) fn new(whole: Runner, frames: Frames, scores: Probabilities) -> Self {
        Self { whole, frames, scores }
    }
}

impl Auditor for Audited {
    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.frames.load(rows)
    }

    fn run(&mut self, rows: usize) -> Result<AuditOutput<'_>, EngineError> {
        let failed = |error: SessionError| EngineError { segment: 0, reason: error.to_string() };
        self.whole.run(&Source::Frames(&self.frames.values, 0), rows).map_err(failed)?;
        let scores = self.whole.shown(0).map_err(failed)?;
        let features = (1..self.whole.shown_count()).map(|at| self.whole.shown(at).map_err(failed));
        let features = features.collect::<Result<Vec<&[f32]>, EngineError>>()?;
        Ok(AuditOutput { probabilities: self.scores.fill(scores), features })
    }
}
