//! The shape of `/status`, which the status page reads. Filled by the worker; plain data.

use serde::Serialize;

use crate::promise::history::Window;
use crate::promise::served::Bounds;

/// One worker, now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The worker's name.
    pub worker: String,
    /// Version of offramp.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Name and short fingerprint of the backbone.
    pub model: String,
    /// Frames finished since the start.
    pub frames: Frames,
    /// How often served answers differed from the whole model's, by window.
    pub served: Vec<Served>,
    /// Share of answered frames that left early over the last minute.
    pub hit_rate: Option<f64>,
    /// FLOPs spent over what the whole model would have spent, since the start.
    pub flops_ratio: Option<f64>,
    /// Candidate exits by depth.
    pub exits: Vec<Exit>,
    /// The policy in force.
    pub policy: Policy,
    /// Learning.
    pub learner: Learner,
    /// Partitions assigned to this worker.
    pub partitions: Vec<Partition>,
}

/// Frames finished.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Frames {
    /// All of them.
    pub total: u64,
    /// Answered by an exit.
    pub exit: u64,
    /// Answered by the whole model.
    pub full: u64,
    /// Rejected.
    pub dead_letters: u64,
}

/// How often the answers that were served differed from the whole model's. Each bound is missed with a probability of 5 % at
/// most; nothing is assumed of the frames.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Served {
    /// "1h", "24h" or "start".
    pub window: String,
    /// Frames answered within it.
    pub frames: u64,
    /// Estimated share of all answers; null: no frames.
    pub estimate: Option<f64>,
    /// Upper bound on it.
    pub bound: Option<f64>,
    /// Lower bound on it.
    pub lower_bound: Option<f64>,
    /// Upper bound on the share of the early answers.
    pub bound_of_early: Option<f64>,
}

impl Served {
    pub(super) fn of((window, bounds): &(Window, Bounds)) -> Self {
        let told = |share: f64| (bounds.frames > 0).then_some(share);
        Self {
            window: window.as_str().into(),
            frames: bounds.frames,
            estimate: told(bounds.all.estimate),
            bound: told(bounds.all.upper),
            lower_bound: told(bounds.all.lower),
            bound_of_early: told(bounds.of_early.upper),
        }
    }
}

/// A candidate exit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Exit {
    /// Its number.
    pub exit: u8,
    /// Share of the backbone's FLOPs up to it.
    pub flops_fraction: f64,
    /// Confidence needed; null: off.
    pub threshold: Option<f64>,
    /// Version of its head; 0: none.
    pub version: u64,
    /// Frames answered here since the start.
    pub frames: u64,
}

/// The policy in force and its certificate.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Policy {
    /// 0: nothing learned.
    pub version: u64,
    /// Disagreement allowed.
    pub epsilon: f64,
    /// Confidence of the promise is 1 - delta.
    pub delta: f64,
    /// Upper bound established; null: no certificate.
    pub bound: Option<f64>,
    /// Audits behind the certificate.
    pub audits: u64,
    /// Disagreements among them.
    pub disagreements: u64,
    /// Share of frames that are audited.
    pub audit_rate: f64,
    /// Why the exits are as they are, in words ("certifying needs 299 clean audits, has 120").
    pub note: String,
}

/// Learning, as far as this worker does it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Learner {
    /// Whether this worker learns for the fleet.
    pub here: bool,
    /// What it does: "idle", "catching-up", "collecting", "training", "certifying" or "watching".
    pub state: &'static str,
    /// Samples in the window.
    pub window: u64,
    /// CPU seconds spent on learning.
    pub cpu_s: f64,
}

/// An assigned partition.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Partition {
    /// Topic name.
    pub topic: String,
    /// Number.
    pub partition: i32,
    /// Records behind the end; null: not known yet.
    pub lag: Option<i64>,
}
