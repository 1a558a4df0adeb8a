//! 4 · Segments, exits and compaction: one batch through the backbone, each row leaving where it may.
//!
//! Knows neither Kafka nor ONNX Runtime: it drives anything that implements [`Segments`] and [`Auditor`].

use crate::heads::{HeadSet, Scratch, Suspicion};
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

/// One row's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Position in the batch that was loaded.
    pub row: usize,
    /// Index in the backbone's output.
    pub class: usize,
    /// Probability given by the head or model that answered.
    pub confidence: f32,
    /// Where the row left; none: the full model answered.
    pub exit: Option<ExitId>,
}

/// What a lane keeps between batches: working memory of the heads, and its watch on the first exit.
#[derive(Debug)]
pub struct Mind {
    /// Working memory of head evaluations.
    pub scratch: Scratch,
    /// Compares the first exit's confidences with those at certification: sees every frame, proves nothing.
    pub suspicion: Suspicion,
}

/// Serves `rows` loaded rows: each leaves at the first exit that is sure, the rest are answered by the full model.
///
/// `answer` is called the moment a row leaves, not when its batch ends. The cascade must be cut at the exits of `heads`.
///
/// # Errors
/// When the runtime fails; rows not yet answered then stay unanswered.
///
/// # Panics
/// When the cascade is cut at other exits than those of `heads`: the worker swaps both together.
pub fn serve<S: Segments>(
    segments: &mut S,
    heads: &HeadSet,
    rows: usize,
    mind: &mut Mind,
    mut answer: impl FnMut(Fate),
) -> Result<(), EngineError> {
    assert_eq!(segments.exits(), heads.exits(), "segments are cut where the policy has its exits");
    let exits = heads.exits().len();
    let mut alive: Vec<usize> = (0..rows).collect();
    let mut keep: Vec<usize> = Vec::with_capacity(rows);
    for segment in 0..=exits {
        match segments.run(segment, alive.len())? {
            StepOutput::Probabilities(all) => {
                for (position, row) in alive.iter().enumerate() {
                    answer(full(*row, row_of(all, position, alive.len())));
                }
                return Ok(());
            }
            StepOutput::Features(all) => {
                keep.clear();
                let Mind { scratch, suspicion } = &mut *mind;
                heads.decide_rows(segment, alive.len(), all, scratch, |position, decision| {
                    if let (0, Some(reference)) = (segment, heads.reference()) {
                        suspicion.observe(heads.version(), reference, decision.verdict.confidence);
                    }
                    if decision.leaves {
                        answer(Fate::Answered(Answer {
                            row: alive[position],
                            class: decision.verdict.class,
                            confidence: decision.verdict.confidence.get(),
                            exit: Some(heads.exits()[segment]),
                        }));
                    } else {
                        keep.push(position);
                    }
                });
                if keep.is_empty() {
                    return Ok(());
                }
                if keep.len() < alive.len() {
                    segments.compact(segment, &keep);
                    for (to, from) in keep.iter().enumerate() {
                        alive[to] = alive[*from];
                    }
                    alive.truncate(keep.len());
                }
            }
        }
    }
    Err(EngineError { segment: exits, reason: "the last segment gave no class scores".into() })
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// It has an answer.
    Answered(Answer),
    /// The model gave NaN or infinity for it: no answer is better than a random one.
    NotFinite {
        /// Position in the batch that was loaded.
        row: usize,
    },
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

/// Runs `rows` loaded rows to the end and records what the exits would have said. `watch` sees the first exit's
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
    mut record: impl FnMut(&Audit<'_>),
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
        record(&Audit { fate: full(row, probabilities), probabilities, features, early });
    }
    Ok(())
}

fn row_of(all: &[f32], row: usize, rows: usize) -> &[f32] {
    let width = all.len() / rows;
    &all[row * width..(row + 1) * width]
}

/// The full model's answer: its most probable class.
fn full(row: usize, probabilities: &[f32]) -> Fate {
    let top = probabilities.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    match top {
        Some((class, confidence)) if probabilities.iter().all(|p| p.is_finite()) => {
            Fate::Answered(Answer { row, class, confidence, exit: None })
        }
        _ => Fate::NotFinite { row },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::heads::head::tests::some_head;
    use crate::heads::set::SetExit;
    use crate::heads::{Head, Policy, PolicyState, Threshold};

    const WIDTH: usize = 6;
    const CLASSES: usize = 3;

    /// A backbone whose segments pass each row on and show it as features: what a row gives depends on the row alone.
    struct Echo {
        exits: Vec<ExitId>,
        buffer: Vec<f32>,
        scores: Vec<f32>,
    }

    impl Segments for Echo {
        fn exits(&self) -> &[ExitId] {
            &self.exits
        }

        fn load(&mut self, rows: usize) -> &mut [f32] {
            self.buffer.resize(rows * WIDTH, 0.0);
            &mut self.buffer
        }

        fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError> {
            if segment < self.exits.len() {
                return Ok(StepOutput::Features(&self.buffer[..rows * WIDTH]));
            }
            let scores = self.buffer.chunks_exact(WIDTH).take(rows).flat_map(|row| [row[0], row[1], row[2]]);
            self.scores = scores.collect();
            Ok(StepOutput::Probabilities(&self.scores))
        }

        fn compact(&mut self, _: usize, keep: &[usize]) {
            for (to, from) in keep.iter().enumerate() {
                self.buffer.copy_within(from * WIDTH..(from + 1) * WIDTH, to * WIDTH);
            }
        }
    }

    fn heads(thresholds: &[f32]) -> HeadSet {
        let exits = thresholds.iter().zip(1_u8..).map(|(threshold, exit)| SetExit {
            head: Arc::new(Head::new(some_head(exit, 1, WIDTH, vec![0, 1, 2], false), WIDTH, CLASSES).expect("valid")),
            threshold: Threshold::new(*threshold).expect("in range"),
        });
        HeadSet::new(1, exits.collect(), &some_policy())
    }

    fn some_policy() -> Policy {
        let state = PolicyState::Certified;
        Policy { state, exits: Vec::new(), audit_rate: 0.1, copies: 0, log: (0, 0), certificate: None, reference: None }
    }

    fn play(heads: &HeadSet, rows: &[[f32; WIDTH]]) -> Vec<Option<Fate>> {
        let mut echo = Echo { exits: heads.exits().to_vec(), buffer: Vec::new(), scores: Vec::new() };
        for (row, slot) in rows.iter().zip(echo.load(rows.len()).chunks_exact_mut(WIDTH)) {
            slot.copy_from_slice(row);
        }
        let mut mind = Mind { scratch: Scratch::default(), suspicion: Suspicion::new(50) };
        let mut fates = vec![None; rows.len()];
        serve(&mut echo, heads, rows.len(), &mut mind, |fate| {
            let row = match fate {
                Fate::Answered(answer) => answer.row,
                Fate::NotFinite { row } => row,
            };
            assert!(fates[row].replace(fate).is_none(), "row {row} left twice");
        })
        .expect("the echo never fails");
        fates
    }

    fn rows() -> impl Strategy<Value = Vec<[f32; WIDTH]>> {
        prop::collection::vec(prop::array::uniform(-3.0..3.0_f32), 1..20)
    }

    proptest! {
        #[test]
        fn each_row_leaves_once_and_as_it_would_alone(
            rows in rows(), thresholds in prop::collection::vec(0.34..1.0_f32, 0..4),
        ) {
            let heads = heads(&thresholds);
            let together = play(&heads, &rows);
            for (index, row) in rows.iter().enumerate() {
                let Some(Fate::Answered(answer)) = together[index] else { panic!("row {index} has no answer") };
                let Some(Fate::Answered(alone)) = play(&heads, &[*row])[0] else { panic!("no answer alone") };
                prop_assert_eq!(Answer { row: 0, ..answer }, alone);
            }
        }

        #[test]
        fn what_an_audit_notes_is_what_serving_does(rows in rows(), thresholds in prop::collection::vec(0.34..1.0_f32, 1..4)) {
            let heads = heads(&thresholds);
            let mut scratch = Scratch::default();
            for (fate, row) in play(&heads, &rows).into_iter().zip(&rows) {
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
        let fates = play(&heads(&[]), &rows);
        assert!(matches!(fates[0], Some(Fate::Answered(Answer { class: 2, exit: None, .. }))));
        assert_eq!(fates[1], Some(Fate::NotFinite { row: 1 }));
    }
}
