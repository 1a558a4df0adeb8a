//! How a lane comes to its next policy: left for it by the thread that follows the heads topic, taken between two batches.

use std::sync::{Arc, Mutex, PoisonError};

use crate::heads::HeadSet;

/// What a lane serves with: a policy and a backbone cut at its exits.
#[derive(Debug)]
pub struct Serving<S> {
    /// Heads and thresholds.
    pub heads: Arc<HeadSet>,
    /// Cut at `heads.exits()`. None: the lane's present cut already is.
    pub segments: Option<S>,
}

/// The place where a lane finds what it serves with next. The newest wins.
#[derive(Debug)]
pub struct Handover<S>(Mutex<Option<Serving<S>>>);

impl<S> Default for Handover<S> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<S> Handover<S> {
    /// Leaves `serving` for the lane to take between two batches.
    pub fn put(&self, serving: Serving<S>) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A cut that was never taken must not be lost when the next policy needs the same one.
        let segments = serving.segments.or_else(|| place.take().and_then(|earlier| earlier.segments));
        *place = Some(Serving { heads: serving.heads, segments });
    }

    pub(super) fn take(&self) -> Option<Serving<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
