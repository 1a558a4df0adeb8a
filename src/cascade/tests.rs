//! A backbone that passes rows on, and what must hold of rows on their way.

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
    /// Rows that each segment runs best.
    best: usize,
    /// Rows that wait, by segment.
    queues: Vec<Vec<f32>>,
    /// Rows of the last run.
    made: Vec<f32>,
    scores: Vec<f32>,
}

impl Echo {
    pub(crate) fn cut_at(exits: &[ExitId]) -> Self {
        Self { exits: exits.to_vec(), best: 4, ..Self::default() }
    }
}

/// The first values of a row; to the largest numbers there are it gives no number.
fn scores(row: &[f32]) -> [f32; CLASSES] {
    std::array::from_fn(|class| row[class] + row[class] - row[class])
}

impl Segments for Echo {
    fn exits(&self) -> &[ExitId] {
        &self.exits
    }

    fn best_rows(&self, _: usize) -> usize {
        self.best
    }

    fn load(&mut self, rows: usize) -> &mut [f32] {
        self.queues.resize(self.exits.len() + 1, Vec::new());
        self.queues[0].clear();
        self.queues[0].resize(rows * WIDTH, 0.0);
        &mut self.queues[0]
    }

    fn run(&mut self, segment: usize, rows: usize) -> Result<StepOutput<'_>, EngineError> {
        self.made = self.queues[segment].drain(..rows * WIDTH).collect();
        if let Some(next) = self.queues.get_mut(segment + 1) {
            next.extend(&self.made);
            return Ok(StepOutput::Features(&self.made));
        }
        self.made = self.made.chunks_exact(WIDTH).flat_map(scores).collect();
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

/// Serves `rows` in batches of `batch` by segments that run `best` rows best, each row known by its number; its fate by
/// number.
fn play(heads: &HeadSet, rows: &[[f32; WIDTH]], batch: usize, best: usize) -> Vec<Option<Fate>> {
    let mut echo = Echo { best, ..Echo::cut_at(heads.exits()) };
    let mut scratch = Scratch::default();
    let (mut fates, mut cascade) = (vec![None; rows.len()], Cascade::new(6, 3));
    let mut settle = |row: usize, fate| assert!(fates[row].replace(fate).is_none(), "row {row} left twice");
    for (first, some) in rows.chunks(batch).enumerate() {
        Segments::load(&mut echo, some.len()).copy_from_slice(some.as_flattened());
        let mut pass = Pass { segments: &mut echo, heads, scratch: &mut scratch };
        let numbers = first * batch..first * batch + some.len();
        cascade.serve(&mut pass, numbers, true, &mut settle).expect("the echo never fails");
        assert!(cascade.waiting[0].is_empty(), "no frame waits to begin");
        assert!(cascade.waiting.iter().all(|rows| rows.len() < best.min(6)), "what is enough goes on");
        assert!(cascade.waiting.iter().flatten().all(|(batch, _)| cascade.batches - batch < 3), "overtaken too often");
    }
    let mut pass = Pass { segments: &mut echo, heads, scratch: &mut scratch };
    cascade.serve(&mut pass, [], false, &mut settle).expect("the echo never fails");
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
        rows in rows(), thresholds in prop::collection::vec(0.34..1.0_f32, 0..4), batch in 1..9_usize, best in 1..9_usize,
    ) {
        let heads = heads(&thresholds);
        let together = play(&heads, &rows, batch, best);
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

proptest! {
    /// Goal: rows that only pass through all get to the end, in their order, in runs no longer than a segment runs best.
    #[test]
    fn rows_that_pass_through_keep_their_order(rows in 1..40_usize, best in 1..9_usize, cuts in 0..4_u8) {
        let exits: Vec<ExitId> = (1..=cuts).map(ExitId).collect();
        let mut echo = Echo { best, ..Echo::cut_at(&exits) };
        let input: Vec<f32> = (0..rows * WIDTH).map(|at| at as f32).collect();
        Segments::load(&mut echo, rows).copy_from_slice(&input);
        let mut ends = Vec::new();
        through(&mut echo, rows, |echo, segment, count| {
            assert!((1..=best).contains(&count));
            if let StepOutput::Probabilities(scores) = Segments::run(echo, segment, count)? {
                ends.extend_from_slice(scores);
            }
            Ok::<(), EngineError>(())
        }).expect("the echo never fails");
        let firsts: Vec<f32> = input.chunks_exact(WIDTH).flat_map(|row| row[..CLASSES].to_vec()).collect();
        prop_assert_eq!(ends, firsts);
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
    let mut scratch = Scratch::default();
    let (mut fates, mut cascade) = (Vec::new(), Cascade::new(8, 8));
    for (heads, rows, wait) in [(&open, 2, true), (&off, 1, false)] {
        Segments::load(&mut echo, rows).fill(0.5);
        let mut pass = Pass { segments: &mut echo, heads, scratch: &mut scratch };
        cascade.serve(&mut pass, 0..rows, wait, &mut |_: usize, fate| fates.push(fate)).expect("the echo never fails");
    }
    assert!(cascade.is_empty() && fates.len() == 3);
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Answered(Answer { exit: None, .. }))), "{fates:?}");
}
