//! Rounds of measuring, and the medians that are told of them.

use serde::{Deserialize, Serialize};

/// Milliseconds per frame of a chain's segments and of the uncut model, timed in turns: processor time with one thread,
/// wall clock with more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Per segment, in order.
    pub segments_ms: Vec<f64>,
    /// The uncut model.
    pub whole_ms: f64,
    /// Median of the chain's time over the uncut model's, round by round.
    pub ratio: f64,
}

/// Milliseconds of a batch, round by round.
#[derive(Default)]
pub(super) struct Rounds {
    /// Of each segment.
    pub(super) pieces: Vec<Vec<f64>>,
    /// Of the chain, and of the uncut model in turn with it.
    pub(super) turns: Vec<(f64, f64)>,
}

impl Rounds {
    /// Medians per frame, of batches of so many rows.
    pub(super) fn timing(&self, rows: usize) -> Timing {
        let (pieces, turns) = (warm(&self.pieces), warm(&self.turns));
        let segments = pieces.first().map_or(0, Vec::len);
        let per_frame = |values: Vec<f64>| median(values) / rows as f64;
        Timing {
            segments_ms: (0..segments).map(|at| per_frame(pieces.iter().map(|times| times[at]).collect())).collect(),
            whole_ms: per_frame(turns.iter().map(|(_, whole)| *whole).collect()),
            ratio: median(turns.iter().map(|(chain, whole)| chain / whole).collect()),
        }
    }
}

/// All rounds but the first, which warmed caches and arenas, if there are others.
fn warm<T>(rounds: &[T]) -> &[T] {
    rounds.get(1..).filter(|warm| !warm.is_empty()).unwrap_or(rounds)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
