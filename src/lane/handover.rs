//! How a lane comes to its next policy: left for it by the thread that follows the heads topic, taken between two batches.

use std::sync::{Arc, Mutex, PoisonError};

use crate::heads::HeadSet;
use crate::plan::ExitId;

/// What a lane serves with: a policy and a backbone cut at its exits.
#[derive(Debug)]
pub struct Serving<S> {
    /// Heads and thresholds.
    pub heads: Arc<HeadSet>,
    /// Cut at `heads.exits()`. None: the lane's present cut already is, or `heads` has no exits, and goes with any cut.
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

/// Leaves a policy with every lane, and for each a backbone that `make` cut at its exits, unless the lanes' present `cut`
/// is that. A policy without exits is left at once, before anything is cut: loading sessions takes seconds in which exits
/// that lost their promise would go on answering.
///
/// # Errors
/// When the backbone cannot be cut. Lanes then keep what they have; exits that are to be off are off.
pub fn hand_over<S, E>(
    lanes: &[Arc<Handover<S>>],
    heads: &Arc<HeadSet>,
    cut: &[ExitId],
    make: impl Fn(&[ExitId]) -> Result<S, E>,
) -> Result<(), E> {
    let put = |lane: &Handover<S>, segments| lane.put(Serving { heads: Arc::clone(heads), segments });
    let fits = heads.exits() == cut;
    if fits || heads.exits().is_empty() {
        lanes.iter().for_each(|lane| put(lane, None));
    }
    if fits {
        return Ok(());
    }
    // All cuts are made before the first is handed over: either every lane changes or none.
    let segments = lanes.iter().map(|_| make(heads.exits())).collect::<Result<Vec<_>, _>>()?;
    lanes.iter().zip(segments).for_each(|(lane, segments)| put(lane, Some(segments)));
    Ok(())
}
