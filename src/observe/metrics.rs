//! Typed handles on the metrics of [`TABLE`]: registered once at start, so that a frame looks nothing up.
//!
//! Every [`Metrics`] has a registry of its own (two workers in one process do not mix), is cheap to clone through its `Arc`
//! and is filled from any thread. Knows nothing of who fills it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::depth::Depth;
pub use super::labels::{Loss, Outcome, Queue, Rebalance, SampleOutcome, Stage};
use super::register::Register;
use super::table;
pub use super::table::{Kind, PROCESS_METRICS, Spec, TABLE, markdown};
use crate::frame::RejectReason;
use crate::learn::{LearnerState, SampleRejection};
use crate::plan::ExitId;
use crate::promise::history::Window;
use crate::promise::served::Bounds;

pub use ::metrics::{Counter, Gauge, Histogram};

/// Candidates that a plan has at most.
const EXITS_MAX: usize = 8;
/// Where the whole model stands in lists by exit; exit 1 stands at 1.
const FULL: usize = 0;
/// The hit ratio is taken over so many ticks.
const RATIO_TICKS: usize = 12;
/// How often [`Metrics::tick`] wants to be called; the worker's input thread does so.
pub const TICK: Duration = Duration::from_secs(5);

/// All handles. Fields without labels are used as they are; the others through a method that takes the label's enum.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    /// Frames taken from Kafka.
    pub frames_received: Counter,
    /// Frames in a batch when it starts.
    pub batch_size: Histogram,
    /// Seconds from arrival to the start of the batch.
    pub queue_seconds: Histogram,
    /// Seconds from capture to answer; clamp negative ages (clock skew) to zero.
    pub frame_age_seconds: Histogram,
    /// FLOPs spent, heads and audits included.
    pub flops_spent: Counter,
    /// FLOPs that the whole model would have spent.
    pub flops_plain: Counter,
    /// FLOPs saved against the whole model.
    pub flops_saved: Counter,
    /// Frames audited.
    pub audits: Counter,
    /// Audited frames on which the exits would have answered otherwise.
    pub audit_disagreements: Counter,
    /// Share of frames chosen for an audit.
    pub audit_rate: Gauge,
    /// Certified bound; NaN without a certificate.
    pub disagreement_bound: Gauge,
    /// What was served wrong, by window: estimate, upper and lower bound.
    served: Vec<[Gauge; 3]>,
    /// Times the watch switched the exits off.
    pub alarms: Counter,
    /// Version of the policy in force.
    pub policy_version: Gauge,
    /// Samples in the learner's window.
    pub learn_window: Gauge,
    /// CPU seconds spent on learning.
    pub learn_cpu_seconds: Gauge,
    /// Frames taken and not finished.
    pub frames_in_flight: Gauge,
    /// Their bytes.
    pub in_flight_bytes: Gauge,
    /// Partitions held back by back-pressure.
    pub paused_partitions: Gauge,
    /// Commits that Kafka refused.
    pub commit_failures: Counter,
    /// Records that Kafka refused.
    pub delivery_failures: Counter,
    /// Batches that failed in the runtime.
    pub lane_failures: Counter,
    frames: Vec<Counter>,
    exits: Vec<Counter>,
    latency: Vec<Histogram>,
    heads_version: Vec<Gauge>,
    exit_threshold: Vec<Gauge>,
    dead_letters: Vec<Counter>,
    losses: Vec<Counter>,
    stages: Vec<Histogram>,
    samples: Vec<Counter>,
    samples_rejected: Vec<Counter>,
    rebalances: Vec<Counter>,
    queues: Vec<Gauge>,
    learner: Gauge,
    learner_state: Vec<Gauge>,
    hit_ratio: Gauge,
    answered: Answered,
    lag: Mutex<BTreeMap<(Arc<str>, i32), i64>>,
}

/// Answers so far by exit ([`FULL`]: the whole model), and the sums (early, full) as they were at the last ticks.
#[derive(Debug, Default)]
struct Answered {
    by_exit: [AtomicU64; EXITS_MAX + 1],
    dead_letters: AtomicU64,
    past: Mutex<VecDeque<(u64, u64)>>,
}

/// Frames finished since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Answers by exit, exit 1 first.
    pub exits: [u64; EXITS_MAX],
    /// Answers by the whole model.
    pub full: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

impl Totals {
    /// Answers by exits.
    #[must_use]
    pub fn early(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// Frames finished, whatever became of them.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.early() + self.full + self.dead_letters
    }
}

/// The process's metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the buckets of metric {name} are not valid: {reason}")]
pub struct MetricsError {
    name: &'static str,
    reason: String,
}

/// What `build_info` says.
#[derive(Debug, Clone, Copy)]
pub struct BuildInfo<'a> {
    /// Version of offramp.
    pub version: &'a str,
    /// Short fingerprint of the backbone.
    pub backbone: &'a str,
    /// Short fingerprint of the plan.
    pub plan: &'a str,
}

/// The recorder, with the buckets of the table: without them the exporter would render summaries.
fn recorder() -> Result<PrometheusRecorder, MetricsError> {
    let mut builder = PrometheusBuilder::new();
    for spec in TABLE.iter().filter(|spec| spec.kind == Kind::Histogram) {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(spec.name.to_owned()), spec.buckets)
            .map_err(|error| MetricsError { name: spec.name, reason: error.to_string() })?;
    }
    Ok(builder.build_recorder())
}

/// Estimate, upper and lower bound of one window.
fn served(register: &Register<'_>, window: Window) -> [Gauge; 3] {
    let specs = [&table::SERVED_DISAGREEMENT, &table::SERVED_BOUND, &table::SERVED_LOWER_BOUND];
    specs.map(|spec| register.gauge_with(spec, &[window.as_str(), "worker"]))
}

impl Metrics {
    /// Registers everything, so that every series is there (as zero) from the first scrape on. `candidates` is the number of
    /// exits that the plan has at most, 8 or less.
    ///
    /// # Errors
    /// If the table's buckets are refused by the exporter, which a test rules out.
    pub fn new(build: BuildInfo<'_>, candidates: usize) -> Result<Arc<Self>, MetricsError> {
        let recorder = recorder()?;
        let register = Register(&recorder);
        for spec in TABLE {
            register.describe(spec);
        }
        register.gauge_with(&table::BUILD_INFO, &[build.version, build.backbone, build.plan]).set(1.0);
        let exits: Vec<String> = (1..=candidates.min(EXITS_MAX)).map(|exit| exit.to_string()).collect();
        let answers = || std::iter::once("full").chain(exits.iter().map(String::as_str));
        let metrics = Self {
            handle: recorder.handle(),
            process: metrics_process::Collector::default(),
            frames_received: register.counter(&table::FRAMES_RECEIVED),
            batch_size: register.histogram(&table::BATCH_SIZE),
            queue_seconds: register.histogram(&table::QUEUE_SECONDS),
            frame_age_seconds: register.histogram(&table::FRAME_AGE_SECONDS),
            flops_spent: register.counter(&table::FLOPS_SPENT),
            flops_plain: register.counter(&table::FLOPS_PLAIN),
            flops_saved: register.counter(&table::FLOPS_SAVED),
            audits: register.counter(&table::AUDITS),
            audit_disagreements: register.counter(&table::AUDIT_DISAGREEMENTS),
            audit_rate: register.gauge(&table::AUDIT_RATE),
            disagreement_bound: register.gauge(&table::DISAGREEMENT_BOUND),
            served: Window::ALL.iter().map(|window| served(&register, *window)).collect(),
            alarms: register.counter(&table::ALARMS),
            policy_version: register.gauge(&table::POLICY_VERSION),
            learner: register.gauge(&table::LEARNER),
            learn_window: register.gauge(&table::LEARN_WINDOW),
            learn_cpu_seconds: register.gauge(&table::LEARN_CPU),
            frames_in_flight: register.gauge(&table::FRAMES_IN_FLIGHT),
            in_flight_bytes: register.gauge(&table::IN_FLIGHT_BYTES),
            paused_partitions: register.gauge(&table::PAUSED_PARTITIONS),
            commit_failures: register.counter(&table::COMMIT_FAILURES),
            delivery_failures: register.counter(&table::DELIVERY_FAILURES),
            lane_failures: register.counter(&table::LANE_FAILURES),
            frames: register.counters(&table::FRAMES, Outcome::ALL.iter().map(|outcome| outcome.as_str())),
            exits: register.counters(&table::EXITS, answers()),
            latency: answers().map(|exit| register.histogram_with(&table::LATENCY_SECONDS, &[exit])).collect(),
            heads_version: register.gauges(&table::HEADS_VERSION, exits.iter().map(String::as_str)),
            exit_threshold: register.gauges(&table::EXIT_THRESHOLD, exits.iter().map(String::as_str)),
            dead_letters: register
                .counters(&table::DEAD_LETTERS, RejectReason::ALL.iter().map(|reason| reason.as_str())),
            losses: register.counters(&table::RECORDS_LOST, Loss::ALL.iter().map(|reason| reason.as_str())),
            stages: Stage::ALL
                .iter()
                .map(|stage| register.histogram_with(&table::STAGE_SECONDS, &[stage.as_str()]))
                .collect(),
            samples: SampleOutcome::ALL
                .iter()
                .map(|outcome| register.counter_with(&table::SAMPLES, &[outcome.as_str(), ""]))
                .collect(),
            samples_rejected: SampleRejection::REASONS
                .iter()
                .map(|reason| register.counter_with(&table::SAMPLES, &["rejected", reason]))
                .collect(),
            rebalances: register.counters(&table::REBALANCES, Rebalance::ALL.iter().map(|kind| kind.as_str())),
            queues: register.gauges(&table::QUEUE_DEPTH, Queue::ALL.iter().map(|queue| queue.as_str())),
            learner_state: register.gauges(&table::LEARNER_STATE, LearnerState::ALL.iter().map(|state| state.as_str())),
            hit_ratio: register.gauge(&table::HIT_RATIO),
            answered: Answered::default(),
            lag: Mutex::new(BTreeMap::new()),
            recorder,
        };
        metrics.start();
        Ok(Arc::new(metrics))
    }

    /// First values of the gauges for which zero would be a lie.
    fn start(&self) {
        ::metrics::with_local_recorder(&self.recorder, || self.process.describe());
        self.learns(LearnerState::Idle);
        self.hit_ratio.set(f64::NAN);
        self.disagreement_bound.set(f64::NAN);
        self.exit_threshold.iter().for_each(|gauge| gauge.set(f64::NAN));
        self.served.iter().flatten().for_each(|gauge| gauge.set(f64::NAN));
    }

    /// What this worker served, by window.
    pub fn served(&self, bounds: &[(Window, Bounds); 3]) {
        for ([estimate, upper, lower], (_, bounds)) in self.served.iter().zip(bounds) {
            let told = |share: f64| if bounds.frames > 0 { share } else { f64::NAN };
            estimate.set(told(bounds.all.estimate));
            upper.set(told(bounds.all.upper));
            lower.set(told(bounds.all.lower));
        }
    }

    /// A frame was answered, after `latency` since its arrival; `exit` is `None` for the whole model.
    pub fn answered(&self, exit: Option<ExitId>, latency: Duration) {
        let outcome = if exit.is_some() { Outcome::Exit } else { Outcome::Full };
        self.frames[outcome as usize].increment(1);
        let at = exit.map_or(FULL, |exit| usize::from(exit.0));
        if let (Some(counter), Some(latency_seconds)) = (self.exits.get(at), self.latency.get(at)) {
            counter.increment(1);
            latency_seconds.record(latency.as_secs_f64());
        }
        if let Some(total) = self.answered.by_exit.get(at) {
            total.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A frame went to the dead letters.
    pub fn dead_letter(&self, reason: RejectReason) {
        self.frames[Outcome::DeadLetter as usize].increment(1);
        let at = RejectReason::ALL.iter().position(|&other| other == reason);
        if let Some(counter) = at.and_then(|at| self.dead_letters.get(at)) {
            counter.increment(1);
        }
        self.answered.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    /// So many records have no answer and no dead letter.
    pub fn lost(&self, reason: Loss, records: u64) {
        self.losses[reason as usize].increment(records);
    }

    /// One call of a stage took `time`.
    pub fn stage(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].record(time.as_secs_f64());
    }

    /// So many samples had this outcome.
    pub fn samples(&self, outcome: SampleOutcome, count: u64) {
        self.samples[outcome as usize].increment(count);
    }

    /// A sample was unfit to learn from.
    pub fn sample_rejected(&self, why: &SampleRejection) {
        let at = SampleRejection::REASONS.iter().position(|reason| *reason == why.as_str());
        if let Some(counter) = at.and_then(|at| self.samples_rejected.get(at)) {
            counter.increment(1);
        }
    }

    /// What this worker does for the fleet's learning.
    pub fn learns(&self, now: LearnerState) {
        for (state, gauge) in LearnerState::ALL.into_iter().zip(&self.learner_state) {
            gauge.set(f64::from(u8::from(state == now)));
        }
        self.learner.set(f64::from(u8::from(now != LearnerState::Idle)));
    }

    /// The assignment changed.
    pub fn rebalance(&self, kind: Rebalance) {
        self.rebalances[kind as usize].increment(1);
    }

    /// An item waits in a queue, for as long as the guard lives.
    #[must_use]
    pub fn waits(&self, queue: Queue) -> Depth {
        Depth::of(&self.queues[queue as usize])
    }

    /// The exit's head and threshold in force; `None`: the exit is off.
    pub fn exit_in_force(&self, exit: ExitId, version: u64, threshold: Option<f64>) {
        if let (Some(head), Some(gauge)) = (self.heads_version.get(exit.index()), self.exit_threshold.get(exit.index()))
        {
            head.set(version as f64);
            gauge.set(threshold.unwrap_or(f64::NAN));
        }
    }

    /// A record of the heads topic was judged. `reason` is empty for adopted ones and a fixed word otherwise, never foreign
    /// text: every new word is a new series. Rare, so it may look up.
    pub fn snapshot(&self, outcome: &'static str, reason: &'static str) {
        Register(&self.recorder).counter_with(&table::SNAPSHOTS, &[outcome, reason]).increment(1);
    }

    /// Lag of an assigned partition.
    pub fn set_lag(&self, topic: &Arc<str>, partition: i32, records: i64) {
        let mut lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        lag.insert((Arc::clone(topic), partition), records);
    }

    /// Forgets the lag of a partition that was taken away: it is another worker's to report.
    pub fn forget_lag(&self, topic: &Arc<str>, partition: i32) {
        let mut lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        lag.remove(&(Arc::clone(topic), partition));
    }

    /// Lag of a partition, if it is known.
    #[must_use]
    pub fn lag(&self, partition: i32) -> Option<i64> {
        let lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        lag.iter().find(|((_, id), _)| *id == partition).map(|(_, records)| *records)
    }

    /// Frames finished since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let load = |at: usize| self.answered.by_exit[at].load(Ordering::Relaxed);
        Totals {
            exits: std::array::from_fn(|index| load(index + 1)),
            full: load(FULL),
            dead_letters: self.answered.dead_letters.load(Ordering::Relaxed),
        }
    }

    /// Share of answered frames that left early over the last [`RATIO_TICKS`] ticks; `None` without frames.
    #[must_use]
    pub fn hit_ratio(&self) -> Option<f64> {
        let now = self.totals();
        let past = self.answered.past.lock().unwrap_or_else(PoisonError::into_inner);
        let (early, full) = past.front().copied().unwrap_or((0, 0));
        let (early, full) = (now.early().saturating_sub(early), now.full.saturating_sub(full));
        (early + full > 0).then(|| early as f64 / (early + full) as f64)
    }

    /// Housekeeping, every [`TICK`]: the hit ratio, the process's metrics, and the histograms' buffers, which grow between
    /// two calls.
    pub fn tick(&self) {
        self.hit_ratio.set(self.hit_ratio().unwrap_or(f64::NAN));
        let totals = self.totals();
        let mut past = self.answered.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == RATIO_TICKS {
            past.pop_front();
        }
        past.push_back((totals.early(), totals.full));
        drop(past);
        ::metrics::with_local_recorder(&self.recorder, || self.process.collect());
        self.handle.run_upkeep();
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.hit_ratio.set(self.hit_ratio().unwrap_or(f64::NAN));
        ::metrics::with_local_recorder(&self.recorder, || self.process.collect());
        let mut text = self.handle.render();
        self.render_lag(&mut text);
        text
    }

    /// The exporter cannot forget a series, so the lag, whose partitions come and go, is rendered here.
    fn render_lag(&self, text: &mut String) {
        let lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        let name = table::LAG.name;
        text.extend([format!("# HELP {name} {}\n# TYPE {name} gauge\n", table::LAG.help)]);
        // Kafka allows only letters, digits, '.', '_' and '-' in a topic's name: nothing to escape.
        text.extend(lag.iter().map(|((topic, partition), records)| {
            format!("{name}{{topic=\"{topic}\",partition=\"{partition}\"}} {records}\n")
        }));
    }
}
