//! 4 · Segments, exits and compaction: one batch through the backbone, each row leaving where it may.
//!
//! Knows neither Kafka nor ONNX Runtime: it drives anything that implements [`Segments`] and [`Auditor`].

use std::collections::VecDeque;

use crate::heads::{Confidence, HeadSet, Scratch, Verdict};
use crate::plan::ExitId;

/// A backbone cut at some exits. It owns the buffers between its segments, so rows never leave it while they travel.
///
/// Every segment has a queue of rows. `load` fills the first one's; `run` takes rows from the front of a segment's queue and
/// puts what it made of them behind the rows that wait for the next; `compact` takes the rows that left out again. Rows are
/// independent: a row among others gives what the row alone gives.
pub trait Segments {
    /// The exits at which it is cut, by depth. There is one more segment than exits.
    fn exits(&self) -> &[ExitId];

    /// How many rows a segment runs at the least time each: a few cost more than many, and more than fit the caches do too.
    fn best_rows(&self, segment: usize) -> usize;

    /// The input buffer for up to `rows` frames, `rows * InputSpec::len()` values, to be filled by the caller. What was loaded
    /// before and has not run is forgotten.
    fn load(&mut self, rows: usize) -> &mut [f32];

    /// Runs one segment on the first `rows` rows that wait for it; what it makes waits inside for the next segment.
    ///
    /// # Errors
    /// When the runtime fails or fewer rows wait: an outage of this lane, never the frame's fault.
    fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError>;

    /// Keeps only the rows `keep` (strictly ascending positions) of what the last run of `segment` made.
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

/// One row's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Index in the backbone's output.
    pub class: usize,
    /// Probability given by the head or model that answered.
    pub confidence: f32,
    /// Where the row left; none: the full model answered.
    pub exit: Option<ExitId>,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// It has an answer.
    Answered(Answer),
    /// The model gave NaN or infinity for it: no answer is better than a random one.
    NotFinite,
}

/// Is told what becomes of rows. A closure `(row, fate)` is one that cares for fates alone.
pub trait Fates<T> {
    /// The first exit's confidence in its own answer to a row, whether the row then leaves there or not.
    fn judged(&mut self, _row: &T, _confidence: Confidence) {}

    /// A row has left; called the moment it does, not when its batch ends.
    fn left(&mut self, row: T, fate: Fate);
}

impl<T, F: FnMut(T, Fate)> Fates<T> for F {
    fn left(&mut self, row: T, fate: Fate) {
        self(row, fate);
    }
}

/// What rows pass through.
#[derive(Debug)]
pub struct Pass<'a, S> {
    /// The backbone, cut at the exits of `heads`; cut anyhow, where `heads` has none.
    pub segments: &'a mut S,
    /// The exits. Without any no row leaves early, so that exits can be switched off before the backbone is cut anew.
    pub heads: &'a HeadSet,
    /// Working memory of the heads.
    pub scratch: &'a mut Scratch,
}

/// What runs next where so many rows wait for each segment: which, and on how many of them. Of the segments that have as many
/// as they run best, the deepest, so that rows go on while the caches still hold them; else the first of those that `must` not
/// wait for more and have any.
pub fn due(
    waiting: impl ExactSizeIterator<Item = usize> + DoubleEndedIterator + Clone,
    best: impl Fn(usize) -> usize,
    must: impl Fn(usize) -> bool,
) -> Option<(usize, usize)> {
    let best = |segment: usize| best(segment).max(1);
    let mut waiting = waiting.enumerate();
    let full = waiting.clone().rev().find(|(segment, rows)| *rows >= best(*segment));
    let (segment, rows) = full.or_else(|| waiting.find(|(segment, rows)| *rows > 0 && must(*segment)))?;
    Some((segment, rows.min(best(segment))))
}

/// Brings `rows` loaded rows to the end, past every exit; `run` is told which segment to run on how many of them.
///
/// # Errors
/// Those of `run`.
pub fn through<S: Segments, E>(
    segments: &mut S,
    rows: usize,
    mut run: impl FnMut(&mut S, usize, usize) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = vec![0; segments.exits().len() + 1];
    waiting[0] = rows;
    while let Some((segment, rows)) = due(waiting.iter().copied(), |at| segments.best_rows(at), |_| true) {
        run(segments, segment, rows)?;
        waiting[segment] -= rows;
        if let Some(next) = waiting.get_mut(segment + 1) {
            *next += rows;
        }
    }
    Ok(())
}

/// Most batches that overtake a waiting row, unless told otherwise.
pub const OVERTAKEN_MAX: usize = 16;

/// The rows on their way through a cut backbone: which of them wait for which segment. `T` is what the caller knows a row by.
///
/// Behind an exit few rows are left, and a few rows cost more each than many. So while more frames are coming anyway, rows
/// wait for a segment until enough of them are together.
#[derive(Debug)]
pub struct Cascade<T> {
    /// By segment, in the order of the rows in its queue: each with the number of its batch.
    waiting: Vec<VecDeque<(u64, T)>>,
    /// Batches that have begun.
    batches: u64,
    /// Most rows in one run.
    rows_max: usize,
    /// Most batches that overtake a row.
    overtaken_max: usize,
    keep: Vec<usize>,
}

impl<T> Cascade<T> {
    /// A cascade that runs at most `rows_max` rows at a time, in which at most `overtaken_max` batches overtake a waiting row;
    /// 0: no row waits.
    #[must_use]
    pub fn new(rows_max: usize, overtaken_max: usize) -> Self {
        Self { waiting: Vec::new(), batches: 0, rows_max, overtaken_max, keep: Vec::new() }
    }

    /// Whether no row is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Sends loaded rows on their way: each leaves at the first exit that is sure, the rest are answered by the full model.
    /// Every segment runs as many rows at a time as it runs best. With `wait`, segments after the first wait for so many,
    /// until a row has been overtaken often enough; without it nothing is left waiting, as before the backbone is cut anew.
    ///
    /// # Errors
    /// When the runtime fails; rows not yet answered then stay unanswered.
    ///
    /// # Panics
    /// When the heads have exits and the cascade is cut at others, or rows wait from an earlier cut: the worker swaps both
    /// together, when no row waits.
    pub fn serve<S: Segments>(
        &mut self,
        pass: &mut Pass<'_, S>,
        rows: impl IntoIterator<Item = T>,
        wait: bool,
        fates: &mut impl Fates<T>,
    ) -> Result<(), EngineError> {
        let (cut, exits) = (pass.segments.exits(), pass.heads.exits());
        assert!(exits.is_empty() || cut == exits, "segments are cut where the policy has its exits");
        let queues = cut.len() + 1;
        assert!(self.waiting.len() == queues || self.is_empty(), "a cut is changed when no row waits");
        self.waiting.resize_with(queues, VecDeque::new);
        self.batches += 1;
        self.waiting[0].extend(rows.into_iter().map(|row| (self.batches, row)));
        // Without exits all rows stay together and a batch goes on at once.
        let wait = wait && !exits.is_empty();
        while let Some((segment, count)) = self.due(pass.segments, wait) {
            self.run(pass, segment, count, fates)?;
        }
        Ok(())
    }

    fn due<S: Segments>(&self, segments: &S, wait: bool) -> Option<(usize, usize)> {
        let best = |segment: usize| segments.best_rows(segment).min(self.rows_max);
        // The oldest row of each queue is its first.
        let overtaken = |segment: usize| {
            let oldest = self.waiting[segment].front().map_or(self.batches, |(batch, _)| *batch);
            self.batches - oldest >= self.overtaken_max as u64
        };
        due(self.waiting.iter().map(VecDeque::len), best, |segment| segment == 0 || !wait || overtaken(segment))
    }

    fn run<S: Segments>(
        &mut self,
        pass: &mut Pass<'_, S>,
        segment: usize,
        count: usize,
        fates: &mut impl Fates<T>,
    ) -> Result<(), EngineError> {
        let Pass { segments, heads, scratch } = pass;
        let (before, behind) = self.waiting.split_at_mut(segment + 1);
        let Some(queue) = before.last_mut() else { return Ok(()) };
        let mut rows = queue.drain(..count);
        match (segments.run(segment, count)?, behind.first_mut()) {
            (StepOutput::Probabilities(all), _) => {
                for (position, (_, row)) in rows.enumerate() {
                    fates.left(row, full_model(row_of(all, position, count)));
                }
            }
            // Without exits all that the segment made waits for the next one as it is.
            (StepOutput::Features(_), Some(next)) if heads.exits().is_empty() => next.extend(rows),
            (StepOutput::Features(all), Some(next)) => {
                self.keep.clear();
                heads.decide_rows(segment, count, all, scratch, |position, decision| {
                    let Some((batch, row)) = rows.next() else { return };
                    if segment == 0 {
                        fates.judged(&row, decision.verdict.confidence);
                    }
                    if decision.leaves {
                        let Verdict { class, confidence } = decision.verdict;
                        let exit = Some(heads.exits()[segment]);
                        fates.left(row, Fate::Answered(Answer { class, confidence: confidence.get(), exit }));
                    } else {
                        self.keep.push(position);
                        next.push_back((batch, row));
                    }
                });
                segments.compact(segment, &self.keep);
            }
            (StepOutput::Features(_), None) => {
                return Err(EngineError { segment, reason: "the last segment gave no class scores".into() });
            }
        }
        Ok(())
    }
}

/// What an audited row shows: the full model's answer, every exit's features, and where it would have left.
#[derive(Debug)]
pub struct Audit<'a> {
    /// The full model's answer.
    pub fate: Fate,
    /// The full model's class probabilities.
    pub probabilities: &'a [f32],
    /// Pooled features per candidate, by depth.
    pub features: Vec<&'a [f32]>,
    /// The exit that would have answered and its class; none: the full model.
    pub early: Option<(ExitId, usize)>,
}

impl Audit<'_> {
    /// The first exit's confidence in its own answer; none without exits.
    #[must_use]
    pub fn judged(&self, heads: &HeadSet, scratch: &mut Scratch) -> Option<Confidence> {
        let features = self.features.get(heads.exits().first()?.index())?;
        Some(heads.decide(0, features, scratch).verdict.confidence)
    }
}

/// Runs `rows` loaded rows to the end and records row by row what the exits would have said. `record` is also lent the working
/// memory, to ask the heads more.
///
/// # Errors
/// When the runtime fails.
pub fn audit<A: Auditor>(
    auditor: &mut A,
    heads: &HeadSet,
    rows: usize,
    scratch: &mut Scratch,
    mut record: impl FnMut(usize, &Audit<'_>, &mut Scratch),
) -> Result<(), EngineError> {
    let output = auditor.run(rows)?;
    for row in 0..rows {
        let probabilities = row_of(output.probabilities, row, rows);
        let features: Vec<&[f32]> = output.features.iter().map(|all| row_of(all, row, rows)).collect();
        let early = heads.path(&features, scratch).map(|answer| (answer.exit, answer.class));
        record(row, &Audit { fate: full_model(probabilities), probabilities, features, early }, scratch);
    }
    Ok(())
}

fn row_of(all: &[f32], row: usize, rows: usize) -> &[f32] {
    let width = all.len() / rows;
    &all[row * width..(row + 1) * width]
}

/// The full model's answer: its most probable class.
fn full_model(probabilities: &[f32]) -> Fate {
    match top(probabilities) {
        Some((class, confidence)) if probabilities.iter().all(|p| p.is_finite()) => {
            Fate::Answered(Answer { class, confidence, exit: None })
        }
        _ => Fate::NotFinite,
    }
}

/// The most probable class with its probability; of several, as coarse number types make them, the first, as samples have it.
#[must_use]
pub fn top(probabilities: &[f32]) -> Option<(usize, f32)> {
    let higher = |top: Option<(usize, f32)>, (class, probability): (usize, f32)| match top {
        Some((_, highest)) if probability <= highest => top,
        _ => Some((class, probability)),
    };
    probabilities.iter().copied().enumerate().fold(None, higher)
}

#[cfg(test)]
pub(crate) mod tests;
