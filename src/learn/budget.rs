//! The CPU that learning may use: a token bucket over the learning thread's own CPU time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{Pace, Step};

/// Longest stretch of work before new samples are looked at: an alarm must not wait for a training.
const STRETCH: Duration = Duration::from_millis(250);
/// Longest sleep before the end of the term is looked for.
const NAP: Duration = Duration::from_millis(100);

/// A bucket of CPU seconds: pure, time comes in as arguments.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    credit: f64,
    rate: f64,
}

impl Bucket {
    /// `wall` and `cpu` seconds have passed; returns how long to rest until the bucket is no longer in debt.
    fn spend(&mut self, wall: f64, cpu: f64) -> f64 {
        self.tokens = (self.tokens + wall * self.rate).min(self.credit) - cpu;
        (-self.tokens / self.rate).max(0.0)
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

    /// CPU seconds used since it was made.
    #[must_use]
    pub fn spent(&self) -> f64 {
        thread_cpu() - self.started
    }
}

impl Pace for Budget<'_> {
    /// Rests while the bucket is in debt; asks for a pause after a stretch of work and when the term is over.
    fn slice(&mut self) -> Step {
        let (wall, cpu) = (Instant::now(), thread_cpu());
        let rest = self.bucket.spend((wall - self.wall).as_secs_f64(), cpu - self.cpu);
        (self.wall, self.cpu) = (wall, cpu);
        let until = wall + Duration::from_secs_f64(rest.min(3600.0));
        while Instant::now() < until && !self.over.load(Ordering::Acquire) {
            std::thread::sleep(NAP.min(until.saturating_duration_since(Instant::now())));
        }
        if self.over.load(Ordering::Acquire) || self.stretch.elapsed() >= STRETCH {
            Step::Pause
        } else {
            Step::Continue
        }
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
        /// Resting as told, no stretch of time ever sees more CPU than the credit plus the rate allows.
        #[test]
        fn never_uses_more_than_credit_and_rate(
            rate in 0.01..2.0_f64, credit in 0.0..60.0_f64, slices in prop::collection::vec(0.0..5.0_f64, 1..100),
        ) {
            let mut bucket = Bucket { tokens: credit, credit, rate };
            let (mut wall, mut cpu, mut largest) = (0.0, 0.0, 0.0_f64);
            let mut rest = 0.0;
            for slice in slices {
                wall += rest + slice;
                cpu += slice;
                largest = largest.max(slice);
                rest = bucket.spend(rest + slice, slice);
                prop_assert!(cpu <= credit + rate * (wall + rest) + largest + 1e-6);
            }
        }
    }
}
