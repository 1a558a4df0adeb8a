//! What a worker tells of itself: every part reports here, and from here it goes to Prometheus, to the health probes, to
//! the status page and to the demo's table.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::depth::Depth;
use super::health::{Condition, Health, Heartbeat, STALE_AFTER};
use super::metrics::{BuildInfo, Loss, Metrics, MetricsError, Queue, Rebalance, SampleOutcome, Stage};
use super::served::Served;
use super::status::{self, Status};
use crate::frame::RejectReason;
use crate::heads::HeadSet;
use crate::learn::{LearnStatus, LearnerState, SampleRejection};
use crate::plan::{ExitId, Plan};
use crate::prediction::AuditNote;
use crate::promise::served::Shown;

/// One worker's reports. Shared through an `Arc`; reporting never blocks for long and never allocates per frame.
#[derive(Debug)]
pub struct Telemetry {
    worker: String,
    plan: Arc<Plan>,
    started: Instant,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    heads: ArcSwap<HeadSet>,
    learns: AtomicBool,
    learning: Mutex<Option<LearnStatus>>,
    learn_cpu_ms: AtomicU64,
    served: Served,
    flops_spent: AtomicU64,
    flops_plain: AtomicU64,
    topic: Mutex<Option<Arc<str>>>,
    assigned: Mutex<BTreeSet<i32>>,
}

/// Locks what a panic elsewhere cannot have left half written: every update is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Telemetry {
    /// Telemetry of one worker, with metrics of its own: two workers in one process do not mix.
    ///
    /// # Errors
    /// When the metrics table is refused, which a test rules out.
    pub fn new(worker: &str, plan: &Arc<Plan>) -> Result<Self, MetricsError> {
        Self::with_health(worker, plan, Health::new(Instant::now(), STALE_AFTER))
    }

    /// The same where the probes have been answered since before the model was loaded.
    ///
    /// # Errors
    /// As [`Telemetry::new`].
    pub fn with_health(worker: &str, plan: &Arc<Plan>, health: Arc<Health>) -> Result<Self, MetricsError> {
        let (backbone, identity) = (plan.backbone.short(), plan.plan.short());
        let build = BuildInfo { version: env!("CARGO_PKG_VERSION"), backbone: &backbone, plan: &identity };
        health.set(Condition::ModelLoaded, true);
        Ok(Self {
            worker: worker.into(),
            plan: Arc::clone(plan),
            started: Instant::now(),
            metrics: Metrics::new(build, plan.candidates.len())?,
            health,
            heads: ArcSwap::from_pointee(HeadSet::empty()),
            learns: AtomicBool::new(false),
            learning: Mutex::new(None),
            learn_cpu_ms: AtomicU64::new(0),
            served: Served::new(Instant::now()),
            flops_spent: AtomicU64::new(0),
            flops_plain: AtomicU64::new(0),
            topic: Mutex::new(None),
            assigned: Mutex::new(BTreeSet::new()),
        })
    }

    /// The metrics, for the endpoint.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The health, for the probes.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Registers a thread that must show that it lives.
    #[must_use]
    pub fn heartbeat(&self, thread: &str) -> Heartbeat {
        self.health.heartbeat(thread, Instant::now())
    }

    /// Housekeeping of the metrics, to be called every [`super::metrics::TICK`].
    pub fn tick(&self) {
        self.metrics.tick();
        self.metrics.served(&self.served.bounds());
    }

    /// The broker answers, or does not.
    pub fn broker(&self, reachable: bool) {
        self.health.set(Condition::BrokerReachable, reachable);
    }

    /// The heads topic was read to its end.
    pub fn heads_read(&self) {
        self.health.set(Condition::HeadsRead, true);
    }

    /// No more frames are taken.
    pub fn draining(&self) {
        self.health.drain();
    }

    /// A frame arrived.
    pub fn received(&self) {
        self.metrics.frames_received.increment(1);
    }

    /// So many records can be answered by nobody.
    pub fn lost(&self, reason: Loss, records: u64) {
        self.metrics.lost(reason, records);
    }

    /// So many frames of so many bytes are taken and not finished.
    pub fn in_flight(&self, frames: usize, bytes: usize) {
        self.metrics.frames_in_flight.set(frames as f64);
        self.metrics.in_flight_bytes.set(bytes as f64);
    }

    /// So many partitions are held back.
    pub fn paused_partitions(&self, partitions: usize) {
        self.metrics.paused_partitions.set(partitions as f64);
    }

    /// Kafka refused a commit.
    pub fn commit_failed(&self) {
        self.metrics.commit_failures.increment(1);
    }

    /// Kafka did not take an answer.
    pub fn undelivered(&self) {
        self.metrics.delivery_failures.increment(1);
    }

    /// Lag of an assigned partition, in records.
    pub fn lag(&self, topic: &str, partition: i32, records: i64) {
        if lock(&self.assigned).contains(&partition) {
            self.metrics.set_lag(&self.topic(topic), partition, records);
        }
    }

    /// The assignment changed to these partitions.
    pub fn rebalanced(&self, kind: Rebalance, topic: &str, partitions: &[i32]) {
        self.metrics.rebalance(kind);
        self.health.set(Condition::AssignmentHeld, kind != Rebalance::Error);
        let now: BTreeSet<i32> = partitions.iter().copied().collect();
        let before = std::mem::replace(&mut *lock(&self.assigned), now.clone());
        for gone in before.difference(&now) {
            self.metrics.forget_lag(&self.topic(topic), *gone);
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        Arc::clone(lock(&self.topic).get_or_insert_with(|| Arc::from(name)))
    }

    /// An item waits in a queue, for as long as the guard lives.
    #[must_use]
    pub fn waits(&self, queue: Queue) -> Depth {
        self.metrics.waits(queue)
    }

    /// A lane failed; the worker stops.
    pub fn lane_failed(&self) {
        self.metrics.lane_failures.increment(1);
    }

    /// A batch of so many frames begins.
    pub fn batch(&self, frames: usize) {
        self.metrics.batch_size.record(frames as f64);
    }

    /// One call of a stage took so long.
    pub fn stage(&self, stage: Stage, time: Duration) {
        self.metrics.stage(stage, time);
    }

    /// A frame was answered: where, how long after its arrival, how long it had waited, and when it was captured.
    pub fn answered(&self, exit: Option<ExitId>, total: Duration, queue: Duration, captured_at_ms: Option<i64>) {
        self.metrics.answered(exit, total);
        self.metrics.queue_seconds.record(queue.as_secs_f64());
        if let Some(captured) = captured_at_ms.and_then(|ms| u64::try_from(ms).ok()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // Cameras' clocks run ahead at times: such a frame has age zero.
            self.metrics.frame_age_seconds.record(now.saturating_sub(Duration::from_millis(captured)).as_secs_f64());
        }
    }

    /// A frame was audited.
    pub fn audited(&self, note: Option<&AuditNote>) {
        self.metrics.audits.increment(1);
        if note.is_some_and(|note| !note.agrees) {
            self.metrics.audit_disagreements.increment(1);
        }
    }

    /// A frame was answered: with which probability it was audited, fixed before its draw, whether an exit answered it, and
    /// what its audit showed if it had one.
    pub fn served(&self, probability: f64, early: bool, audit: Option<Shown>) {
        self.served.frame(probability, early, audit);
    }

    /// FLOPs spent on a frame, against those of the plain model on it (none for a copy, which is no frame).
    pub fn flops(&self, spent: u64, plain: u64) {
        self.metrics.flops_spent.increment(spent);
        self.metrics.flops_plain.increment(plain);
        self.metrics.flops_saved.increment(plain.saturating_sub(spent));
        self.flops_spent.fetch_add(spent, Ordering::Relaxed);
        self.flops_plain.fetch_add(plain, Ordering::Relaxed);
    }

    /// FLOPs so far: (spent, what the plain model would have spent).
    #[must_use]
    pub fn flops_totals(&self) -> (u64, u64) {
        (self.flops_spent.load(Ordering::Relaxed), self.flops_plain.load(Ordering::Relaxed))
    }

    /// A frame became a dead letter.
    pub fn dead_letter(&self, reason: RejectReason) {
        self.metrics.dead_letter(reason);
    }

    /// A sample was sent or dropped.
    pub fn sample(&self, outcome: SampleOutcome) {
        self.metrics.samples(outcome, 1);
    }

    /// A sample was unfit to learn from.
    pub fn sample_rejected(&self, why: &SampleRejection) {
        self.metrics.sample_rejected(why);
    }

    /// A record of the heads topic was judged.
    pub fn snapshot(&self, outcome: &'static str, reason: &'static str) {
        self.metrics.snapshot(outcome, reason);
    }

    /// A policy is in force from now on.
    pub fn policy(&self, heads: &Arc<HeadSet>) {
        let metrics = &self.metrics;
        metrics.policy_version.set(heads.version() as f64);
        metrics.audit_rate.set(heads.audit_rate());
        metrics.disagreement_bound.set(heads.certificate().map_or(f64::NAN, |certificate| certificate.bound));
        for point in &self.plan.candidates {
            let (version, threshold) = in_force(heads, point.exit);
            metrics.exit_in_force(point.exit, version, threshold);
        }
        self.heads.store(Arc::clone(heads));
    }

    /// The policy in force.
    #[must_use]
    pub fn heads(&self) -> Arc<HeadSet> {
        self.heads.load_full()
    }

    /// This worker learns for the fleet, or no longer does.
    pub fn learner(&self, here: bool) {
        self.learns.store(here, Ordering::Relaxed);
        self.metrics.learns(if here { LearnerState::CatchingUp } else { LearnerState::Idle });
        if !here {
            *lock(&self.learning) = None;
        }
    }

    /// How learning stands, and the CPU seconds it has taken.
    pub fn learning(&self, status: LearnStatus, cpu_s: f64) {
        self.metrics.learns(status.learner);
        self.metrics.learn_window.set(status.window_samples as f64);
        self.metrics.learn_cpu_seconds.set(cpu_s);
        self.learn_cpu_ms.store((cpu_s * 1e3) as u64, Ordering::Relaxed);
        let alarms = status.alarms;
        let before = lock(&self.learning).replace(status).map_or(0, |earlier| earlier.alarms);
        self.metrics.alarms.increment(alarms.saturating_sub(before));
    }

    /// Everything, for the status page.
    #[must_use]
    pub fn status(&self) -> Status {
        let (totals, heads) = (self.metrics.totals(), self.heads());
        let (spent, plain) = self.flops_totals();
        let learning = lock(&self.learning).clone();
        let exits = self.plan.candidates.iter().map(|point| {
            let (version, threshold) = in_force(&heads, point.exit);
            let frames = totals.exits.get(point.exit.index()).copied().unwrap_or_default();
            status::Exit { exit: point.exit.0, flops_fraction: point.flops_fraction, threshold, version, frames }
        });
        let certificate = heads.certificate();
        Status {
            worker: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            model: self.plan.backbone.short(),
            frames: status::Frames {
                total: totals.finished(),
                exit: totals.early(),
                full: totals.full,
                dead_letters: totals.dead_letters,
            },
            served: self.served.bounds().iter().map(status::Served::of).collect(),
            hit_rate: self.metrics.hit_ratio(),
            flops_ratio: (plain > 0).then(|| spent as f64 / plain as f64),
            exits: exits.collect(),
            policy: status::Policy {
                version: heads.version(),
                epsilon: certificate.map_or(0.0, |c| c.epsilon),
                delta: certificate.map_or(0.0, |c| c.delta),
                bound: certificate.map(|c| c.bound),
                audits: certificate.map_or(0, |c| c.n),
                disagreements: certificate.map_or(0, |c| c.disagreements),
                audit_rate: heads.audit_rate(),
                note: learning.as_ref().map(|status| status.why.clone()).unwrap_or_default(),
            },
            learner: status::Learner {
                here: self.learns.load(Ordering::Relaxed),
                state: self.learner_state(learning.as_ref()).as_str(),
                window: learning.as_ref().map_or(0, |status| status.window_samples as u64),
                cpu_s: self.learn_cpu_ms.load(Ordering::Relaxed) as f64 / 1e3,
            },
            partitions: self.partitions(),
        }
    }

    fn learner_state(&self, learning: Option<&LearnStatus>) -> LearnerState {
        match learning {
            Some(status) => status.learner,
            None if self.learns.load(Ordering::Relaxed) => LearnerState::CatchingUp,
            None => LearnerState::Idle,
        }
    }

    fn partitions(&self) -> Vec<status::Partition> {
        let topic = lock(&self.topic).as_deref().unwrap_or_default().to_owned();
        let assigned = lock(&self.assigned).clone();
        let lag = |partition| self.metrics.lag(partition);
        let partition = |partition| status::Partition { topic: topic.clone(), partition, lag: lag(partition) };
        assigned.into_iter().map(partition).collect()
    }
}

/// Version of an exit's head and its threshold; (0, none) where the exit is off.
fn in_force(heads: &HeadSet, exit: ExitId) -> (u64, Option<f64>) {
    match heads.exits().iter().position(|other| *other == exit) {
        Some(position) => (heads.head(position).sequence(), Some(f64::from(heads.threshold(position).get()))),
        None => (0, None),
    }
}
