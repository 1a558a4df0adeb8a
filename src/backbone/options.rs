//! How a backbone is to be loaded.

use crate::provider::Provider;

/// How to load a backbone.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads within one operator, per lane.
    pub intra_threads: usize,
    /// Most candidate exits, at most eight.
    pub max_candidates: usize,
    /// How segments are made.
    pub split: SplitChoice,
    /// What they run on.
    pub provider: Provider,
}

/// How segments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitChoice {
    /// Both ways are timed at load; the faster one that answers as the uncut model serves.
    Measured,
    /// The user's graph is cut, every segment optimised by itself.
    Plain,
    /// ONNX Runtime's optimised graph is cut; the plain way where that graph has no such cuts.
    Optimised,
}

impl LoadOptions {
    /// The usual, on this provider with so many threads.
    #[must_use]
    pub fn on(provider: &Provider, threads: usize) -> Self {
        Self { intra_threads: threads.max(1), provider: provider.clone(), ..Self::default() }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        let provider = Provider::default();
        Self { intra_threads: 1, max_candidates: 8, split: SplitChoice::Measured, provider }
    }
}
