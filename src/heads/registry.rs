//! Collects records of the compacted topic, in whatever order they come, into the newest policy that is complete.
//!
//! Knows nothing of Kafka. Its state is a function of the set of records it took: their order does not matter.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::heads::set::SetExit;
use crate::heads::snapshot::{self, HmacKey, RecordKind, Snapshot, SnapshotRejection};
use crate::heads::{Head, HeadSet, Policy, Threshold};
use crate::plan::{ExitId, Plan};

/// Versions kept of each head: a policy may come after the next one's heads.
const HEADS_KEPT: usize = 4;
/// Policies kept that wait for their heads.
const POLICIES_KEPT: usize = 8;

/// What became of a record.
#[derive(Debug, Clone)]
pub enum Accepted {
    /// A newer policy is complete (or the one in force was retired): serve with this from the next batch on.
    Adopt(Arc<HeadSet>),
    /// Checked and kept; nothing changes for now.
    Stored,
    /// As [`Accepted::Adopt`], but its certificate promises less than it must here: its exits are left out.
    TooLoose(Arc<HeadSet>),
    /// Another model's record.
    Foreign,
    /// This model's, of a kind or a format that only a newer program knows: while a fleet is upgraded worker by worker it is
    /// passed over, and nothing changes.
    Newer,
}

/// What a record's key says.
enum Named {
    /// A record that this program writes.
    Ours(RecordKind),
    /// This model's, and no kind that we know.
    Newer,
    /// Another model's.
    Foreign,
}

/// The learned state of one model, as far as it has been received.
#[derive(Debug)]
pub struct Registry {
    plan: Plan,
    key: Option<HmacKey>,
    /// The least promise, epsilon and delta, by which exits are served; none: any.
    promise: Option<(f64, f64)>,
    heads: BTreeMap<ExitId, BTreeMap<u64, Arc<Head>>>,
    policies: BTreeMap<u64, Policy>,
    adopted: Arc<HeadSet>,
    high_water: u64,
}

impl Registry {
    /// Nothing received yet. With a key, records that are not signed with it are refused.
    #[must_use]
    pub fn new(plan: &Plan, key: Option<HmacKey>) -> Self {
        Self {
            plan: plan.clone(),
            key,
            promise: None,
            heads: BTreeMap::new(),
            policies: BTreeMap::new(),
            adopted: Arc::new(HeadSet::empty()),
            high_water: 0,
        }
    }

    /// Serves exits only by certificates that promise at most this disagreement with at least this confidence: a policy
    /// that was certified under looser settings is still in the topic when they are tightened.
    #[must_use]
    pub fn promising(self, epsilon: f64, delta: f64) -> Self {
        Self { promise: Some((epsilon, delta)), ..self }
    }

    /// What to serve with.
    #[must_use]
    pub fn adopted(&self) -> &Arc<HeadSet> {
        &self.adopted
    }

    /// The highest sequence number seen in any checked record; a new learner goes on after it.
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// Newest head held per exit.
    pub fn heads(&self) -> impl Iterator<Item = &Arc<Head>> {
        self.heads.values().filter_map(|versions| versions.values().next_back())
    }

    /// Newest policy held, complete or not, with its version.
    #[must_use]
    pub fn newest_policy(&self) -> Option<(u64, &Policy)> {
        self.policies.last_key_value().map(|(sequence, policy)| (*sequence, policy))
    }

    /// Takes one record; `value` is `None` for a tombstone, which retires what the key names.
    ///
    /// # Errors
    /// When the record is this model's and fails a check; the registry is then unchanged.
    pub fn accept(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Accepted, SnapshotRejection> {
        let kind = match self.name(key)? {
            Named::Ours(kind) => kind,
            Named::Newer => return Ok(Accepted::Newer),
            Named::Foreign => return Ok(Accepted::Foreign),
        };
        let Some(value) = value else {
            return Ok(self.retire(kind));
        };
        if snapshot::is_newer(value) {
            return Ok(Accepted::Newer);
        }
        match snapshot::decode(&self.plan, kind, value, self.key.as_ref())? {
            Snapshot::Head(head) => self.keep_head(*head)?,
            Snapshot::Policy { sequence, policy } => self.keep_policy(sequence, policy)?,
        }
        Ok(self.adopt_newest())
    }

    /// What a key is about.
    fn name(&self, key: &[u8]) -> Result<Named, SnapshotRejection> {
        let Ok(key) = std::str::from_utf8(key) else {
            return Ok(Named::Foreign);
        };
        let prefix = format!("{}/{}/", self.plan.backbone, self.plan.plan);
        let Some(name) = key.strip_prefix(&prefix) else {
            return Ok(Named::Foreign);
        };
        if name == "policy" {
            return Ok(Named::Ours(RecordKind::Policy));
        }
        let Some(number) = name.strip_prefix("exit/") else {
            return Ok(Named::Newer);
        };
        let exit = number.parse().ok().map(ExitId);
        match exit.filter(|exit| self.plan.candidates.iter().any(|point| point.exit == *exit)) {
            Some(exit) => Ok(Named::Ours(RecordKind::Head(exit))),
            None => Err(SnapshotRejection::Key(key.to_owned())),
        }
    }

    fn keep_head(&mut self, head: Head) -> Result<(), SnapshotRejection> {
        let versions = self.heads.entry(head.exit()).or_default();
        let found = head.sequence();
        let oldest = versions.first_key_value().map_or(0, |(oldest, _)| *oldest);
        if versions.len() >= HEADS_KEPT && found < oldest {
            return Err(SnapshotRejection::Stale { found, held: oldest });
        }
        self.high_water = self.high_water.max(found);
        versions.entry(found).or_insert_with(|| Arc::new(head));
        if versions.len() > HEADS_KEPT {
            versions.pop_first();
        }
        Ok(())
    }

    fn keep_policy(&mut self, found: u64, policy: Policy) -> Result<(), SnapshotRejection> {
        let held = self.adopted.version();
        if found < held || found == 0 {
            return Err(SnapshotRejection::Stale { found, held });
        }
        self.high_water = self.high_water.max(found);
        self.policies.entry(found).or_insert(policy);
        if self.policies.len() > POLICIES_KEPT {
            self.policies.pop_first();
        }
        Ok(())
    }

    fn retire(&mut self, kind: RecordKind) -> Accepted {
        match kind {
            RecordKind::Head(exit) => {
                self.heads.remove(&exit);
                if !self.adopted.exits().contains(&exit) {
                    return Accepted::Stored;
                }
            }
            RecordKind::Policy => {
                self.policies.clear();
                if self.adopted.version() == 0 {
                    return Accepted::Stored;
                }
            }
        }
        // The certificate was about the whole path: without one of its heads no promise is left.
        self.policies.clear();
        self.adopted = Arc::new(HeadSet::empty());
        Accepted::Adopt(Arc::clone(&self.adopted))
    }

    fn adopt_newest(&mut self) -> Accepted {
        let complete = self.policies.iter().rev().find_map(|(sequence, policy)| self.assemble(*sequence, policy));
        match complete.filter(|set| set.version() > self.adopted.version()) {
            Some(set) => {
                self.policies = self.policies.split_off(&set.version());
                let too_loose = self.promise.is_some_and(|(epsilon, delta)| set.is_looser_than(epsilon, delta));
                self.adopted = Arc::new(if too_loose { set.without_exits() } else { set });
                let adopted = Arc::clone(&self.adopted);
                if too_loose { Accepted::TooLoose(adopted) } else { Accepted::Adopt(adopted) }
            }
            None => Accepted::Stored,
        }
    }

    /// The policy with its heads, if all are held.
    fn assemble(&self, sequence: u64, policy: &Policy) -> Option<HeadSet> {
        let exits = policy.exits.iter().map(|exit| {
            let head = Arc::clone(self.heads.get(&exit.exit)?.get(&exit.head)?);
            Some(SetExit { head, threshold: Threshold::new(exit.threshold)? })
        });
        let exits = exits.collect::<Option<Vec<_>>>()?;
        Some(HeadSet::new(sequence, exits, policy))
    }
}
