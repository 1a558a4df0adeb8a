//! The CPU that learning may use: a token bucket over the learning thread's own CPU time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{Pace, Step};

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

/// Holds a thread to `rate` CPU seconds per second after a first `credit`. Belongs to the thread that made it.
#[derive(Debug)]
pub struct Budget<'a> {
    bucket: Bucket,
    wall: Instant,
    cpu: f64,
    started: f64,
    stretch: Instant,
    over: &'a AtomicBool,
}

impl<'a> Budget<'a> {
    /// A full bucket. `over` cuts rests short.
    #[must_use]
    pub fn new(rate: f64, credit: f64, over: &'a AtomicBool) -> Self {
        let cpu = thread_cpu();
        Self {
            bucket: Bucket { tokens: credit, credit, rate },
            wall: Instant::now(),
            cpu,
            started: cpu,
            stretch: Instant::now(),
            over,
        }
    }

    /// A stretch of work begins.
    pub fn begin(&mut self) {
        self.stretch = Instant::now();
    }

    /// Whether more was used than has been refilled: then one slice at a time, with rests between.
    pub fn in_debt(&mut self) -> bool {
        let (wall, cpu) = (Instant::now(), thread_cpu());
        self.bucket.spend((wall - self.wall).as_secs_f64(), cpu - self.cpu);
        (self.wall, self.cpu) = (wall, cpu);
        self.bucket.tokens < 0.0
    }

    /// CPU seconds used since it was made.
    #[must_use]
    pub fn spent(&self) -> f64 {
        thread_cpu() - self.started
    }
}

impl Pace for Budget<'_> {
    /// Asks for a pause while the bucket is in debt, after a stretch of work, and when the term is over. It never rests
    /// itself: samples must be looked at meanwhile.
    fn slice(&mut self) -> Step {
        let enough = self.in_debt() || self.stretch.elapsed() >= STRETCH || self.over.load(Ordering::Acquire);
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
}
