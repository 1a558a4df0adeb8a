//! The backbone cut at some exits: what a lane serves with.

use super::blocked_layout::Blocked;
use super::error::SessionError;
use super::frames::Frames;
use super::probabilities::Probabilities;
use super::queue::Queue;
use super::runner::{Runner, Source};
use super::session::Session;
use crate::cascade::{EngineError, Segments, StepOutput};
use crate::plan::ExitId;

/// One segment.
#[derive(Debug)]
pub(crate) struct Stage {
    runner: Runner,
    /// What its features are pooled by, if not by its graph; and those of the newest run.
    pooled: Option<(Blocked, Vec<f32>)>,
    /// How many rows it runs best.
    best: usize,
}

/// What a segment shows.
pub(crate) enum Shown {
    /// An output of its graph, values a row.
    Width(usize),
    /// What is pooled of the tensor that it carries on.
    Pooled(Blocked),
}

impl Stage {
    /// A segment that gives the carried tensor first (unless it is the last), then what is shown, if that is an output.
    pub(crate) fn new(session: Session, dims: Vec<usize>, shown: Shown, batches: bool, best: usize) -> Self {
        let (widths, pooled) = match shown {
            Shown::Width(width) => (vec![width], None),
            Shown::Pooled(layout) => (Vec::new(), Some((layout, Vec::new()))),
        };
        Self { runner: Runner::new(session, dims, widths, batches, usize::MAX), pooled, best }
    }

    /// What is shown of the rows that have just run.
    fn shown(&mut self, rows: usize) -> Result<&[f32], SessionError> {
        let Some((layout, features)) = &mut self.pooled else { return self.runner.shown(0) };
        features.clear();
        let row = layout.row();
        for (buffer, rows) in self.runner.carried(0..rows) {
            let frames = buffer.floats()?.chunks_exact(row);
            frames.take(rows.end).skip(rows.start).for_each(|frame| layout.pool(frame, features));
        }
        Ok(features)
    }
}

/// The backbone cut at some exits; owned by one lane thread.
#[derive(Debug)]
pub struct Chain {
    exits: Vec<ExitId>,
    stages: Vec<Stage>,
    /// Behind each stage but the last.
    queues: Vec<Queue>,
    frames: Frames,
    scores: Probabilities,
}

impl Segments for Chain {
    fn exits(&self) -> &[ExitId] {
        &self.exits
    }

    fn best_rows(&self, segment: usize) -> usize {
        self.stages.get(segment).map_or(usize::MAX, |stage| stage.best)
    }

    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.frames.load(rows)
    }

    fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError> {
        let failed = |error: SessionError| EngineError { segment, reason: error.to_string() };
        let missing = || EngineError { segment, reason: "there is no such segment, or fewer rows wait for it".into() };
        // What this segment made before and nobody has taken yet must make room; and its input must lie in one place.
        self.hold(segment).map_err(failed)?;
        if let Some(before) = segment.checked_sub(1)
            && self.queues.get(before).is_some_and(|queue| !queue.in_one_place(rows))
        {
            self.hold(before).map_err(failed)?;
        }
        let (stages, rest) = self.stages.split_at_mut_checked(segment).ok_or_else(missing)?;
        let last = rest.len() == 1;
        let stage = rest.first_mut().ok_or_else(missing)?;
        let runner = &mut stage.runner;
        let (queue, behind) = self.queues.split_at_mut_checked(segment).ok_or_else(missing)?;
        match (stages.last(), queue.last_mut()) {
            (Some(before), Some(queue)) if queue.rows() >= rows => {
                runner.run(&queue.front(&before.runner), rows).map_err(failed)?;
                queue.take(rows, runner.row());
            }
            (None, None) => {
                runner.run(&Source::Frames(&self.frames.values, self.frames.gone), rows).map_err(failed)?;
                self.frames.gone += rows;
            }
            _ => return Err(missing()),
        }
        if let Some(behind) = behind.first_mut() {
            behind.here = rows;
        }
        let shown = stage.shown(rows).map_err(failed)?;
        Ok(if last { StepOutput::Probabilities(self.scores.fill(shown)) } else { StepOutput::Features(shown) })
    }

    fn compact(&mut self, segment: usize, keep: &[usize]) {
        let row = self.stages.get(segment + 1).map(|next| next.runner.row());
        if let (Some(stage), Some(queue), Some(row)) = (self.stages.get_mut(segment), self.queues.get_mut(segment), row)
        {
            queue.here = keep.len();
            if let Err(error) = stage.runner.compact(row, keep) {
                // Types were proved when the chain was made; should it happen all the same, the next run must fail and not
                // go on with the wrong rows.
                tracing::error!(segment, %error, "rows cannot be compacted");
                *queue = Queue::default();
            }
        }
    }
}

impl Chain {
    /// One stage more than exits.
    pub(crate) fn new(exits: &[ExitId], stages: Vec<Stage>, frames: Frames, scores: Probabilities) -> Self {
        let queues = exits.iter().map(|_| Queue::default()).collect();
        Self { exits: exits.to_vec(), stages, queues, frames, scores }
    }

    /// Moves rows that wait where segment `segment` made them to a place of their own.
    fn hold(&mut self, segment: usize) -> Result<(), SessionError> {
        let row = self.stages.get(segment + 1).map(|next| next.runner.row());
        let (stage, queue) = (self.stages.get(segment), self.queues.get_mut(segment));
        if let (Some(Stage { runner, .. }), Some(queue), Some(row)) = (stage, queue, row)
            && queue.here > 0
        {
            queue.hold(runner, row)?;
        }
        Ok(())
    }
}
