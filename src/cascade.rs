//! 4 · Segments, exits and compaction: one batch through the backbone, each row leaving where it may.
//!
//! Knows neither Kafka nor ONNX Runtime: it drives anything that implements [`Segments`] and [`Auditor`].

use crate::heads::{HeadSet, Scratch, Suspicion, Verdict};
use crate::plan::ExitId;

/// A backbone cut at some exits. It owns the buffers between its segments, so rows never leave it while they travel.
///
/// Every segment has a queue of rows. `load` fills the first one's; `run` empties a segment's queue and puts what it made
/// behind the rows that wait for the next; `compact` takes the rows that left out again. Rows are independent: a row among
/// others gives what the row alone gives.
pub trait Segments {
    /// The exits at which it is cut, by depth. There is one more segment than exits.
    fn exits(&self) -> &[ExitId];

    /// The input buffer for `rows` frames, `rows * InputSpec::len()` values, to be filled by the caller.
    fn load(&mut self, rows: usize) -> &mut [f32];

    /// Runs one segment on the `rows` rows that wait for it; what it makes waits inside for the next segment.
    ///
    /// # Errors
    /// When the runtime fails or other rows wait: an outage of this lane, never the frame's fault.
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

/// What a lane keeps between batches: working memory of the heads, and its watch on the first exit.
#[derive(Debug)]
pub struct Mind {
    /// Working memory of head evaluations.
    pub scratch: Scratch,
    /// Compares the first exit's confidences with those at certification: sees every frame, proves nothing.
    pub suspicion: Suspicion,
}

/// What rows pass through.
#[derive(Debug)]
pub struct Pass<'a, S> {
    /// The backbone, cut at the exits of `heads`; cut anyhow, where `heads` has none.
    pub segments: &'a mut S,
    /// Who lets rows out. Without exits nobody leaves, so that exits can be switched off before the backbone is cut anew.
    pub heads: &'a HeadSet,
    /// Working memory.
    pub mind: &'a mut Mind,
}

/// Most batches that overtake a waiting row, unless told otherwise.
pub const OVERTAKEN_MAX: usize = 8;

/// The rows on their way through a cut backbone: who waits for which segment. `T` is what the caller knows a row by.
///
/// Behind an exit few rows are left, and a few rows cost more each than many. So while more frames are waiting anyway, rows
/// wait for a segment until enough of them are together.
#[derive(Debug)]
pub struct Cascade<T> {
    /// By segment, in the order of the rows in its queue.
    waiting: Vec<Vec<T>>,
    /// Batches that began since a row first waited.
    overtaken: usize,
    overtaken_max: usize,
    keep: Vec<usize>,
}

impl<T> Cascade<T> {
    /// A cascade in which at most `overtaken_max` batches overtake a waiting row; 0: no row waits.
    #[must_use]
    pub fn new(overtaken_max: usize) -> Self {
        Self { waiting: Vec::new(), overtaken: 0, overtaken_max, keep: Vec::new() }
    }

    /// Whether no row is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(Vec::is_empty)
    }

    /// Sends loaded rows on their way: each leaves at the first exit that is sure, the rest are answered by the full model.
    /// Segments after the first run when at least `enough` rows wait for them, or when some have been overtaken often
    /// enough. With `enough` at 1 nothing is left waiting: without new rows too, as before the backbone is cut anew.
    ///
    /// `answer` is called the moment a row leaves, not when its batch ends.
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
        enough: usize,
        mut answer: impl FnMut(T, Fate),
    ) -> Result<(), EngineError> {
        let (cut, exits) = (pass.segments.exits(), pass.heads.exits());
        assert!(exits.is_empty() || cut == exits, "segments are cut where the policy has its exits");
        let queues = cut.len() + 1;
        assert!(self.waiting.len() == queues || self.is_empty(), "a cut is changed when no row waits");
        self.waiting.resize_with(queues, Vec::new);
        self.waiting[0].extend(rows);
        // Where nobody leaves a batch stays whole: there is no company to wait for.
        let enough = if self.overtaken < self.overtaken_max && !exits.is_empty() { enough } else { 1 };
        for segment in 0..self.waiting.len() {
            let least = if segment == 0 { 1 } else { enough.max(1) };
            if self.waiting[segment].len() >= least {
                self.run(pass, segment, &mut answer)?;
            }
        }
        self.overtaken = if self.is_empty() { 0 } else { self.overtaken + 1 };
        Ok(())
    }

    fn run<S: Segments>(
        &mut self,
        pass: &mut Pass<'_, S>,
        segment: usize,
        answer: &mut impl FnMut(T, Fate),
    ) -> Result<(), EngineError> {
        let Pass { segments, heads, mind } = pass;
        let mut rows = std::mem::take(&mut self.waiting[segment]);
        let count = rows.len();
        match (segments.run(segment, count)?, self.waiting.get_mut(segment + 1)) {
            (StepOutput::Probabilities(all), _) => {
                for (position, row) in rows.drain(..).enumerate() {
                    answer(row, full_model(row_of(all, position, count)));
                }
            }
            // Nobody leaves: all that the segment made waits for the next as it is.
            (StepOutput::Features(_), Some(next)) if heads.exits().is_empty() => next.append(&mut rows),
            (StepOutput::Features(all), Some(next)) => {
                let Mind { scratch, suspicion } = &mut **mind;
                let mut leaving = rows.drain(..);
                self.keep.clear();
                heads.decide_rows(segment, count, all, scratch, |position, decision| {
                    if let (0, Some(reference)) = (segment, heads.reference()) {
                        suspicion.observe(heads.version(), reference, decision.verdict.confidence);
                    }
                    let Some(row) = leaving.next() else { return };
                    if decision.leaves {
                        let Verdict { class, confidence } = decision.verdict;
                        let exit = Some(heads.exits()[segment]);
                        answer(row, Fate::Answered(Answer { class, confidence: confidence.get(), exit }));
                    } else {
                        self.keep.push(position);
                        next.push(row);
                    }
                });
                drop(leaving);
                segments.compact(segment, &self.keep);
            }
            (StepOutput::Features(_), None) => {
                return Err(EngineError { segment, reason: "the last segment gave no class scores".into() });
            }
        }
        // Empty by now; its memory is used again.
        self.waiting[segment] = rows;
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

/// Runs `rows` loaded rows to the end and records row by row what the exits would have said. `watch` sees the first exit's
/// confidences; copies of frames are not for it.
///
/// # Errors
/// When the runtime fails.
pub fn audit<A: Auditor>(
    auditor: &mut A,
    heads: &HeadSet,
    rows: usize,
    scratch: &mut Scratch,
    mut watch: Option<&mut Suspicion>,
    mut record: impl FnMut(usize, &Audit<'_>),
) -> Result<(), EngineError> {
    let output = auditor.run(rows)?;
    for row in 0..rows {
        let probabilities = row_of(output.probabilities, row, rows);
        let features: Vec<&[f32]> = output.features.iter().map(|all| row_of(all, row, rows)).collect();
        if let (Some(watch), Some(reference), Some(exit)) = (&mut watch, heads.reference(), heads.exits().first()) {
            let first = heads.decide(0, features.get(exit.index()).copied().unwrap_or_default(), scratch);
            watch.observe(heads.version(), reference, first.verdict.confidence);
        }
        let early = heads.path(&features, scratch).map(|answer| (answer.exit, answer.class));
        record(row, &Audit { fate: full_model(probabilities), probabilities, features, early });
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
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::heads::head::tests::some_head;
    use crate::heads::set::SetExit;
    use crate::heads::set::tests::some_policy;
    use crate::heads::{Head, Policy, Threshold};

    pub(crate) const WIDTH: usize = 6;
    pub(crate) const CLASSES: usize = 3;

    /// A backbone whose segments pass each row on and show it as features: what a row gives depends on the row alone.
    #[derive(Debug, Default)]
    pub(crate) struct Echo {
        exits: Vec<ExitId>,
        /// Rows that wait, by segment.
        queues: Vec<Vec<f32>>,
        /// Rows of the last run.
        made: Vec<f32>,
        scores: Vec<f32>,
    }

    impl Echo {
        pub(crate) fn cut_at(exits: &[ExitId]) -> Self {
            Self { exits: exits.to_vec(), ..Self::default() }
        }
    }

    impl Segments for Echo {
        fn exits(&self) -> &[ExitId] {
            &self.exits
        }

        fn load(&mut self, rows: usize) -> &mut [f32] {
            self.queues.resize(self.exits.len() + 1, Vec::new());
            self.queues[0].resize(rows * WIDTH, 0.0);
            &mut self.queues[0]
        }

        fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError> {
            self.made = std::mem::take(&mut self.queues[segment]);
            // A lane asks for room for a whole batch before it knows how many rows can be decoded.
            self.made.truncate(if segment == 0 { rows * WIDTH } else { usize::MAX });
            assert_eq!(self.made.len(), rows * WIDTH, "all that wait are run");
            if let Some(next) = self.queues.get_mut(segment + 1) {
                next.extend(&self.made);
                return Ok(StepOutput::Features(&self.made));
            }
            self.made = self.made.chunks_exact(WIDTH).flat_map(|row| [row[0], row[1], row[2]]).collect();
            Ok(StepOutput::Probabilities(&self.made))
        }

        fn compact(&mut self, segment: usize, keep: &[usize]) {
            let next = &mut self.queues[segment + 1];
            next.truncate(next.len() - self.made.len());
            keep.iter().for_each(|row| next.extend(&self.made[row * WIDTH..(row + 1) * WIDTH]));
        }
    }

    impl Auditor for Echo {
        fn load(&mut self, rows: usize) -> &mut [f32] {
            Segments::load(self, rows)
        }

        fn run(&mut self, rows: usize) -> Result<AuditOutput<'_>, EngineError> {
            self.made.clear();
            self.made.extend(&self.queues[0][..rows * WIDTH]);
            let scores = |row: &[f32]| [row[0], row[1], row[2]];
            self.scores = self.made.chunks_exact(WIDTH).flat_map(scores).collect();
            Ok(AuditOutput { probabilities: &self.scores, features: vec![&self.made; self.exits.len()] })
        }
    }

    pub(crate) fn heads(thresholds: &[f32]) -> HeadSet {
        heads_with(thresholds, &some_policy())
    }

    pub(crate) fn heads_with(thresholds: &[f32], policy: &Policy) -> HeadSet {
        let exits = thresholds.iter().zip(1_u8..).map(|(threshold, exit)| SetExit {
            head: Arc::new(Head::new(some_head(exit, 1, WIDTH, vec![0, 1, 2], false), WIDTH, CLASSES).expect("valid")),
            threshold: Threshold::new(*threshold).expect("in range"),
        });
        HeadSet::new(1, exits.collect(), policy)
    }

    /// Serves `rows` in batches of `batch`, each row known by its number; its fate by number.
    fn play(heads: &HeadSet, rows: &[[f32; WIDTH]], batch: usize, enough: usize) -> Vec<Option<Fate>> {
        let mut echo = Echo::cut_at(heads.exits());
        let mut mind = Mind { scratch: Scratch::default(), suspicion: Suspicion::new(50) };
        let (mut fates, mut cascade) = (vec![None; rows.len()], Cascade::new(3));
        let mut settle = |row: usize, fate| assert!(fates[row].replace(fate).is_none(), "row {row} left twice");
        for (first, some) in rows.chunks(batch).enumerate() {
            Segments::load(&mut echo, some.len()).copy_from_slice(some.as_flattened());
            let mut pass = Pass { segments: &mut echo, heads, mind: &mut mind };
            let numbers = first * batch..first * batch + some.len();
            cascade.serve(&mut pass, numbers, enough, &mut settle).expect("the echo never fails");
            assert!(cascade.waiting.iter().all(|rows| rows.len() < enough) && cascade.overtaken <= 3);
        }
        let mut pass = Pass { segments: &mut echo, heads, mind: &mut mind };
        cascade.serve(&mut pass, [], 1, &mut settle).expect("the echo never fails");
        assert!(cascade.is_empty());
        fates
    }

    fn rows() -> impl Strategy<Value = Vec<[f32; WIDTH]>> {
        prop::collection::vec(prop::array::uniform(-3.0..3.0_f32), 1..40)
    }

    #[test]
    fn of_equal_classes_the_first_is_the_answer() {
        let first = Answer { class: 1, confidence: 0.4, exit: None };
        assert_eq!(full_model(&[0.2, 0.4, 0.4]), Fate::Answered(first));
        assert_eq!(full_model(&[0.2, f32::NAN]), Fate::NotFinite);
        assert_eq!(full_model(&[]), Fate::NotFinite);
    }

    proptest! {
        #[test]
        fn each_row_leaves_once_and_as_it_would_alone(
            rows in rows(), thresholds in prop::collection::vec(0.34..1.0_f32, 0..4), batch in 1..9_usize, enough in 1..9_usize,
        ) {
            let heads = heads(&thresholds);
            let together = play(&heads, &rows, batch, enough);
            for (index, row) in rows.iter().enumerate() {
                prop_assert!(together[index].is_some());
                prop_assert_eq!(together[index], play(&heads, &[*row], 1, 1)[0]);
            }
        }

        #[test]
        fn what_an_audit_notes_is_what_serving_does(rows in rows(), thresholds in prop::collection::vec(0.34..1.0_f32, 1..4)) {
            let heads = heads(&thresholds);
            let mut scratch = Scratch::default();
            for (fate, row) in play(&heads, &rows, 4, 3).into_iter().zip(&rows) {
                let Some(Fate::Answered(answer)) = fate else { panic!("no answer") };
                let features: Vec<&[f32]> = thresholds.iter().map(|_| row.as_slice()).collect();
                let early = heads.path(&features, &mut scratch);
                prop_assert_eq!(early.map(|path| path.exit), answer.exit);
                if let Some(path) = early {
                    prop_assert_eq!(path.class, answer.class);
                }
            }
        }
    }

    #[test]
    fn a_row_that_the_model_answers_with_nan_has_no_answer() {
        let rows = [[0.1, 0.2, 0.3, 0.0, 0.0, 0.0], [0.1, f32::NAN, 0.3, 0.0, 0.0, 0.0]];
        let fates = play(&heads(&[]), &rows, 2, 1);
        assert!(matches!(fates[0], Some(Fate::Answered(Answer { class: 2, exit: None, .. }))));
        assert_eq!(fates[1], Some(Fate::NotFinite));
    }

    /// Goal: exits that are switched off let nobody out, however the backbone is cut and whoever waits within it.
    #[test]
    fn exits_that_are_off_let_no_row_out() {
        let (open, off) = (heads(&[1.0, 0.01]), HeadSet::empty());
        let mut echo = Echo::cut_at(open.exits());
        let mut mind = Mind { scratch: Scratch::default(), suspicion: Suspicion::new(50) };
        let (mut fates, mut cascade) = (Vec::new(), Cascade::new(8));
        for (heads, rows, enough) in [(&open, 2, 4), (&off, 1, 1)] {
            Segments::load(&mut echo, rows).fill(0.5);
            let mut pass = Pass { segments: &mut echo, heads, mind: &mut mind };
            cascade.serve(&mut pass, 0..rows, enough, |_, fate| fates.push(fate)).expect("the echo never fails");
        }
        assert!(cascade.is_empty() && fates.len() == 3);
        assert!(fates.iter().all(|fate| matches!(fate, Fate::Answered(Answer { exit: None, .. }))), "{fates:?}");
    }
}
