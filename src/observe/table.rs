//! The one table of all metrics: names, kinds, units, labels, help and buckets. Everything else refers to it.

/// What kind of time series a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by explicit buckets.
    Histogram,
}

impl Kind {
    /// The word that Prometheus uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Full name, with prefix and unit.
    pub name: &'static str,
    /// Kind of series.
    pub kind: Kind,
    /// Base unit in words; empty for plain numbers.
    pub unit: &'static str,
    /// Label names; what values they take is in the help.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
    /// Upper bounds of the buckets; empty unless a histogram.
    pub buckets: &'static [f64],
}

/// 0.5 ms to 10 s: what a frame may wait or take.
const LATENCY: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// 20 us to 2 s: what one step of a batch takes.
const STEP: &[f64] =
    &[0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
/// 10 ms to 2 minutes: age of a frame since its capture, which includes a backlog.
const AGE: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Exact sizes up to what a lane is ever configured for.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

macro_rules! specs {
    ($($id:ident = $kind:ident $name:literal, $unit:literal, [$($label:literal),*], $help:literal $(, $buckets:expr)?;)*) => {
        $(pub(super) const $id: Spec = Spec {
            name: concat!("offramp_", $name),
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
            buckets: specs!(@buckets $($buckets)?),
        };)*
        /// Every metric that offramp exports, in the order of a frame's way, without the `process_*` ones.
        pub const TABLE: &[Spec] = &[$($id),*];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
}

specs! {
    FRAMES_RECEIVED = Counter "frames_received_total", "frames", [], "Frames taken from Kafka.";
    FRAMES = Counter "frames_total", "frames", ["outcome"], "Frames finished, by outcome: exit, full or dead_letter.";
    EXITS = Counter "exits_total", "frames", ["exit"], "Frames answered, by the exit that answered; full is the whole model.";
    HIT_RATIO = Gauge "hit_ratio", "", [], "Share of answered frames that left early, over the last minute; NaN without frames.";
    DEAD_LETTERS = Counter "dead_letters_total", "frames", ["reason"], "Frames that can never be classified, by reason.";
    RECORDS_LOST = Counter "records_lost_total", "records", ["reason"], "Records of the frames topic that nobody can answer, by reason: unreadable (a broken batch, passed over; the log names its offsets).";
    FRAMES_IN_FLIGHT = Gauge "frames_in_flight", "frames", [], "Frames taken from Kafka whose offset is not finished.";
    IN_FLIGHT_BYTES = Gauge "in_flight_bytes", "bytes", [], "Bytes of the frames taken from Kafka whose offset is not finished.";
    QUEUE_DEPTH = Gauge "queue_depth", "items", ["queue"], "Items that wait, by queue: lanes (frames for a lane), answers and samples (not acknowledged by Kafka).";
    PAUSED_PARTITIONS = Gauge "paused_partitions", "partitions", [], "Partitions whose frames wait in Kafka because the worker is full.";
    QUEUE_SECONDS = Histogram "queue_seconds", "seconds", [], "Time from a frame's arrival to the start of its batch.", LATENCY;
    STAGE_SECONDS = Histogram "stage_seconds", "seconds", ["stage"], "Time of one call of a stage: decode, serve, audit (a batch each); publish (an answer, until acknowledged).", STEP;
    BATCH_SIZE = Histogram "batch_size", "frames", [], "Frames in a batch when it starts.", BATCH;
    LATENCY_SECONDS = Histogram "latency_seconds", "seconds", ["exit"], "Time from a frame's arrival to its answer, by exit.", LATENCY;
    FRAME_AGE_SECONDS = Histogram "frame_age_seconds", "seconds", [], "Time from a frame's capture to its answer, backlog included.", AGE;
    FLOPS_SPENT = Counter "flops_spent_total", "FLOP", [], "Floating point operations spent on frames, heads and audits included.";
    FLOPS_SAVED = Counter "flops_saved_total", "FLOP", [], "Floating point operations that the whole model would have spent on top, summed over the frames on which it would have.";
    FLOPS_PLAIN = Counter "flops_plain_total", "FLOP", [], "Floating point operations that the whole model would have spent on the same frames; 1 - spent / plain is what exits save, or lose.";
    AUDITS = Counter "audits_total", "frames", [], "Frames audited: they ran to the end with every exit's features recorded.";
    AUDIT_DISAGREEMENTS = Counter "audit_disagreements_total", "frames", [], "Audited frames on which an exit in force would have answered otherwise.";
    AUDIT_RATE = Gauge "audit_ratio", "", [], "Share of frames that are chosen for an audit.";
    DISAGREEMENT_BOUND = Gauge "disagreement_bound", "", [], "Certified upper bound on the share of answers that differ from the whole model's; NaN without a certificate.";
    SERVED_DISAGREEMENT = Gauge "served_disagreement", "", ["window", "scope"], "Estimated share of all served answers that differ from the whole model's, in the last hour, the last day and since the start; NaN without frames.";
    SERVED_BOUND = Gauge "served_disagreement_bound", "", ["window", "scope"], "The same, from above: missed with a probability of 5 % at most, from the random draws of the audits alone, whatever the frames were.";
    SERVED_LOWER_BOUND = Gauge "served_disagreement_lower_bound", "", ["window", "scope"], "The same, from below: more than the promise here means that it was broken.";
    ALARMS = Counter "alarms_total", "alarms", [], "Times the watch switched the exits off.";
    POLICY_VERSION = Gauge "policy_version", "", [], "Version of the policy in force; 0: nothing learned.";
    HEADS_VERSION = Gauge "heads_version", "", ["exit"], "Version of the head in force, by exit.";
    EXIT_THRESHOLD = Gauge "exit_threshold", "", ["exit"], "Confidence needed to leave, by exit; NaN: the exit is off.";
    SNAPSHOTS = Counter "snapshots_total", "snapshots", ["outcome", "reason"], "Records read from the heads topic: adopted, stored (waits for the rest of its policy), foreign (another model's), newer (of a kind or format that only a newer version knows: passed over), or rejected with the reason (promise: certified for less than this worker promises, its exits stay off).";
    LEARNER = Gauge "learner", "", [], "1 if this worker learns for the fleet.";
    LEARNER_STATE = Gauge "learner_state", "", ["state"], "1 for what this worker does for the fleet's learning: idle (another worker learns), catching-up (reads back the samples), collecting (waits for audits to train on), training, certifying (waits for audits to test on) or watching (the exits that are on).";
    LEARN_WINDOW = Gauge "learn_window_samples", "samples", [], "Samples in the learner's window.";
    LEARN_CPU = Gauge "learn_cpu_seconds", "seconds", [], "CPU time spent on learning since the start.";
    SAMPLES = Counter "samples_total", "samples", ["outcome", "reason"], "Samples by outcome: sent, dropped (queue full) or rejected (unfit to learn from) with the reason.";
    LAG = Gauge "lag", "records", ["topic", "partition"], "Records between the committed offset and the end, for partitions that are assigned.";
    REBALANCES = Counter "rebalances_total", "events", ["kind"], "Changes of the assignment: assign, revoke or error.";
    COMMIT_FAILURES = Counter "commit_failures_total", "commits", [], "Offset commits that Kafka refused.";
    DELIVERY_FAILURES = Counter "delivery_failures_total", "records", [], "Records that Kafka refused or that timed out; their frames are not finished.";
    LANE_FAILURES = Counter "lane_failures_total", "failures", [], "Batches that failed in the runtime, panics included.";
    BUILD_INFO = Gauge "build_info", "", ["version", "backbone", "plan"], "Always 1; what runs here.";
}

/// Metrics that the `metrics-process` crate exports beside the table, on Linux.
pub const PROCESS_METRICS: &[(&str, &str)] = &[
    ("process_cpu_seconds_total", "CPU time spent by the process."),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "Limit on open file descriptors."),
    ("process_virtual_memory_bytes", "Virtual memory."),
    ("process_virtual_memory_max_bytes", "Limit on virtual memory."),
    ("process_resident_memory_bytes", "Resident memory."),
    ("process_start_time_seconds", "Start time since the Unix epoch."),
    ("process_threads", "Operating system threads."),
];

/// The table as Markdown; docs/metrics.md is held against it by a test.
#[must_use]
pub fn markdown() -> String {
    let mut lines = vec!["| metric | kind | unit | labels | meaning |".to_owned(), "|---|---|---|---|---|".to_owned()];
    for Spec { name, kind, unit, labels, help, .. } in TABLE {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        lines.push(format!("| `{name}` | {} | {unit} | {} | {help} |", kind.as_str(), labels.join(", ")));
    }
    for (name, help) in PROCESS_METRICS {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        lines.push(format!("| `{name}` | {kind} | | | {help} |"));
    }
    lines.push(String::new());
    lines.join("\n")
}
