//! What time is taken with.

use std::time::{Duration, Instant};

use crate::backbone::cut::Backbone;

/// A lane of one thread does all its work in the caller's: its processor time is the cost, whoever else keeps the machine busy
/// while we measure. With more threads, or another provider than the CPU, only the wall clock sees all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Processor time of the calling thread.
    Thread,
    /// The time that passes.
    Wall,
}

/// When a [`Clock`] was looked at.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    wall: Instant,
    thread: Duration,
}

impl Backbone {
    /// What its runs are timed with.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let one_thread = self.options.intra_threads <= 1 && self.options.provider.is_cpu();
        if cfg!(unix) && one_thread { Clock::Thread } else { Clock::Wall }
    }
}

impl Clock {
    /// Looks at it.
    #[must_use]
    pub fn now(self) -> Moment {
        Moment { wall: Instant::now(), thread: thread_time() }
    }

    /// What has been spent since, on the same thread.
    #[must_use]
    pub fn since(self, before: Moment) -> Duration {
        match self {
            Self::Thread => thread_time().saturating_sub(before.thread),
            Self::Wall => before.wall.elapsed(),
        }
    }

    /// Milliseconds that `run` takes.
    pub(crate) fn timed<E>(self, run: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
        let before = self.now();
        run()?;
        Ok(self.since(before).as_secs_f64() * 1e3)
    }
}

#[cfg(unix)]
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(not(unix))]
fn thread_time() -> Duration {
    Duration::ZERO
}
