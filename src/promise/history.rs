//! What was served in the last hour, in the last day and since the start: tallies by minute and by hour, bounded.
//!
//! Has no clock: minutes come in as numbers. Time that goes back is counted with the newest minute.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::served::{Tally, TallyFault};

/// Minutes in the window of an hour.
const MINUTES: u64 = 60;
/// Hours in the window of a day.
const HOURS: u64 = 24;

/// A stretch of time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last sixty minutes, the present one included.
    Hour,
    /// The last twenty-four hours of the clock, the present one included.
    Day,
    /// All that was counted.
    Start,
}

impl Window {
    /// Every window.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Start];

    /// The word for a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Start => "start",
        }
    }
}

/// Tallies over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct History {
    start: Tally,
    minutes: VecDeque<(u64, Tally)>,
    hours: VecDeque<(u64, Tally)>,
}

impl History {
    /// Nothing yet; `least` as in [`Tally::new`].
    #[must_use]
    pub fn new(least: f64) -> Self {
        Self { start: Tally::new(least), minutes: VecDeque::new(), hours: VecDeque::new() }
    }

    /// Time goes on to this minute (since any beginning): what is too old for its window is forgotten.
    pub fn advance(&mut self, minute: u64) {
        let old = |entries: &mut VecDeque<(u64, Tally)>, now: u64, keep: u64| {
            while entries.front().is_some_and(|(at, _)| at.saturating_add(keep) <= now) {
                entries.pop_front();
            }
        };
        old(&mut self.minutes, minute, MINUTES);
        old(&mut self.hours, minute / MINUTES, HOURS);
    }

    /// Counts frames of this minute. One that is over is counted where it belongs while it is held, else with the oldest.
    pub fn add(&mut self, minute: u64, tally: &Tally) {
        self.advance(minute);
        self.start.add(tally);
        put(&mut self.minutes, minute, tally);
        put(&mut self.hours, minute / MINUTES, tally);
    }

    /// All that was counted within the window, as far as time has gone on.
    #[must_use]
    pub fn window(&self, window: Window) -> Tally {
        let entries = match window {
            Window::Hour => &self.minutes,
            Window::Day => &self.hours,
            Window::Start => return self.start.clone(),
        };
        entries.iter().fold(Tally::new(self.start.least()), |mut sum, (_, tally)| {
            sum.add(tally);
            sum
        })
    }
}

/// Adds to the entry of `at`, keeping the entries in order.
fn put(entries: &mut VecDeque<(u64, Tally)>, at: u64, tally: &Tally) {
    let place = entries.partition_point(|(held, _)| *held < at);
    match entries.get_mut(place) {
        Some((held, sum)) if *held == at => sum.add(tally),
        // Too late for an entry of its own: it must not outlive its window by making one that is older than the oldest.
        Some((_, oldest)) if place == 0 => oldest.add(tally),
        _ => entries.insert(place, (at, tally.clone())),
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    start: Tally,
    minutes: Vec<(u64, Tally)>,
    hours: Vec<(u64, Tally)>,
}

impl From<History> for Wire {
    fn from(history: History) -> Self {
        Self { start: history.start, minutes: history.minutes.into(), hours: history.hours.into() }
    }
}

impl TryFrom<Wire> for History {
    type Error = TallyFault;

    fn try_from(wire: Wire) -> Result<Self, TallyFault> {
        let sound = |entries: &[(u64, Tally)], most: u64| {
            let least = wire.start.least().to_bits();
            let span =
                entries.first().zip(entries.last()).map_or(0, |((first, _), (last, _))| last.saturating_sub(*first));
            span < most
                && entries.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b))
                && entries.iter().all(|(_, tally)| tally.least().to_bits() == least)
        };
        if !sound(&wire.minutes, MINUTES) || !sound(&wire.hours, HOURS) {
            return Err(TallyFault::new("a history out of order"));
        }
        Ok(Self { start: wire.start, minutes: wire.minutes.into(), hours: wire.hours.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(count: u64) -> Tally {
        let mut tally = Tally::new(0.01);
        (0..count).for_each(|_| tally.served(0.01, true));
        tally
    }

    proptest! {
        /// Goal: each window holds what was counted in it, in bounded room, also if time stands still or jumps. Method: against
        /// a list of everything; minutes only go on.
        #[test]
        fn windows_hold_what_they_say(steps in prop::collection::vec((prop_oneof![0..3_u64, 0..200_u64, Just(10_000)], 1..9_u64), 1..150)) {
            let (mut history, mut now, mut all) = (History::new(0.01), 5, Vec::new());
            for (step, count) in steps {
                now += step;
                history.add(now, &frames(count));
                all.push((now, count));
                let since = |oldest: u64| all.iter().filter(|(at, _)| *at >= oldest).map(|(_, count)| count).sum::<u64>();
                prop_assert_eq!(history.window(Window::Hour).frames(), since((now + 1).saturating_sub(MINUTES)));
                prop_assert_eq!(history.window(Window::Day).frames(), since((now / 60 + 1).saturating_sub(HOURS) * 60));
                prop_assert_eq!(history.window(Window::Start).frames(), since(0));
                prop_assert!(history.minutes.len() <= 60 && history.hours.len() <= 24);
            }
            let bytes = crate::heads::codec::encode(&history).expect("small");
            prop_assert!(bytes.len() < 40_000);
            prop_assert_eq!(crate::heads::codec::decode::<History>(&bytes).expect("our own"), history);
        }

        /// Goal: a clock that runs backwards loses no frame and makes no entry that stays.
        #[test]
        fn time_may_go_back(minutes in prop::collection::vec(0..500_u64, 1..100)) {
            let mut history = History::new(0.01);
            for minute in &minutes {
                history.add(*minute, &frames(1));
            }
            prop_assert_eq!(history.window(Window::Start).frames(), minutes.len() as u64);
            prop_assert!(history.minutes.len() <= 60 && history.hours.len() <= 24);
            let bytes = crate::heads::codec::encode(&history).expect("small");
            prop_assert!(crate::heads::codec::decode::<History>(&bytes).is_ok());
        }
    }

    #[test]
    fn a_history_out_of_order_is_refused() {
        let entry = |minute| (minute, frames(1));
        for minutes in
            [vec![entry(2), entry(1)], vec![entry(1), entry(1)], vec![entry(0), entry(60)], vec![(3, Tally::new(0.5))]]
        {
            let wire = Wire { start: Tally::new(0.01), minutes, hours: Vec::new() };
            assert!(History::try_from(wire).is_err());
        }
    }
}
