//! What this worker really served, counted frame by frame where it is answered: the bound that rests on random draws alone.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::promise::history::{History, Window};
use crate::promise::served::{Bounds, Shown, Tally};

/// Early answers that had a smaller chance of an audit than this count as wrong: the floor of the audit rate by default.
const LEAST_PROBABILITY: f64 = 0.01;

/// The frames of one worker.
#[derive(Debug)]
pub(super) struct Served {
    started: Instant,
    /// Since the sums were told last.
    present: Mutex<Tally>,
    history: Mutex<History>,
}

impl Served {
    pub(super) fn new(started: Instant) -> Self {
        let (present, history) = (Tally::new(LEAST_PROBABILITY), History::new(LEAST_PROBABILITY));
        Self { started, present: Mutex::new(present), history: Mutex::new(history) }
    }

    /// An answered frame: with which probability it was audited, whether an exit answered it, and what its audit showed if it
    /// had one.
    pub(super) fn frame(&self, probability: f64, early: bool, audit: Option<Shown>) {
        // Counts and sums stay usable whatever panicked beside them.
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        match audit {
            Some(shown) => present.audited(probability, shown),
            None => present.served(probability, early),
        }
    }

    /// What can be said now, by window.
    pub(super) fn bounds(&self) -> [(Window, Bounds); 3] {
        // A clock that never goes back.
        let minute = self.started.elapsed().as_secs() / 60;
        let present = {
            let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *present, Tally::new(LEAST_PROBABILITY))
        };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.add(minute, &present);
        Window::ALL.map(|window| (window, history.window(window).bounds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what was told is counted once, in every window, however often somebody looks.
    #[test]
    fn frames_are_counted_once() {
        let served = Served::new(Instant::now());
        for frame in 0..300 {
            served.frame(0.5, frame % 2 == 0, (frame % 3 == 0).then_some(Shown::Wrong));
            let seen = served.bounds();
            assert!(seen.iter().all(|(_, bounds)| bounds.frames == frame + 1), "{seen:?}");
        }
        let [(_, hour), ..] = served.bounds();
        // Audited frames are no early answers; each wrong one stands for one that was served.
        assert_eq!(hour.early, 100);
        assert!((hour.all.estimate - 100.0 / 300.0).abs() < 1e-3 && hour.all.lower > 0.2 && hour.all.upper < 0.34);
    }
}
