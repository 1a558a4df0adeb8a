//! What the learner tells the fleet: a policy with the heads that are new in it, as records of the compacted topic.

use std::sync::Arc;

use crate::heads::set::SetExit;
use crate::heads::snapshot::{self, HmacKey};
use crate::heads::{HeadSet, Policy};
use crate::learn::certify::CertifiedHead;
use crate::plan::Plan;

/// A publication could not be put into records.
#[derive(Debug, Clone, thiserror::Error)]
#[error("policy {sequence} cannot be encoded: {reason}")]
pub struct EncodeError {
    /// Version of the policy.
    pub sequence: u64,
    /// What was wrong.
    pub reason: String,
}

/// A policy and the heads that it is the first to need. Write all records in one transaction, heads first.
#[derive(Debug, Clone)]
pub struct Publication {
    sequence: u64,
    heads: Vec<CertifiedHead>,
    policy: Policy,
    set: Arc<HeadSet>,
}

impl Publication {
    /// `path` is the whole path of the policy, `fresh` those of its heads that were never published.
    pub(crate) fn new(sequence: u64, fresh: Vec<CertifiedHead>, path: Vec<SetExit>, policy: Policy) -> Self {
        let set = Arc::new(HeadSet::new(sequence, path, &policy));
        Self { sequence, heads: fresh, policy, set }
    }

    /// Version of the policy.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Heads that are new.
    #[must_use]
    pub fn heads(&self) -> &[CertifiedHead] {
        &self.heads
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What a worker that takes all records will serve with; for use in one process without Kafka.
    #[must_use]
    pub fn set(&self) -> &Arc<HeadSet> {
        &self.set
    }

    /// The records, `(key, value)`, heads first, the policy last.
    ///
    /// # Errors
    /// When a head is larger than any record may be.
    pub fn records(&self, plan: &Plan, key: Option<&HmacKey>) -> Result<Vec<(String, Vec<u8>)>, EncodeError> {
        let fail = |reason| EncodeError { sequence: self.sequence, reason };
        let heads = self.heads.iter().map(|head| snapshot::encode_head(plan, head.head(), key));
        let policy = std::iter::once_with(|| snapshot::encode_policy(plan, self.sequence, &self.policy, key));
        heads.chain(policy).collect::<Result<_, _>>().map_err(fail)
    }
}
