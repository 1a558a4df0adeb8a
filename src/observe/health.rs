//! Is the worker alive, and is it ready? Written by its threads without a lock, read by the probes.
//!
//! Has no clock: whoever beats or asks says what time it is. *Live* means that no thread is stuck: a probe that fails
//! restarts the worker, so nothing that a restart would not cure may count (a broker that is away does not). *Ready* means
//! that the worker answers frames now; what is missing is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::Serialize;

/// A thread without a sign of life for this long is stuck, where nothing else is known: longer than any batch of most models.
pub const STALE_AFTER: Duration = Duration::from_mins(1);

/// What must hold before the worker is ready, in the order in which it comes true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The backbone is loaded and has run once.
    ModelLoaded,
    /// Kafka answers.
    BrokerReachable,
    /// The heads topic was read to its end.
    HeadsRead,
    /// The consumer group gave this worker its partitions (possibly none, where there are more workers than partitions).
    AssignmentHeld,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 4] = [Self::ModelLoaded, Self::BrokerReachable, Self::HeadsRead, Self::AssignmentHeld];

    /// The word in `/readyz`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelLoaded => "model-loaded",
            Self::BrokerReachable => "broker-reachable",
            Self::HeadsRead => "heads-read",
            Self::AssignmentHeld => "assignment-held",
        }
    }

    /// What it means that the condition does not hold.
    fn missing(self) -> &'static str {
        match self {
            Self::ModelLoaded => "the backbone is not loaded yet",
            Self::BrokerReachable => "no Kafka broker answers",
            Self::HeadsRead => "the heads topic is not read to its end yet",
            Self::AssignmentHeld => "the consumer group has not assigned partitions yet",
        }
    }
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict.
    pub ok: bool,
    /// What is wrong; empty if nothing is.
    pub missing: Vec<Missing>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// A condition's word or a thread's name.
    pub what: String,
    /// In words.
    pub why: String,
}

/// The worker's health. Shared through an `Arc`.
#[derive(Debug)]
pub struct Health {
    epoch: Instant,
    stale_after_ms: AtomicU64,
    conditions: [AtomicBool; Condition::ALL.len()],
    draining: AtomicBool,
    beats: ArcSwap<Vec<Arc<Beat>>>,
}

/// A thread's last sign of life.
#[derive(Debug)]
struct Beat {
    name: String,
    /// Milliseconds since the epoch, or one of the two words below.
    last_ms: AtomicU64,
}

/// The thread waits for work and owes no sign of life.
const PARKED: u64 = u64::MAX;
/// The thread ended without saying that it would.
const LOST: u64 = u64::MAX - 1;

impl Health {
    /// Nothing holds yet. A thread that has not beaten for `stale_after` is stuck; `now` starts the clock.
    #[must_use]
    pub fn new(now: Instant, stale_after: Duration) -> Arc<Self> {
        Arc::new(Self {
            epoch: now,
            stale_after_ms: AtomicU64::new(whole_ms(stale_after)),
            conditions: Default::default(),
            draining: AtomicBool::new(false),
            beats: ArcSwap::default(),
        })
    }

    /// Says whether a condition holds. May change back: an assignment can be lost.
    pub fn set(&self, condition: Condition, holds: bool) {
        self.conditions[condition as usize].store(holds, Ordering::Release);
    }

    /// From now on a thread may go so long without a sign of life, if that is longer than before: the model is slow.
    pub fn bear_with(&self, stale_after: Duration) {
        self.stale_after_ms.fetch_max(whole_ms(stale_after), Ordering::AcqRel);
    }

    /// From now on the worker finishes what it has and is not ready for more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Registers a thread. It beats while it works, parks while it waits, and retires when it ends in order; if the handle
    /// is dropped otherwise (a panic), the worker is no longer live.
    pub fn heartbeat(self: &Arc<Self>, name: impl Into<String>, now: Instant) -> Heartbeat {
        let beat = Arc::new(Beat { name: name.into(), last_ms: AtomicU64::new(self.millis(now)) });
        self.beats.rcu(|beats| beats.iter().chain(std::iter::once(&beat)).cloned().collect::<Vec<_>>());
        Heartbeat { health: Arc::clone(self), beat, retired: false }
    }

    /// `/livez`: no thread is stuck or lost.
    #[must_use]
    pub fn live(&self, now: Instant) -> Report {
        let now_ms = self.millis(now);
        let missing = self.beats.load().iter().filter_map(|beat| self.judge(beat, now_ms)).collect();
        report(missing)
    }

    /// `/readyz`: every condition holds, the worker is live and does not drain.
    #[must_use]
    pub fn ready(&self, now: Instant) -> Report {
        let mut missing: Vec<Missing> = Condition::ALL
            .iter()
            .filter(|&&condition| !self.conditions[condition as usize].load(Ordering::Acquire))
            .map(|condition| missing(condition.as_str(), condition.missing()))
            .collect();
        if self.draining.load(Ordering::Acquire) {
            missing.push(self::missing("draining", "the worker is shutting down"));
        }
        missing.extend(self.live(now).missing);
        report(missing)
    }

    /// `/startupz`: the backbone is loaded and the heads are read; from then on `/livez` counts.
    #[must_use]
    pub fn started(&self) -> Report {
        let needed = [Condition::ModelLoaded, Condition::HeadsRead];
        let missing = needed
            .iter()
            .filter(|&&condition| !self.conditions[condition as usize].load(Ordering::Acquire))
            .map(|condition| missing(condition.as_str(), condition.missing()))
            .collect();
        report(missing)
    }

    fn judge(&self, beat: &Beat, now_ms: u64) -> Option<Missing> {
        match beat.last_ms.load(Ordering::Acquire) {
            PARKED => None,
            LOST => Some(missing(&beat.name, "the thread ended unexpectedly")),
            last_ms => {
                let age = Duration::from_millis(now_ms.saturating_sub(last_ms));
                let why = format!("no sign of life for {} s", age.as_secs());
                (whole_ms(age) > self.stale_after_ms.load(Ordering::Acquire)).then(|| missing(&beat.name, why))
            }
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        whole_ms(now.saturating_duration_since(self.epoch)).min(LOST - 1)
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn missing(what: &str, why: impl Into<String>) -> Missing {
    Missing { what: what.to_owned(), why: why.into() }
}

fn report(missing: Vec<Missing>) -> Report {
    Report { ok: missing.is_empty(), missing }
}

/// A thread's handle on its sign of life; not to be shared between threads.
#[derive(Debug)]
pub struct Heartbeat {
    health: Arc<Health>,
    beat: Arc<Beat>,
    retired: bool,
}

impl Heartbeat {
    /// The thread works and got this far.
    pub fn beat(&self, now: Instant) {
        self.beat.last_ms.store(self.health.millis(now), Ordering::Release);
    }

    /// The thread is about to wait for work, however long that takes. The next [`Self::beat`] ends it.
    pub fn park(&self) {
        self.beat.last_ms.store(PARKED, Ordering::Release);
    }

    /// The thread ends in order.
    pub fn retire(mut self) {
        self.retired = true;
        let own = Arc::as_ptr(&self.beat);
        self.health.beats.rcu(|beats| {
            beats.iter().filter(|beat| !std::ptr::eq(Arc::as_ptr(beat), own)).cloned().collect::<Vec<_>>()
        });
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if !self.retired {
            self.beat.last_ms.store(LOST, Ordering::Release);
        }
    }
}
