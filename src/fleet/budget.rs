//! The CPU that learning may use, and has: a token bucket over CPU time, kept for the life of the process.
//!
//! A promise in both directions. Learning takes no more than its credit and its rate, over any time. And it gets its rate,
//! however busy the machine is: while there is credit and no certificate stands it has a normal thread's share, for nothing
//! can leave early before; once exits are on it has a normal thread's share whenever it had less than its rate of late, and
//! takes the rest of its credit only from what frames leave idle. A thread that has lowered its priority cannot raise it
//! again without privileges, so what is done at low priority is done by a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::learn::{Learner, Pace, Publication, Step};

/// Longest stretch of work before new samples are looked at: an alarm must not wait for a training.
const STRETCH: Duration = Duration::from_millis(250);
/// How long ago learning may have had less than its rate, or more, for that to be made up for, in seconds.
const ARREARS_S: f64 = 5.0;

/// How learning may go on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Not at all: more was used than has been refilled. Alarms alone are looked for.
    Rest,
    /// With what frames leave idle.
    Low,
    /// As any other thread.
    Normal,
}

/// A bucket of CPU seconds: pure, time comes in as arguments.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    credit: f64,
    rate: f64,
    /// What the rate has promised of late and learning has not had; negative: it had more.
    owed: f64,
}

impl Bucket {
    fn new(rate: f64, credit: f64) -> Self {
        Self { tokens: credit, credit, rate, owed: 0.0 }
    }

    /// `wall` and `cpu` seconds have passed.
    fn spend(&mut self, wall: f64, cpu: f64) {
        let refilled = wall * self.rate;
        self.tokens = (self.tokens + refilled).min(self.credit) - cpu;
        let most = ARREARS_S * self.rate;
        self.owed = (self.owed + refilled - cpu).clamp(-most, most);
    }

    fn turn(&self, certified: bool) -> Turn {
        if self.tokens < 0.0 {
            Turn::Rest
        } else if certified && self.owed < 0.0 {
            Turn::Low
        } else {
            Turn::Normal
        }
    }
}

/// What a worker may spend on learning: `rate` CPU seconds per second after a first `credit`, whichever thread spends them.
/// It outlives the terms of the learner: an election is no new credit.
#[derive(Debug, Clone)]
pub struct CpuBudget(Arc<Mutex<Account>>);

#[derive(Debug)]
struct Account {
    bucket: Bucket,
    /// Refilled up to here; none: nobody has asked yet.
    filled: Option<Instant>,
    spent: f64,
}

impl CpuBudget {
    /// A full bucket. One thread at a time learns, so a rate above 1 would promise what cannot be had: it counts as 1.
    #[must_use]
    pub fn new(rate: f64, credit: f64) -> Self {
        let bucket = Bucket::new(rate.min(1.0), credit);
        Self(Arc::new(Mutex::new(Account { bucket, filled: None, spent: 0.0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // Numbers that are updated together; a panic elsewhere cannot have left them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cpu` seconds were spent up to `now`; how to go on, with or without a certificate in force.
    fn spend(&self, now: Instant, cpu: f64, certified: bool) -> Turn {
        let mut account = self.lock();
        let wall = account.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        account.filled = account.filled.max(Some(now));
        account.bucket.spend(wall.as_secs_f64(), cpu);
        account.spent += cpu;
        account.bucket.turn(certified)
    }

    /// Runs something that learning causes on a thread that does other things too, and charges its CPU time.
    pub fn charge<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_cpu();
        let result = work();
        let _ = self.spend(Instant::now(), thread_cpu() - before, false);
        result
    }

    /// CPU seconds spent since it was made.
    #[must_use]
    pub fn spent(&self) -> f64 {
        self.lock().spent
    }
}

/// Holds one thread, whose whole CPU time is spent on learning, to the budget. Belongs to the thread that made it.
#[derive(Debug)]
pub struct ThreadPace<'a, C = fn() -> Instant> {
    budget: &'a CpuBudget,
    clock: C,
    cpu: f64,
    stretch: Instant,
    over: &'a AtomicBool,
    /// The turn that the present stretch is worked in, and whether a certificate stands.
    turn: Turn,
    certified: bool,
}

impl<'a> ThreadPace<'a> {
    /// Charges `budget`. `over` cuts work short.
    #[must_use]
    pub fn new(budget: &'a CpuBudget, over: &'a AtomicBool) -> Self {
        Self::with_clock(budget, over, Instant::now)
    }
}

impl<'a, C: Fn() -> Instant> ThreadPace<'a, C> {
    /// [`ThreadPace::new`] with another clock for what passes beside the CPU time.
    #[must_use]
    pub fn with_clock(budget: &'a CpuBudget, over: &'a AtomicBool, clock: C) -> Self {
        Self { budget, cpu: thread_cpu(), stretch: clock(), clock, over, turn: Turn::Normal, certified: false }
    }

    /// A stretch of work begins.
    pub fn begin(&mut self) {
        self.stretch = (self.clock)();
    }

    /// How this learner may go on.
    pub fn turn(&mut self, learner: &Learner) -> Turn {
        self.certified = learner.set().certificate().is_some();
        self.charge()
    }

    fn charge(&mut self) -> Turn {
        let cpu = thread_cpu();
        let spent = cpu - std::mem::replace(&mut self.cpu, cpu);
        self.budget.spend((self.clock)(), spent, self.certified)
    }

    /// Lets the learner work for as long as `turn` lasts; what it has to tell, if anything. An alarm does not wait until the
    /// bucket fills again.
    pub fn work(&mut self, learner: &mut Learner, turn: Turn) -> Option<Publication> {
        self.certified = learner.set().certificate().is_some();
        self.turn = turn;
        if turn == Turn::Rest { learner.alarm() } else { learner.work(self) }
    }
}

impl<C: Fn() -> Instant> Pace for ThreadPace<'_, C> {
    /// Asks for a pause when the turn is over, after a stretch of work, and when the term is over. It never rests itself:
    /// samples must be looked at meanwhile.
    fn slice(&mut self) -> Step {
        let stretched = (self.clock)().saturating_duration_since(self.stretch) >= STRETCH;
        let enough = self.charge() != self.turn || stretched || self.over.load(Ordering::Acquire);
        if enough { Step::Pause } else { Step::Continue }
    }
}

fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One slice of a learner that always has work: what it gets of `wall` seconds in each turn.
    fn slice(bucket: &mut Bucket, certified: bool, wall: f64, low: f64, normal: f64) -> (Turn, f64) {
        let turn = bucket.turn(certified);
        let cpu = match turn {
            Turn::Rest => 0.0,
            Turn::Low => low * wall,
            Turn::Normal => normal * wall,
        };
        bucket.spend(wall, cpu);
        (turn, cpu)
    }

    proptest! {
        /// Working only while out of debt, no stretch of time sees more CPU than the credit, the rate, and one slice.
        #[test]
        fn never_uses_more_than_credit_and_rate(
            rate in 0.01..1.0_f64, credit in 0.0..60.0_f64,
            slices in prop::collection::vec((0.0..5.0_f64, any::<bool>()), 1..100),
        ) {
            let mut bucket = Bucket::new(rate, credit);
            let (mut wall, mut cpu) = (0.0, 0.0);
            for (passes, certified) in slices {
                wall += passes;
                cpu += slice(&mut bucket, certified, passes, 1.0, 1.0).1;
                prop_assert!(cpu <= credit + rate * wall + 5.0 + 1e-6);
            }
        }

        /// Goal: on a machine whose every core is wanted by frames learning has the share of a normal thread until the first
        /// certificate or the end of the credit, and between half of its rate and all of it from then on, whatever was
        /// before. Method: slices of 10 ms; a normal thread gets `normal` of them beside one lane a core, one of low
        /// priority `low`.
        #[test]
        fn a_busy_machine_gives_it_its_rate_and_no_more(
            cores in 1..=32_u32, credit in 0.0..20.0_f64, certified_at in 0.0..40.0_f64, low in 0.0..0.035_f64,
            idle_before in 0.0..30.0_f64,
        ) {
            const SLICE: f64 = 0.01;
            const WINDOW_S: f64 = 30.0;
            let (rate, normal) = ((0.05 * f64::from(cores)).min(1.0), f64::from(cores) / f64::from(cores + 1));
            let mut bucket = Bucket::new(rate, credit);
            let (mut now, mut used) = (0.0, 0.0);
            while now < certified_at {
                let (turn, cpu) = slice(&mut bucket, false, SLICE, low, normal);
                used += cpu;
                prop_assert!(used > credit || turn == Turn::Normal, "{used} of {credit} used");
                now += SLICE;
            }
            // Certified, and for a while there are idle cores.
            let busy = now + idle_before;
            while now < busy {
                slice(&mut bucket, true, SLICE, 1.0, 1.0);
                now += SLICE;
            }
            for _ in 0..3 {
                let mut had = 0.0;
                for _ in 0..(WINDOW_S / SLICE) as u32 {
                    had += slice(&mut bucket, true, SLICE, low, normal).1;
                }
                let share = had / WINDOW_S;
                prop_assert!(share >= rate.min(normal) / 2.0, "{share} of {rate}");
                prop_assert!(share <= rate * (1.0 + 2.0 * ARREARS_S / WINDOW_S) + SLICE, "{share} of {rate}");
            }
        }

        /// Goal: an idle core is used as long as there is credit, certificate or not.
        #[test]
        fn an_idle_machine_lends_it_the_credit(rate in 0.01..0.9_f64, credit in 1.0..60.0_f64, certified in any::<bool>()) {
            let mut bucket = Bucket::new(rate, credit);
            let mut used = 0.0;
            while bucket.turn(certified) != Turn::Rest {
                used += slice(&mut bucket, certified, 0.01, 1.0, 1.0).1;
            }
            prop_assert!(used >= credit);
        }
    }

    /// One test for a bug: each term of a learner had a credit of its own, and its CPU time counted from zero.
    #[test]
    fn a_new_term_goes_on_with_what_is_left() {
        let (budget, over, start) = (CpuBudget::new(0.5, 10.0), AtomicBool::new(false), Instant::now());
        assert_eq!(budget.spend(start, 9.0, false), Turn::Normal);
        for term in 0..3 {
            let mut pace = ThreadPace::with_clock(&budget, &over, || start);
            let turns = [budget.spend(start, 0.5 + f64::from(term), false), pace.charge()];
            assert_eq!(turns.contains(&Turn::Rest), term > 0, "term {term}");
        }
        assert!((13.5..13.6).contains(&budget.spent()), "{}", budget.spent());
        assert_eq!(budget.spend(start + Duration::from_secs(10), 0.0, false), Turn::Normal, "refilled by then");
    }
}
