//! What a lane owns: the backbone cut at some exits, and the whole backbone with every candidate's features.

use super::manifest::Scores;
use super::session::{Buffer, Feed, Session, SessionError};
use crate::cascade::{AuditOutput, Auditor, EngineError, Segments, StepOutput};
use crate::plan::ExitId;

/// One segment loaded, and what it made last.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) session: Session,
    /// Dims of one row of its input.
    pub(super) dims: Vec<usize>,
    /// The tensor for the next segment; none after the last.
    pub(super) carried: Option<Buffer>,
    /// Features, or class scores after the last segment.
    pub(super) shown: Option<Buffer>,
    /// Values per row of what is shown.
    pub(super) width: usize,
}

impl Stage {
    /// A segment with nothing made yet. It gives the carried tensor first (unless `width` is of scores), then what is shown.
    pub(super) fn new(session: Session, dims: Vec<usize>, width: usize) -> Self {
        Self { session, dims, carried: None, shown: None, width }
    }

    fn run(&mut self, feed: &Feed<'_>, rows: usize) -> Result<(), SessionError> {
        // The old tensors go first, so that the arena can give their memory to the new ones.
        (self.carried, self.shown) = (None, None);
        let mut made = self.session.run(feed, rows, &self.dims)?;
        self.shown = made.pop();
        self.carried = made.pop();
        let shape = self.shown.as_ref().map_or(&[][..], Buffer::shape);
        if shape.first() != Some(&rows) || shape.iter().product::<usize>() != rows * self.width {
            return Err(SessionError::Ort(format!("gave {shape:?} for {rows} rows of {}", self.width)));
        }
        Ok(())
    }

    fn shown(&self) -> Result<&[f32], SessionError> {
        self.shown.as_ref().map_or(Ok(&[]), Buffer::floats)
    }
}

/// The backbone cut at some exits; owned by one lane thread.
#[derive(Debug)]
pub struct Chain {
    pub(super) exits: Vec<ExitId>,
    pub(super) stages: Vec<Stage>,
    pub(super) frames: Frames,
    pub(super) scores: Probabilities,
}

/// The whole backbone with the pooled features of every candidate; owned by one lane thread.
#[derive(Debug)]
pub struct Audited {
    pub(super) session: Session,
    pub(super) dims: Vec<usize>,
    /// Class scores first, then features by candidate.
    pub(super) made: Vec<Buffer>,
    pub(super) frames: Frames,
    pub(super) scores: Probabilities,
}

/// The input buffer; grows to the largest batch and stays.
#[derive(Debug)]
pub(super) struct Frames {
    values: Vec<f32>,
    row: usize,
}

impl Frames {
    pub(super) fn new(row: usize) -> Self {
        Self { values: Vec::new(), row }
    }

    fn load(&mut self, rows: usize) -> &mut [f32] {
        let length = rows * self.row;
        if self.values.len() < length {
            self.values.resize(length, 0.0);
        }
        self.values.get_mut(..length).unwrap_or_default()
    }
}

/// Class scores turned into probabilities, in a buffer that stays.
#[derive(Debug)]
pub(super) struct Probabilities {
    values: Vec<f32>,
    classes: usize,
    meaning: Scores,
}

impl Probabilities {
    pub(super) fn new(classes: usize, meaning: Scores) -> Self {
        Self { values: Vec::new(), classes, meaning }
    }

    fn fill(&mut self, scores: &[f32]) -> &[f32] {
        self.values.clear();
        self.values.extend_from_slice(scores);
        if self.meaning == Scores::Logits {
            self.values.chunks_exact_mut(self.classes.max(1)).for_each(softmax);
        }
        &self.values
    }
}

/// NaN among the scores makes the whole row NaN: such a row is sure of nothing.
fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    row.iter_mut().for_each(|value| *value /= sum);
}

impl Segments for Chain {
    fn exits(&self) -> &[ExitId] {
        &self.exits
    }

    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.frames.load(rows)
    }

    fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError> {
        let failed = |error: SessionError| EngineError { segment, reason: error.to_string() };
        let missing = || EngineError { segment, reason: "there is no such segment, or the one before has not run".into() };
        let (before, rest) = self.stages.split_at_mut_checked(segment).ok_or_else(missing)?;
        let last = rest.len() == 1;
        let stage = rest.first_mut().ok_or_else(missing)?;
        let feed = match before.last() {
            None => Feed::Frames(&self.frames.values),
            Some(stage) => Feed::Rows(stage.carried.as_ref().ok_or_else(missing)?),
        };
        stage.run(&feed, rows).map_err(failed)?;
        let shown = stage.shown().map_err(failed)?;
        Ok(if last { StepOutput::Probabilities(self.scores.fill(shown)) } else { StepOutput::Features(shown) })
    }

    fn compact(&mut self, segment: usize, keep: &[usize]) {
        let row = self.stages.get(segment + 1).map(|next| next.dims.iter().product::<usize>());
        let carried = self.stages.get_mut(segment).and_then(|stage| stage.carried.as_mut());
        if let Some((buffer, row)) = carried.zip(row)
            && let Err(error) = buffer.compact(row, keep)
        {
            // Types were proved when the chain was made; should it happen all the same, the next run must not go on
            // with the wrong rows.
            tracing::error!(segment, %error, "rows cannot be compacted");
            if let Some(stage) = self.stages.get_mut(segment) {
                stage.carried = None;
            }
        }
    }
}

impl Auditor for Audited {
    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.frames.load(rows)
    }

    fn run(&mut self, rows: usize) -> Result<AuditOutput<'_>, EngineError> {
        let failed = |error: SessionError| EngineError { segment: 0, reason: error.to_string() };
        self.made.clear();
        self.made = self.session.run(&Feed::Frames(&self.frames.values), rows, &self.dims).map_err(failed)?;
        let mut made = self.made.iter().map(|buffer| buffer.floats().map_err(failed));
        let scores = made.next().unwrap_or(Ok(&[]))?;
        let features = made.collect::<Result<Vec<&[f32]>, EngineError>>()?;
        Ok(AuditOutput { probabilities: self.scores.fill(scores), features })
    }
}
