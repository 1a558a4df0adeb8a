//! Which exits are on, from which confidence, and what is promised: the record that refers to heads by number.

use serde::{Deserialize, Serialize};

use crate::heads::Reference;
use crate::plan::ExitId;

/// Least share of frames that is audited, whatever the fleet's limit: the least that `exits.audit_floor` may be. So no audit
/// stands for more frames than one over it.
pub const LEAST_AUDIT_RATE: f64 = 1e-4;

/// Why a policy has the exits that it has; shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyState {
    /// Not enough audits yet.
    Learning,
    /// Exits are on and certified.
    Certified,
    /// No set of exits is cheaper than the whole model, or none can be certified.
    None,
    /// Fresh audits contradict the certificate: exits are off until a new one.
    Alarm,
}

impl PolicyState {
    /// One word for tables and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Certified => "certified",
            Self::None => "none",
            Self::Alarm => "alarm",
        }
    }
}

/// The promise of a policy: P(served answer != backbone's) <= `epsilon`, with confidence 1 - `delta`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Promised disagreement, a share of all frames.
    pub epsilon: f64,
    /// Probability that the promise is wrong.
    pub delta: f64,
    /// Audits that it was tested on, none of which trained the heads.
    pub n: u64,
    /// Audits on which the served answer would have differed from the backbone's.
    pub disagreements: u64,
    /// What these audits say of the disagreement at the threshold in force: Clopper-Pearson's upper bound at the share of
    /// `delta` that this look had. The threshold was chosen with the same audits, so what is promised is `epsilon`, and this
    /// is how near to it they came.
    pub bound: f64,
}

/// One exit of a policy, by the head that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PolicyExit {
    /// The exit.
    pub exit: ExitId,
    /// A frame leaves from this confidence on; in (0, 1].
    pub threshold: f32,
    /// The sequence number of the head that was certified.
    pub head: u64,
}

/// A policy without its heads. Its version is the sequence number of its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Why it is as it is.
    pub state: PolicyState,
    /// Exits that are on, strictly by depth; possibly none.
    pub exits: Vec<PolicyExit>,
    /// Share of all frames to be audited, in [0, 1].
    pub audit_rate: f64,
    /// Copies (mirrored, shifted) to be made of each audited frame; 0 once heads are grown.
    pub copies: u8,
    /// Offsets in the samples log: learning uses samples from the first on (what is older belongs to a time whose promise
    /// broke), and this policy was made when the second was the newest. A new learner reads them to go on.
    pub log: (i64, i64),
    /// What is promised; present exactly when an exit is on.
    pub certificate: Option<Certificate>,
    /// How sure the first exit was at certification or after a suspicion that came to nothing. Only beside an exit, and not
    /// always there: a hundred confidences are needed for one, and without it nobody suspects anything.
    pub reference: Option<Reference>,
    /// Most of all frames that may be audited, in (0, 1]: a worker that is suspicious stays within what the fleet may make
    /// of samples.
    pub audit_limit: f64,
}

impl Policy {
    /// What is wrong with it, in words; `None`: nothing.
    pub(crate) fn fault(&self, candidates: usize) -> Option<&'static str> {
        let known = |exit: &PolicyExit| exit.exit.0 >= 1 && usize::from(exit.exit.0) <= candidates;
        if !self.exits.iter().all(known) {
            return Some("an exit that the plan does not have");
        }
        if !self.exits.windows(2).all(|pair| pair[0].exit < pair[1].exit) {
            return Some("exits out of order");
        }
        if !self.exits.iter().all(|exit| exit.threshold > 0.0 && exit.threshold <= 1.0) {
            return Some("a threshold outside (0, 1]");
        }
        if !(0.0..=1.0).contains(&self.audit_rate) {
            return Some("an audit rate outside [0, 1]");
        }
        if !(self.audit_limit > 0.0 && self.audit_limit <= 1.0) {
            return Some("a limit of audits outside (0, 1]");
        }
        if self.certificate.is_some() == self.exits.is_empty() {
            return Some("exits without a certificate or the reverse");
        }
        let share = |value: f64| value > 0.0 && value < 1.0;
        let sound = |c: &Certificate| {
            share(c.epsilon) && share(c.delta) && c.disagreements <= c.n && (0.0..=c.epsilon).contains(&c.bound)
        };
        if !self.certificate.as_ref().is_none_or(sound) {
            return Some("a certificate that contradicts itself");
        }
        if !self.reference.as_ref().is_none_or(Reference::is_usable) {
            return Some("an unusable reference");
        }
        None
    }
}
