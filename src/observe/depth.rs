//! How many items wait in a queue: each carries a guard, so that whatever becomes of it, the gauge is right.

use metrics::Gauge;

/// One item that waits; dropped when it waits no longer.
pub struct Depth(Gauge);

impl std::fmt::Debug for Depth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Depth")
    }
}

impl Depth {
    pub(super) fn of(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
