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
        self.leaves_at(subset, threshold)
            .is_some_and(|k| self.agrees >> k & 1 == 0)
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

/// Mean milliseconds per frame.
pub(crate) fn expected_cost(rows: &[Row], subset: u8, threshold: f32, costs: &CostTable) -> f64 {
    if rows.is_empty() {
        return costs.whole_ms;
    }
    let total: f64 = rows
        .iter()
        .map(|row| cost_of_leaving(costs, subset, row.leaves_at(subset, threshold)))
        .sum();
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

/// The cheapest subset by these rows, each at the boldest point of the path where its estimated disagreement stays within
/// `epsilon`. The estimate is the mean of what was counted and of what calibrated confidences expect (1 - confidence of
/// the leavers): counted alone it would rest on one or two frames.
pub(crate) fn select(rows: &[Row], costs: &CostTable, epsilon: f64) -> Choice {
    let candidates = costs.piece_ms.len().saturating_sub(1).min(8);
    let mut best = Choice {
        subset: 0,
        cost_ms: costs.whole_ms,
        threshold: 1.0,
    };
    if rows.is_empty() || candidates == 0 {
        return best;
    }
    let n = rows.len() as f64;
    for point in path() {
        // Rows that fire alike cost alike: at most 256 kinds.
        let mut kinds = vec![Kind::default(); 256];
        for row in rows {
            let mask = (0..candidates)
                .filter(|k| row.confidences[*k] >= point)
                .fold(0u8, |mask, k| mask | 1 << k);
            let kind = &mut kinds[usize::from(mask)];
            kind.rows += 1.0;
            for k in 0..candidates {
                kind.risk[k] +=
                    0.5 * f64::from(u8::from(row.agrees >> k & 1 == 0)) + 0.5 * f64::from(1.0 - row.confidences[k]);
            }
        }
        let kinds: Vec<(u8, Kind)> = (0u8..=255).zip(kinds).filter(|(_, kind)| kind.rows > 0.0).collect();
        for subset in 1..=u8::MAX >> (8 - candidates) {
            let (mut risk, mut cost) = (0.0, 0.0);
            for (mask, kind) in &kinds {
                let fired = mask & subset;
                let exit = (fired != 0).then(|| fired.trailing_zeros() as usize);
                cost += kind.rows * cost_of_leaving(costs, subset, exit);
                risk += exit.map_or(0.0, |k| kind.risk[k]);
            }
            if risk / n <= epsilon && cost / n < best.cost_ms {
                best = Choice {
                    subset,
                    cost_ms: cost / n,
                    threshold: point,
                };
            }
        }
    }
    best
}

#[derive(Debug, Clone, Default)]
struct Kind {
    rows: f64,
    risk: [f64; 8],
}
