//! All that is measured of a backbone before it serves, to be kept from one start to the next.

use serde::{Deserialize, Serialize};

use super::batch_size::BatchTiming;

/// How a backbone is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// After ONNX Runtime has optimised the whole graph.
    Optimised,
    /// Before; every segment is optimised by itself.
    Plain,
    /// Not at all: no way to cut it answers as the uncut model does.
    Whole,
}

/// The way to cut that was found right and fast, and what the parts cost then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The way to cut.
    pub way: Way,
    /// What the parts cost, by rows in a run.
    pub timings: Vec<BatchTiming>,
}

impl Measured {
    /// Whether it may be of a backbone with so many candidate exits: one segment more, times that are times, rows that ascend.
    #[must_use]
    pub fn fits(&self, candidates: usize) -> bool {
        let segments = if self.way == Way::Whole { 1 } else { candidates + 1 };
        let time = |ms: &f64| ms.is_finite() && *ms >= 0.0;
        let sound = |BatchTiming { rows, timing }: &BatchTiming| {
            let times = timing.segments_ms.iter().chain([&timing.whole_ms, &timing.ratio]);
            *rows > 0 && timing.segments_ms.len() == segments && times.clone().all(time) && timing.whole_ms > 0.0
        };
        !self.timings.is_empty() && self.timings.iter().all(sound) && self.timings.is_sorted_by(|a, b| a.rows < b.rows)
    }
}
