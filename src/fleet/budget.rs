//! The CPU that learning may use: a token bucket over CPU time, kept for the life of the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::learn::{Learner, Pace, Publication, Step};

/// Longest stretch of work before new samples are looked at: an alarm must not wait for a training.
const STRETCH: Duration = Duration::from_millis(250);

/// A bucket of CPU seconds: pure, time comes in as arguments.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    credit: f64,
    rate: f64,
}

impl Bucket {
    /// `wall` and `cpu` seconds have passed.
    fn spend(&mut self, wall: f64, cpu: f64) {
        self.tokens = (self.tokens + wall * self.rate).min(self.credit) - cpu;
    }
}

/// What a worker may spend on learning: `rate` CPU seconds per second after a first `credit`, whichever thread spends them.
/// It outlives the terms of the learner: an election is no new credit.
#[derive(Debug, Clone)]
pub struct Purse(Arc<Mutex<Account>>);

#[derive(Debug)]
struct Account {
    bucket: Bucket,
    /// Refilled up to here; none: nobody has asked yet.
    filled: Option<Instant>,
    spent: f64,
}

impl Purse {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: f64, credit: f64) -> Self {
        let bucket = Bucket { tokens: credit, credit, rate };
        Self(Arc::new(Mutex::new(Account { bucket, filled: None, spent: 0.0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // Numbers that are updated together; a panic elsewhere cannot have left them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cpu` seconds were spent up to `now`; true while more was used than has been refilled.
    fn spend(&self, now: Instant, cpu: f64) -> bool {
        let mut account = self.lock();
        let wall = account.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        account.filled = account.filled.max(Some(now));
        account.bucket.spend(wall.as_secs_f64(), cpu);
        account.spent += cpu;
        account.bucket.tokens < 0.0
    }

    /// Runs something that learning causes on a thread that does other things too, and pays for it.
    pub fn pay<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_cpu();
        let result = work();
        self.spend(Instant::now(), thread_cpu() - before);
        result
    }

    /// CPU seconds spent since it was made.
    #[must_use]
    pub fn spent(&self) -> f64 {
        self.lock().spent
    }
}

/// Holds one thread, whose whole CPU time is spent on learning, to the purse. Belongs to the thread that made it.
#[derive(Debug)]
pub struct Budget<'a, C = fn() -> Instant> {
    purse: &'a Purse,
    clock: C,
    cpu: f64,
    stretch: Instant,
    over: &'a AtomicBool,
}

impl<'a> Budget<'a> {
    /// Pays out of `purse`. `over` cuts work short.
    #[must_use]
    pub fn new(purse: &'a Purse, over: &'a AtomicBool) -> Self {
        Self::with_clock(purse, over, Instant::now)
    }
}

impl<'a, C: Fn() -> Instant> Budget<'a, C> {
    /// [`Budget::new`] with another clock for what passes beside the CPU time.
    #[must_use]
    pub fn with_clock(purse: &'a Purse, over: &'a AtomicBool, clock: C) -> Self {
        Self { purse, cpu: thread_cpu(), stretch: clock(), clock, over }
    }

    /// A stretch of work begins.
    pub fn begin(&mut self) {
        self.stretch = (self.clock)();
    }

    /// Whether more was used than has been refilled: then only alarms are looked for.
    pub fn in_debt(&mut self) -> bool {
        let cpu = thread_cpu();
        let spent = cpu - std::mem::replace(&mut self.cpu, cpu);
        self.purse.spend((self.clock)(), spent)
    }

    /// Lets the learner work as far as the budget reaches; what it has to tell, if anything. An alarm does not wait until
    /// the bucket fills again.
    pub fn work(&mut self, learner: &mut Learner) -> Option<Publication> {
        if self.in_debt() { learner.alarm() } else { learner.work(self) }
    }
}

impl<C: Fn() -> Instant> Pace for Budget<'_, C> {
    /// Asks for a pause while the bucket is in debt, after a stretch of work, and when the term is over. It never rests
    /// itself: samples must be looked at meanwhile.
    fn slice(&mut self) -> Step {
        let stretched = (self.clock)().saturating_duration_since(self.stretch) >= STRETCH;
        let enough = self.in_debt() || stretched || self.over.load(Ordering::Acquire);
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

    proptest! {
        /// Working only while out of debt, no stretch of time sees more CPU than the credit, the rate, and one slice.
        #[test]
        fn never_uses_more_than_credit_and_rate(
            rate in 0.01..2.0_f64, credit in 0.0..60.0_f64, slices in prop::collection::vec(0.0..5.0_f64, 1..100),
        ) {
            let mut bucket = Bucket { tokens: credit, credit, rate };
            let (mut wall, mut cpu) = (0.0, 0.0);
            for slice in slices {
                let works = bucket.tokens >= 0.0;
                wall += slice;
                cpu += if works { slice } else { 0.0 };
                bucket.spend(slice, if works { slice } else { 0.0 });
                prop_assert!(cpu <= credit + rate * wall + 5.0 + 1e-6);
            }
        }
    }

    /// One test for a bug: each term of a learner had a credit of its own, and its CPU time counted from zero.
    #[test]
    fn a_new_term_goes_on_with_what_is_left() {
        let (purse, over, start) = (Purse::new(0.5, 10.0), AtomicBool::new(false), Instant::now());
        assert!(!purse.spend(start, 9.0));
        for term in 0..3 {
            let mut budget = Budget::with_clock(&purse, &over, || start);
            let in_debt = purse.spend(start, 0.5 + f64::from(term)) | budget.in_debt();
            assert_eq!(in_debt, term > 0, "term {term}");
        }
        assert!((13.5..13.6).contains(&purse.spent()), "{}", purse.spent());
        assert!(!purse.spend(start + Duration::from_secs(10), 0.0), "refilled by then");
    }
}
