//! Which exits are worth their price: expected time of every subset along the threshold path. No exit is an answer too.
//!
//! Knows nothing of heads: it sees how sure each candidate was on each frame, whether it was right, and a cost table.

use crate::plan::CostTable;

/// Points on the path from safe to bold.
pub(crate) const PATH_POINTS: usize = 200;
/// Safest threshold: 1 - 1e-4.
const SAFEST: f32 = 1e-4;
/// Boldest threshold: 1 - 0.6.
const BOLDEST: f32 = 0.6;

/// The thresholds from safe to bold, evenly spaced in the logarithm of 1 - threshold.
pub(crate) fn path() -> impl Iterator<Item = f32> {
    (0..PATH_POINTS).map(|point| {
        let share = point as f32 / (PATH_POINTS - 1) as f32;
        1.0 - SAFEST * (BOLDEST / SAFEST).powf(share)
    })
}

/// How the candidates judged one frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Confidence per candidate; 0 for one that was not asked.
    pub(crate) confidences: [f32; 8],
    /// Bit k: candidate k answered like the backbone.
    pub(crate) agrees: u8,
}

impl Row {
    /// The first of the candidates in `subset` (a bit mask) that is sure enough.
    pub(crate) fn leaves_at(&self, subset: u8, threshold: f32) -> Option<usize> {
        (0..8).find(|k| subset >> k & 1 == 1 && self.confidences[*k] >= threshold)
    }

    /// Whether an answer other than the backbone's would be served.
    pub(crate) fn errs(&self, subset: u8, threshold: f32) -> bool {
        self.leaves_at(subset, threshold).is_some_and(|k| self.agrees >> k & 1 == 0)
    }
}

/// Milliseconds per frame when leaving at candidate `exit` (`None`: never) with the exits of `subset` on.
pub(crate) fn cost_of_leaving(costs: &CostTable, subset: u8, exit: Option<usize>) -> f64 {
    if subset == 0 {
        return costs.whole_ms;
    }
    let candidates = costs.piece_ms.len().saturating_sub(1);
    let last = exit.unwrap_or(candidates);
    let pieces: f64 = costs.piece_ms.iter().take(last + 1).sum();
    let at = |list: &[f64], k: usize| list.get(k).copied().unwrap_or(0.0);
    let on = (0..candidates).filter(|k| *k <= last && subset >> k & 1 == 1);
    pieces + on.map(|k| at(&costs.cut_ms, k) + at(&costs.head_ms, k)).sum::<f64>()
}

/// Milliseconds per frame if every frame left at the best of all exits: no heads can bring more.
pub(crate) fn least_cost(costs: &CostTable) -> f64 {
    let candidates = costs.piece_ms.len().saturating_sub(1).min(8);
    (0..candidates).map(|k| cost_of_leaving(costs, 1 << k, Some(k))).fold(costs.whole_ms, f64::min)
}

/// Mean milliseconds per frame.
pub(crate) fn expected_cost(rows: &[Row], subset: u8, threshold: f32, costs: &CostTable) -> f64 {
    if rows.is_empty() {
        return costs.whole_ms;
    }
    let total: f64 = rows.iter().map(|row| cost_of_leaving(costs, subset, row.leaves_at(subset, threshold))).sum();
    total / rows.len() as f64
}

/// The cheapest set of exits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Bit k: candidate k is on. 0: none.
    pub(crate) subset: u8,
    /// Expected milliseconds per frame at the boldest threshold that these rows allow.
    pub(crate) cost_ms: f64,
    /// That threshold: an estimate, certification finds its own.
    pub(crate) threshold: f32,
}

/// Weight of counted disagreements in an estimate of risk; the rest is what calibrated confidences expect.
const COUNTED: f32 = 0.25;

/// Measured times this much apart, as a factor, are equal: the set that spends fewer FLOPs is taken.
const AS_FAST: f64 = 1.02;

/// The cheapest subset by these rows, each at the boldest point of the path where its estimated disagreement stays within
/// `epsilon`. The estimate is a mean of what was counted and of what calibrated confidences expect (1 - confidence of the
/// leavers): counted alone it would rest on a few frames, and an exit would be left out for one unlucky answer.
///
/// `costs` are measured times, and noisy; among sets that are as fast as the fastest, `flops` decide (any unit).
pub(crate) fn select(rows: &[Row], costs: &CostTable, flops: &CostTable, epsilon: f64) -> Choice {
    let candidates = costs.piece_ms.len().saturating_sub(1).min(8);
    let none = Choice { subset: 0, cost_ms: costs.whole_ms, threshold: 1.0 };
    if rows.is_empty() || candidates == 0 {
        return none;
    }
    let n = rows.len() as f64;
    let mut bearable = Vec::new();
    for threshold in path() {
        let kinds = kinds(rows, candidates, threshold);
        for subset in 1..=u8::MAX >> (8 - candidates) {
            let (mut risk, mut cost, mut spent) = (0.0, 0.0, 0.0);
            for (mask, kind) in &kinds {
                let fired = mask & subset;
                let exit = (fired != 0).then(|| fired.trailing_zeros() as usize);
                cost += kind.rows * cost_of_leaving(costs, subset, exit);
                spent += kind.rows * cost_of_leaving(flops, subset, exit);
                risk += exit.map_or(0.0, |k| kind.risk[k]);
            }
            if risk / n <= epsilon && cost / n < costs.whole_ms {
                bearable.push((Choice { subset, cost_ms: cost / n, threshold }, spent));
            }
        }
    }
    let fastest = bearable.iter().map(|(choice, _)| choice.cost_ms).fold(f64::INFINITY, f64::min);
    let as_fast = bearable.into_iter().filter(|(choice, _)| choice.cost_ms <= fastest * AS_FAST);
    as_fast.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(none, |(choice, _)| choice)
}

/// Rows by which candidates are sure enough of them: rows that fire alike cost alike, so there are at most 256 kinds.
fn kinds(rows: &[Row], candidates: usize, threshold: f32) -> Vec<(u8, Kind)> {
    let mut kinds = vec![Kind::default(); 256];
    for row in rows {
        let mask = (0..candidates).filter(|k| row.confidences[*k] >= threshold).fold(0u8, |mask, k| mask | 1 << k);
        let kind = &mut kinds[usize::from(mask)];
        kind.rows += 1.0;
        for k in 0..candidates {
            let counted = if row.agrees >> k & 1 == 0 { COUNTED } else { 0.0 };
            kind.risk[k] += f64::from(counted + (1.0 - COUNTED) * (1.0 - row.confidences[k]));
        }
    }
    (0u8..=255).zip(kinds).filter(|(_, kind)| kind.rows > 0.0).collect()
}

#[derive(Debug, Clone, Default)]
struct Kind {
    rows: f64,
    risk: [f64; 8],
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::learn::rng::Rng;

    fn costs(pieces: &[f64], cut: f64, head: f64) -> CostTable {
        let exits = pieces.len() - 1;
        CostTable {
            piece_ms: pieces.to_vec(),
            cut_ms: vec![cut; exits],
            head_ms: vec![head; exits],
            whole_ms: pieces.iter().sum(),
        }
    }

    /// Rows of which exit k catches a share with certainty.
    fn rows(shares: &[f64], n: usize, seed: u64) -> Vec<Row> {
        let mut rng = Rng::new(seed);
        let row = |_| {
            let ease = f64::from(rng.unit());
            let mut confidences = [0.0; 8];
            shares.iter().zip(&mut confidences).for_each(|(share, c)| *c = if ease < *share { 0.9999 } else { 0.3 });
            Row { confidences, agrees: u8::MAX }
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn known_best_answers_are_found() {
        let pick = |shares: &[f64], costs: &CostTable| select(&rows(shares, 500, 1), costs, costs, 0.01).subset;
        // An exit that catches most for little is on; one behind it that adds nothing is not worth its head.
        assert_eq!(pick(&[0.8, 0.8], &costs(&[1.0, 1.0, 1.0], 0.0, 0.1)), 0b01);
        // The first catches nothing, the second most.
        assert_eq!(pick(&[0.0, 0.8], &costs(&[1.0, 1.0, 1.0], 0.0, 0.1)), 0b10);
        // Both are worth it.
        assert_eq!(pick(&[0.5, 0.9], &costs(&[1.0, 1.0, 1.0], 0.0, 0.01)), 0b11);
        // Cuts that cost more than they save.
        assert_eq!(pick(&[0.5, 0.9], &costs(&[1.0, 1.0, 1.0], 2.0, 0.0)), 0);
        // Most time is spent before the first exit (AlexNet-like) and a head costs more than what is left.
        assert_eq!(pick(&[0.6, 0.7], &costs(&[9.0, 0.3, 0.2], 0.05, 0.4)), 0);
        // No head ever sure.
        assert_eq!(pick(&[0.0, 0.0], &costs(&[1.0, 1.0, 1.0], 0.0, 0.01)), 0);
        let (one, none) = (costs(&[1.0, 1.0], 0.0, 0.0), costs(&[1.0], 0.0, 0.0));
        assert_eq!(select(&[], &one, &one, 0.01).subset, 0);
        assert_eq!(select(&rows(&[], 5, 1), &none, &none, 0.01).subset, 0);
    }

    /// Goal: on a model whose time is spent before its first exit, none is chosen: whether no head could pay, or only better
    /// heads than there are (a few of 365 classes are easy, the others never sure).
    #[test]
    fn nothing_is_chosen_where_the_start_takes_the_time() {
        let pick = |shares: &[f64], costs: &CostTable| select(&rows(shares, 500, 1), costs, costs, 0.01).subset;
        let dear = costs(&[9.0, 0.3, 0.2], 0.05, 0.5);
        assert!((least_cost(&dear) - 9.5).abs() < 1e-9, "the whole model's");
        assert_eq!(pick(&[1.0, 1.0], &dear), 0);
        let bearable = costs(&[8.5, 0.8, 0.2], 0.05, 0.4);
        assert!((least_cost(&bearable) - 8.95).abs() < 1e-9, "all leave at the first");
        assert_eq!(pick(&[0.3, 0.4], &bearable), 0);
        assert_eq!(pick(&[0.7, 0.7], &bearable), 0b01);
        let mut wrong = rows(&[0.7, 0.7], 500, 1);
        wrong.iter_mut().step_by(10).for_each(|row| row.agrees = 0);
        assert_eq!(select(&wrong, &bearable, &bearable, 0.01).subset, 0, "sure, and too often wrong");
    }

    #[test]
    fn a_risky_exit_is_left_out() {
        let mut rows = rows(&[0.9, 0.9], 500, 2);
        rows.iter_mut().step_by(5).for_each(|row| row.agrees = 0b10);
        let costs = costs(&[1.0, 1.0, 1.0], 0.0, 0.01);
        assert_eq!(select(&rows, &costs, &costs, 0.01).subset, 0b10);
    }

    #[test]
    fn flops_decide_between_equal_times() {
        let rows = rows(&[0.2, 0.9], 500, 3);
        let flops = costs(&[1.0, 1.0, 1.0], 0.0, 0.01);
        let pick = |costs: &CostTable| select(&rows, costs, &flops, 0.01).subset;
        // By measured time the first exit is not quite worth its head (0.25 would be even), by FLOPs it is.
        assert_eq!(pick(&costs(&[1.0, 1.0, 1.0], 0.0, 0.27)), 0b11);
        // Then it is far too dear.
        assert_eq!(pick(&costs(&[1.0, 1.0, 1.0], 0.0, 0.5)), 0b10);
        // And never for a set that is slower than the whole model.
        assert_eq!(pick(&costs(&[1.0, 1.0, 1.0], 2.0, 0.0)), 0);
    }

    proptest! {
        /// Goal: nothing beats the answer. Method: against every subset and point, priced row by row.
        #[test]
        fn no_subset_is_cheaper(seed in any::<u64>(), pieces in prop::collection::vec(0.1f64..3.0, 4), cut in 0.0f64..0.3) {
            let costs = costs(&pieces, cut, 0.05);
            let mut rng = Rng::new(seed);
            let rows: Vec<Row> = (0..60).map(|_| {
                let mut confidences = [0.0; 8];
                confidences[..3].iter_mut().for_each(|c| *c = rng.unit().powf(0.2));
                Row { confidences, agrees: u8::MAX }
            }).collect();
            let choice = select(&rows, &costs, &costs, 0.05);
            let priced = expected_cost(&rows, choice.subset, choice.threshold, &costs);
            prop_assert!((priced - choice.cost_ms).abs() < 1e-9);
            prop_assert!((least_cost(&costs) - 1e-9..=costs.whole_ms).contains(&choice.cost_ms));
            for point in path() {
                for subset in 1..8u8 {
                    let risk: f32 = rows.iter().filter_map(|row| Some((1.0 - COUNTED) * (1.0 - row.confidences[row.leaves_at(subset, point)?]))).sum();
                    if f64::from(risk) / 60.0 < 0.0499 {
                        prop_assert!(choice.cost_ms <= expected_cost(&rows, subset, point, &costs) + 1e-9);
                    }
                }
            }
        }
    }
}
