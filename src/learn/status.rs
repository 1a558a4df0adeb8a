//! What the learner says about itself, for people and for gauges.

use crate::heads::{Certificate, PolicyState};

/// What a worker does for the fleet's learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnerState {
    /// Another worker learns.
    Idle,
    /// Reads back the samples that came before its term.
    CatchingUp,
    /// Waits for audits to train on.
    Collecting,
    /// Trains a version of the heads.
    Training,
    /// Waits for audits that a trained version is tested on.
    Certifying,
    /// Holds the exits that are on to their promise.
    Watching,
}

impl LearnerState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::CatchingUp, Self::Collecting, Self::Training, Self::Certifying, Self::Watching];

    /// The word for people and for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::CatchingUp => "catching-up",
            Self::Collecting => "collecting",
            Self::Training => "training",
            Self::Certifying => "certifying",
            Self::Watching => "watching",
        }
    }
}

/// A snapshot of the learner.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnStatus {
    /// What it does.
    pub learner: LearnerState,
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
    /// Whether suspicion is keeping the audits up.
    pub suspicious: bool,
    /// Alarms raised.
    pub alarms: u64,
    /// Audits and disagreements on which the last alarm was raised.
    pub alarmed_at: (u64, u64),
    /// Audits and disagreements of the policy in force since it came into force.
    pub watched: (u64, u64),
}
