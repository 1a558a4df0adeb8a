//! How long is measured.

use std::time::{Duration, Instant};

/// How many rounds a median is taken of.
pub(super) struct Effort {
    /// Fewest rounds, unless patience ends before.
    pub(super) fewest: usize,
    /// Most rounds.
    pub(super) most: usize,
    /// How long they may take where that is enough for the fewest.
    pub(super) budget: Duration,
    /// How long a large model is waited for. After that one round that is warm will do, and after twice as long a cold one.
    pub(super) patience: Duration,
}

/// To choose the way to cut, and the rows in a run: a worker waits for it to start.
pub(super) const TO_CUT: Effort =
    Effort { fewest: 5, most: 60, budget: Duration::from_millis(300), patience: Duration::from_secs(5) };
pub(super) const TO_PACE: Effort =
    Effort { budget: Duration::from_millis(1200), patience: Duration::from_secs(10), ..TO_CUT };
/// To show: for one who asks for nothing else. Long enough to outlast what else the machine does now and then.
pub(super) const TO_SHOW: Effort =
    Effort { fewest: 40, most: 3000, budget: Duration::from_secs(3), patience: Duration::from_secs(20) };

impl Effort {
    /// Whether so many rounds are enough.
    pub(super) fn is_spent(&self, rounds: usize, began: Instant) -> bool {
        let spent = began.elapsed();
        match rounds {
            0 => false,
            1 => spent > self.patience * 2,
            _ if rounds < self.fewest => spent > self.patience,
            _ => rounds >= self.most || spent > self.budget.min(self.patience),
        }
    }
}
