//! What the parts of a backbone cost by the number of rows that are run at a time, and what follows from it. Pure.
//!
//! A few rows share too little of a run's fixed cost; the tensors of many outgrow the caches, those of early, large pictures
//! long before those of late, small ones. So every segment has its own best number.

use serde::{Deserialize, Serialize};

use super::timing::Timing;
use crate::plan::{CostTable, ExitId, Plan};

/// Most rows at which parts are priced: what lanes see under moderate load.
const LIVE_ROWS: usize = 8;
/// More rows are preferred where they seem to cost at most this much more: between other work the caches hold less of a segment
/// than they do while it is measured, and a run then costs more, whatever its rows.
const AS_FAST: f64 = 1.05;
/// Rows in a run that are tried.
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// A run takes no more rows than this allows: all of them wait for the last.
const RUN_MAX_MS: f64 = 250.0;
/// Nor is the whole model timed in runs that take longer than this: a quarter of it may run as many rows as are timed here.
const TIMED_MAX_MS: f64 = 1000.0;

/// The backbone cut at every candidate, timed at one number of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchTiming {
    /// Rows in a run.
    pub rows: usize,
    /// What it took.
    pub timing: Timing,
}

/// The most rows that cost nearly as little as any and do not take too long, by the cost that `of` sees in a batch.
fn best(timings: &[BatchTiming], of: impl Fn(&Timing) -> f64) -> Option<&BatchTiming> {
    let bearable = |batch: &&BatchTiming| batch.rows == 1 || batch.rows as f64 * of(&batch.timing) <= RUN_MAX_MS;
    let least = timings.iter().filter(bearable).map(|batch| of(&batch.timing)).fold(f64::INFINITY, f64::min);
    timings.iter().rev().filter(bearable).find(|batch| of(&batch.timing) <= least * AS_FAST)
}

/// Numbers of rows that are to be timed where the whole model takes so long for one.
pub(crate) fn candidates(batches: bool, whole_ms: f64) -> Vec<usize> {
    let fits = |rows: &usize| *rows == 1 || (batches && *rows as f64 * whole_ms <= TIMED_MAX_MS);
    ROWS.into_iter().filter(fits).collect()
}

/// How many rows each segment runs best when cut at `exits`; nothing where nothing was measured.
pub(crate) fn best_rows(timings: &[BatchTiming], exits: &[ExitId]) -> Vec<usize> {
    let pieces = timings.first().map_or(0, |batch| batch.timing.segments_ms.len());
    let ends = exits.iter().map(|exit| exit.index() + 1).chain([pieces]);
    let starts = [0].into_iter().chain(exits.iter().map(|exit| exit.index() + 1));
    let rows = |(start, end): (usize, usize)| {
        let time = |timing: &Timing| timing.segments_ms.get(start..end).unwrap_or_default().iter().sum();
        best(timings, time).map(|batch| batch.rows)
    };
    starts.zip(ends).filter_map(rows).collect()
}

/// The parts' costs at the number of rows at which the whole model costs least, of those that lanes see; `sizes` are the
/// elements per row of each cut tensor.
pub(crate) fn costs(
    timings: &[BatchTiming],
    plan: &Plan,
    sizes: &[f64],
    head_ms: impl Fn(usize, usize) -> f64,
) -> CostTable {
    let live = timings.partition_point(|batch| batch.rows <= LIVE_ROWS);
    let Some(BatchTiming { rows, timing }) = best(&timings[..live], |timing| timing.whole_ms) else {
        return CostTable::of_flops(plan);
    };
    let sum: f64 = timing.segments_ms.iter().sum();
    // The pieces are scaled to the uncut model; what the cut chain costs more is shared out by the tensors' sizes.
    let share = timing.whole_ms / sum.max(f64::MIN_POSITIVE);
    let all: f64 = sizes.iter().sum();
    let over = timing.whole_ms * (timing.ratio - 1.0);
    let table = CostTable {
        piece_ms: timing.segments_ms.iter().map(|ms| ms * share).collect(),
        cut_ms: sizes.iter().map(|size| over * size / all.max(f64::MIN_POSITIVE)).collect(),
        head_ms: plan.candidates.iter().map(|point| head_ms(point.feature_width, *rows)).collect(),
        whole_ms: timing.whole_ms,
    };
    tracing::debug!(rows, ?table, "measured");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, segments_ms: &[f64]) -> BatchTiming {
        let whole_ms = segments_ms.iter().sum();
        BatchTiming { rows, timing: Timing { segments_ms: segments_ms.to_vec(), whole_ms, ratio: 1.0 } }
    }

    /// Goal: a segment of several pieces runs the rows at which they cost least together, many where that is nearly so.
    #[test]
    fn each_segment_has_its_own_best_rows() {
        let timings = [batch(1, &[3.0, 1.0, 4.0]), batch(4, &[4.0, 0.9, 2.0]), batch(16, &[6.0, 0.91, 2.05])];
        let rows = |exits: &[u8]| best_rows(&timings, &exits.iter().copied().map(ExitId).collect::<Vec<_>>());
        assert_eq!(rows(&[1, 2]), [1, 16, 16]);
        assert_eq!(rows(&[2]), [1, 16]);
        assert_eq!(rows(&[]), [4]);
        assert_eq!(best_rows(&[], &[ExitId(1)]), Vec::<usize>::new());
        let slow = [batch(1, &[30.0, 90.0]), batch(2, &[30.0, 70.0]), batch(8, &[29.0, 60.0])];
        assert_eq!((best_rows(&slow, &[ExitId(1)]), best_rows(&slow, &[])), (vec![8, 2], vec![2]));
    }

    #[test]
    fn few_rows_of_a_slow_model_are_tried() {
        assert_eq!(candidates(true, 0.7), ROWS);
        assert_eq!(candidates(true, 100.0), [1, 2, 4, 8]);
        assert_eq!((candidates(true, 2e3), candidates(false, 0.7)), (vec![1], vec![1]));
    }
}
