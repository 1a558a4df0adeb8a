//! What a lane owns: the backbone cut at some exits, and the whole backbone with every candidate's features.

use std::ops::Range;

use super::blocked::Blocked;
use super::manifest::Scores;
use super::session::{Session, SessionError};
use super::tensor::{Buffer, Feed, Held};
use crate::cascade::{AuditOutput, Auditor, EngineError, Segments, StepOutput};
use crate::plan::ExitId;

/// A loaded graph run on a batch: in parts of as many rows as it takes, or as it runs best. Its outputs are some that are
/// shown as numbers, and in front of them possibly one that is carried on.
#[derive(Debug)]
pub(super) struct Runner {
    session: Session,
    /// Dims of one row of its input.
    dims: Vec<usize>,
    /// Values per row of each shown output.
    widths: Vec<usize>,
    batches: bool,
    /// Most rows in one part.
    most: usize,
    /// What was made last, row by row, where the graph takes no batches; where it does, the session has it.
    by_row: Vec<Vec<Buffer>>,
    /// Shown outputs of several parts, put together.
    gathered: Option<Vec<Vec<f32>>>,
}

/// Where a runner's rows come from, and the first of them.
enum Source<'a> {
    Frames(&'a [f32], usize),
    Before(&'a Runner, usize),
    Held(&'a Held, usize),
}

impl Runner {
    /// `most` rows are run at a time; one, where the graph takes no batches.
    pub(super) fn new(session: Session, dims: Vec<usize>, widths: Vec<usize>, batches: bool, most: usize) -> Self {
        let most = if batches { most.max(1) } else { 1 };
        Self { session, dims, widths, batches, most, by_row: Vec::new(), gathered: None }
    }

    fn row(&self) -> usize {
        self.dims.iter().product()
    }

    fn run(&mut self, source: &Source<'_>, rows: usize) -> Result<(), SessionError> {
        // The old tensors go first, so that the arena can give their memory to the new ones.
        self.by_row.clear();
        if self.batches && rows <= self.most {
            self.gathered = None;
            return self.run_rows(source, 0, rows);
        }
        let mut gathered = self.gathered.take().unwrap_or_default();
        gathered.resize(self.widths.len(), Vec::new());
        gathered.iter_mut().for_each(Vec::clear);
        for first in (0..rows).step_by(self.most) {
            self.run_rows(source, first, self.most.min(rows - first))?;
            for (at, gathered) in gathered.iter_mut().enumerate() {
                gathered.extend_from_slice(self.newest(at)?);
            }
        }
        self.gathered = Some(gathered);
        Ok(())
    }

    fn run_rows(&mut self, source: &Source<'_>, at: usize, rows: usize) -> Result<(), SessionError> {
        let missing = || SessionError::Ort("the segment before has not run on these rows".to_owned());
        let row = self.row();
        let feed = match source {
            Source::Frames(frames, first) => Feed::Frames(frames.get((first + at) * row..).ok_or_else(missing)?),
            Source::Before(before, first) => {
                let (list, from) = before.lies(first + at);
                Feed::Rows(list.first().ok_or_else(missing)?, from * row)
            }
            Source::Held(held, first) => Feed::Held(held, (first + at) * row),
        };
        // Row by row every row's outputs stay until the next batch: none may be written over.
        let made = if self.batches {
            self.session.run_again(&feed, rows, &self.dims)?;
            self.session.made()
        } else {
            self.by_row.push(self.session.run(&feed, rows, &self.dims)?);
            self.by_row.last().map_or(&[][..], Vec::as_slice)
        };
        for (buffer, width) in made.iter().rev().zip(self.widths.iter().rev()) {
            if buffer.shape().first() != Some(&rows) || buffer.shape().iter().product::<usize>() != rows * width {
                return Err(SessionError::Ort(format!("gave {:?} for {rows} rows of {width}", buffer.shape())));
            }
        }
        Ok(())
    }

    /// Where a row of what was made last lies: in these tensors, so many rows behind their beginning.
    fn lies(&self, row: usize) -> (&[Buffer], usize) {
        if self.batches {
            return (self.session.made(), row);
        }
        (self.by_row.get(row).map_or(&[], Vec::as_slice), 0)
    }

    /// Where these rows of what is carried on lie: of a batch in one tensor, else each in its own.
    fn carried(&self, rows: Range<usize>) -> impl Iterator<Item = (&Buffer, Range<usize>)> {
        let step = if self.batches { rows.len().max(1) } else { 1 };
        rows.step_by(step).filter_map(move |first| {
            let (list, from) = self.lies(first);
            Some((list.first()?, from..from + step))
        })
    }

    /// The values of a shown output, `rows x width`.
    fn shown(&self, at: usize) -> Result<&[f32], SessionError> {
        match &self.gathered {
            Some(gathered) => Ok(gathered.get(at).map_or(&[], Vec::as_slice)),
            None => self.newest(at),
        }
    }

    /// The same of the newest part alone.
    fn newest(&self, at: usize) -> Result<&[f32], SessionError> {
        let (list, _) = self.lies(self.by_row.len().saturating_sub(1));
        let first = list.len().saturating_sub(self.widths.len());
        list.get(first + at).map_or(Ok(&[]), Buffer::floats)
    }

    /// Keeps these rows of what is carried on; `row` elements each.
    fn compact(&mut self, row: usize, keep: &[usize]) -> Result<(), SessionError> {
        if self.batches {
            let carried = self.session.made_mut().first_mut();
            return carried.map_or(Ok(()), |buffer| buffer.compact(row, keep));
        }
        let made = self.by_row.len();
        keep.iter().enumerate().filter(|(_, from)| **from < made).for_each(|(to, &from)| self.by_row.swap(to, from));
        Ok(())
    }
}

/// Rows that wait between two segments: those of the newest run where it made them, older ones put together in front.
#[derive(Debug, Default)]
pub(super) struct Queue {
    held: Held,
    held_rows: usize,
    /// Rows of the newest run that have not been held.
    here: usize,
    /// How many of those in front, held ones if there are any, have gone on.
    gone: usize,
}

impl Queue {
    /// Puts what still lies where the segment before made it, `row` elements each, behind what is held: that place is needed.
    fn hold(&mut self, before: &Runner, row: usize) -> Result<(), SessionError> {
        let gone = std::mem::take(&mut self.gone);
        let skipped = if self.held_rows > 0 { 0 } else { gone };
        self.held.drop_front((gone - skipped) * row);
        self.held_rows -= gone - skipped;
        let rows = std::mem::take(&mut self.here) - skipped;
        for (buffer, rows) in before.carried(skipped..skipped + rows) {
            self.held.append(buffer, rows.start * row, rows.len() * row)?;
        }
        self.held_rows += rows;
        Ok(())
    }

    /// Whether the first `rows` lie in one place.
    fn in_one_place(&self, rows: usize) -> bool {
        self.held_rows == 0 || rows <= self.held_rows - self.gone
    }

    /// Where the first rows are, if they are not with the segment before.
    fn front<'a>(&'a self, before: &'a Runner) -> Source<'a> {
        if self.held_rows > 0 { Source::Held(&self.held, self.gone) } else { Source::Before(before, self.gone) }
    }

    /// Takes the first `rows` out, which lie in one place.
    fn take(&mut self, rows: usize, row: usize) {
        self.gone += rows;
        if self.held_rows > 0 && self.gone == self.held_rows {
            self.held.drop_front(self.gone * row);
            (self.held_rows, self.gone) = (0, 0);
        } else if self.held_rows == 0 && self.gone == self.here {
            (self.here, self.gone) = (0, 0);
        }
    }

    fn rows(&self) -> usize {
        self.held_rows + self.here - self.gone
    }
}

/// One segment.
#[derive(Debug)]
pub(super) struct Stage {
    runner: Runner,
    /// What its features are pooled by, if not by its graph; and those of the newest run.
    pooled: Option<(Blocked, Vec<f32>)>,
    /// How many rows it runs best.
    best: usize,
}

/// What a segment shows.
pub(super) enum Shown {
    /// An output of its graph, values a row.
    Width(usize),
    /// What is pooled of the tensor that it carries on.
    Pooled(Blocked),
}

impl Stage {
    /// A segment that gives the carried tensor first (unless it is the last), then what is shown, if that is an output.
    pub(super) fn new(session: Session, dims: Vec<usize>, shown: Shown, batches: bool, best: usize) -> Self {
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
    pub(super) exits: Vec<ExitId>,
    pub(super) stages: Vec<Stage>,
    /// Behind each stage but the last.
    pub(super) queues: Vec<Queue>,
    pub(super) frames: Frames,
    pub(super) scores: Probabilities,
}

/// The whole backbone with the pooled features of every candidate; owned by one lane thread.
#[derive(Debug)]
pub struct Audited {
    /// Class scores first, then features by candidate.
    pub(super) whole: Runner,
    pub(super) frames: Frames,
    pub(super) scores: Probabilities,
}

/// The input buffer; grows to the largest batch and stays.
#[derive(Debug)]
pub(super) struct Frames {
    values: Vec<f32>,
    row: usize,
    /// Rows that have run.
    gone: usize,
}

impl Frames {
    pub(super) fn new(row: usize) -> Self {
        Self { values: Vec::new(), row, gone: 0 }
    }

    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.gone = 0;
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
    for value in row {
        *value /= sum;
    }
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

impl Auditor for Audited {
    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.frames.load(rows)
    }

    fn run(&mut self, rows: usize) -> Result<AuditOutput<'_>, EngineError> {
        let failed = |error: SessionError| EngineError { segment: 0, reason: error.to_string() };
        self.whole.run(&Source::Frames(&self.frames.values, 0), rows).map_err(failed)?;
        let scores = self.whole.shown(0).map_err(failed)?;
        let features = (1..self.whole.widths.len()).map(|at| self.whole.shown(at).map_err(failed));
        let features = features.collect::<Result<Vec<&[f32]>, EngineError>>()?;
        Ok(AuditOutput { probabilities: self.scores.fill(scores), features })
    }
}
