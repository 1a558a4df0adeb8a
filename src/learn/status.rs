//! What the learner says about itself, for people and for gauges.

use crate::heads::{Certificate, PolicyState};

/// A snapshot of the learner.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnStatus {
    /// State of the policy in force.
    pub state: PolicyState,
    /// Why exits are off, or what is going on, in one sentence.
    pub why: String,
    /// Version of the policy in force; 0: none yet.
    pub policy: u64,
    /// How many exits are on.
    pub exits: usize,
    /// What is promised.
    pub certificate: Option<Certificate>,
    /// Share of frames to be audited.
    pub audit_rate: f64,
    /// Samples in the window, copies included.
    pub window_samples: usize,
    /// Their features, bytes.
    pub window_bytes: usize,
    /// Audits taken since the start or the last alarm, copies not counted.
    pub audits: usize,
    /// Versions trained.
    pub versions: u64,
    /// Whether a training is in progress.
    pub training: bool,
    /// Whether suspicion is keeping the audits up.
    pub suspicious: bool,
    /// Alarms raised.
    pub alarms: u64,
    /// Audits and disagreements on which the last alarm was raised.
    pub alarmed_at: (u64, u64),
    /// Audits and disagreements of the policy in force since it came into force.
    pub watched: (u64, u64),
}
