//! The nouns that serving and learning share about a backbone: who it is, where it may be left, what each part costs.
//!
//! Made by [`crate::backbone`], read by [`crate::cascade`], [`crate::heads`] and [`crate::learn`]. Imports nothing of ours
//! but [`crate::frame`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::InputSpec;

/// blake3 of a file or of a canonical description; 32 bytes, shown as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// First 12 hex digits: enough for logs, keys and metric labels.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.short())
    }
}

/// A candidate exit by depth: 1 is the one nearest to the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExitId(pub u8);

impl ExitId {
    /// Position in [`Plan::candidates`] and in every per-candidate list.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// The exit at a position in [`Plan::candidates`].
    ///
    /// # Panics
    /// For positions from 255 on; a plan has at most eight candidates.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a plan has at most eight candidates")]
    pub fn from_index(index: usize) -> Self {
        Self(u8::try_from(index + 1).expect("a plan has at most eight candidates"))
    }
}

impl fmt::Display for ExitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place where the backbone may be left, and the pooled features that a head sees there.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitPoint {
    /// Its number.
    pub exit: ExitId,
    /// Name of the cut tensor in the user's graph.
    pub tensor: String,
    /// Share of the backbone's FLOPs spent up to and including this tensor, in (0, 1).
    pub flops_fraction: f64,
    /// Values per frame after pooling.
    pub feature_width: usize,
    /// FLOPs of one head evaluation: standardise, two linear layers, softmax.
    pub head_flops: u64,
}

/// Everything that is fixed once a backbone is loaded. Replicas with equal `backbone` and `plan` may share heads.
#[derive(Debug, Clone)]
pub struct Plan {
    /// blake3 of the model file and its external data.
    pub backbone: Fingerprint,
    /// Hash of the candidate cut points, feature widths and class count.
    pub plan: Fingerprint,
    /// What the backbone wants of a frame.
    pub input: InputSpec,
    /// One label per class, in output order.
    pub labels: Vec<String>,
    /// Candidate exits by depth, at most eight, possibly none.
    pub candidates: Vec<ExitPoint>,
    /// FLOPs (2 x MACs) of the whole backbone for one frame.
    pub flops: u64,
}

impl Plan {
    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.labels.len()
    }

    /// Width of the pooled features at every candidate.
    #[must_use]
    pub fn feature_widths(&self) -> Vec<usize> {
        self.candidates.iter().map(|point| point.feature_width).collect()
    }
}

/// Hidden units of a head, as plans price it.
pub const HEAD_HIDDEN: usize = 128;

/// Cost of the parts of the path, per frame: measured at the live batch size, one thread. K candidates, K + 1 pieces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostTable {
    /// Milliseconds per frame of the piece that ends at candidate k; the last is what follows the last candidate.
    pub piece_ms: Vec<f64>,
    /// Milliseconds per frame that cutting at candidate k adds (may be slightly negative: noise).
    pub cut_ms: Vec<f64>,
    /// Milliseconds per frame of evaluating candidate k's head.
    pub head_ms: Vec<f64>,
    /// Milliseconds per frame of the uncut model.
    pub whole_ms: f64,
}

impl CostTable {
    /// A table of FLOPs instead of times, a millisecond each: the same on every machine and in every run.
    #[must_use]
    pub fn of_flops(plan: &Plan) -> Self {
        let whole = plan.flops as f64;
        let ends = plan.candidates.iter().map(|point| point.flops_fraction).chain([1.0]);
        let starts = [0.0].into_iter().chain(plan.candidates.iter().map(|point| point.flops_fraction));
        Self {
            piece_ms: starts.zip(ends).map(|(start, end)| (end - start) * whole).collect(),
            cut_ms: vec![0.0; plan.candidates.len()],
            head_ms: plan.candidates.iter().map(|point| point.head_flops as f64).collect(),
            whole_ms: whole,
        }
    }
}
