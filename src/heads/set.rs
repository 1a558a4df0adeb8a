//! What a worker serves with: the heads, thresholds and audit rate of one policy, whole and immutable.
//!
//! Knows nothing of how a policy was found or how it travelled. Swapped whole between two batches.

use std::sync::Arc;

use half::f16;

use crate::heads::{
    Certificate, Confidence, Head, Policy, Reference, SUSPICIOUS_RATE, Scratch, Suspicion, Threshold, Verdict,
};
use crate::plan::ExitId;

/// One exit of a policy.
#[derive(Debug, Clone)]
pub(crate) struct SetExit {
    /// The head that judges there.
    pub(crate) head: Arc<Head>,
    /// The confidence from which a frame leaves.
    pub(crate) threshold: Threshold,
}

/// The answer of one exit to one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// What the head said.
    pub verdict: Verdict,
    /// Whether the frame leaves here.
    pub leaves: bool,
}

/// The first exit that fires on a frame, and its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathAnswer {
    /// The exit.
    pub exit: ExitId,
    /// Index in the backbone's output.
    pub class: usize,
    /// The head's confidence.
    pub confidence: Confidence,
}

/// An immutable, versioned policy with the heads that it needs.
#[derive(Debug, Clone)]
pub struct HeadSet {
    version: u64,
    ids: Vec<ExitId>,
    exits: Vec<SetExit>,
    audit_rate: f64,
    audit_limit: f64,
    copies: u8,
    log: (i64, i64),
    certificate: Option<Certificate>,
    reference: Option<Reference>,
}

impl HeadSet {
    /// Nothing learned yet: version 0, no exits, every frame audited.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            version: 0,
            ids: Vec::new(),
            exits: Vec::new(),
            audit_rate: 1.0,
            audit_limit: 1.0,
            copies: 1,
            log: (i64::MIN, i64::MIN),
            certificate: None,
            reference: None,
        }
    }

    /// A policy with its heads; `exits` may come in any order.
    #[must_use]
    pub(crate) fn new(version: u64, mut exits: Vec<SetExit>, policy: &Policy) -> Self {
        exits.sort_by_key(|exit| exit.head.exit());
        let ids = exits.iter().map(|exit| exit.head.exit()).collect();
        let audit_rate = if (0.0..=1.0).contains(&policy.audit_rate) { policy.audit_rate } else { 1.0 };
        let audit_limit = policy.audit_limit;
        let (copies, certificate, reference) = (policy.copies, policy.certificate, policy.reference.clone());
        Self { version, ids, exits, audit_rate, audit_limit, copies, log: policy.log, certificate, reference }
    }

    /// Whether it has exits whose certificate promises less than at most `epsilon` with confidence 1 - `delta`.
    #[must_use]
    pub fn is_looser_than(&self, epsilon: f64, delta: f64) -> bool {
        self.certificate.is_some_and(|held| held.epsilon > epsilon || held.delta > delta)
    }

    /// The same policy with its exits off, and no promise that nobody needs. Number, audits and places in the log stay.
    #[must_use]
    pub fn without_exits(&self) -> Self {
        Self { ids: Vec::new(), exits: Vec::new(), certificate: None, reference: None, ..self.clone() }
    }

    /// Sequence number of the policy; 0: nothing learned yet.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The exits that are on, by depth.
    #[must_use]
    pub fn exits(&self) -> &[ExitId] {
        &self.ids
    }

    /// The head of the `position`-th exit in [`HeadSet::exits`].
    ///
    /// # Panics
    /// When there is no such exit.
    #[must_use]
    pub fn head(&self, position: usize) -> &Arc<Head> {
        &self.exits[position].head
    }

    /// The threshold of the `position`-th exit in [`HeadSet::exits`].
    ///
    /// # Panics
    /// When there is no such exit.
    #[must_use]
    pub fn threshold(&self, position: usize) -> Threshold {
        self.exits[position].threshold
    }

    /// Share of all frames to be audited, in [0, 1].
    #[must_use]
    pub fn audit_rate(&self) -> f64 {
        self.audit_rate
    }

    /// Most of all frames that may be audited, in (0, 1].
    #[must_use]
    pub fn audit_limit(&self) -> f64 {
        self.audit_limit
    }

    /// [`HeadSet::audit_rate`], raised at once while the first exit looks different from when it was certified, as far as
    /// the fleet's limit allows.
    #[must_use]
    pub fn audit_rate_under(&self, suspicion: &Suspicion) -> f64 {
        if suspicion.is_suspicious() && !self.exits.is_empty() {
            self.audit_rate.max(SUSPICIOUS_RATE.min(self.audit_limit))
        } else {
            self.audit_rate
        }
    }

    /// Copies (mirrored first, then shifted) to be made of each audited frame, if the model's manifest allows it.
    #[must_use]
    pub fn copies(&self) -> u8 {
        self.copies
    }

    /// Where in the samples log learning starts, and what was newest when this policy was made.
    #[must_use]
    pub(crate) fn log(&self) -> (i64, i64) {
        self.log
    }

    /// What is promised; `None` while no exit is on.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// How the first exit's confidences were spread at certification.
    #[must_use]
    pub fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Asks the `position`-th exit about one frame with these pooled features.
    ///
    /// # Panics
    /// When there is no such exit.
    #[must_use]
    pub fn decide(&self, position: usize, features: &[f32], scratch: &mut Scratch) -> Decision {
        let exit = &self.exits[position];
        let verdict = exit.head.judge(features, scratch);
        Decision { verdict, leaves: exit.threshold.admits(verdict.confidence) }
    }

    /// [`HeadSet::decide`] for several frames, `rows x width` features; `each` is told the row and the decision, in order.
    ///
    /// # Panics
    /// When there is no such exit.
    pub fn decide_rows(
        &self,
        position: usize,
        rows: usize,
        features: &[f32],
        scratch: &mut Scratch,
        mut each: impl FnMut(usize, Decision),
    ) {
        let exit = &self.exits[position];
        let decide =
            |row, verdict: Verdict| each(row, Decision { verdict, leaves: exit.threshold.admits(verdict.confidence) });
        exit.head.judge_rows(rows, features, scratch, decide);
    }

    /// Where a frame would leave, from its pooled features at every candidate of the plan (a list per candidate). The
    /// very rule that [`HeadSet::decide`] applies exit by exit. `None`: it goes all the way.
    #[must_use]
    pub fn path(&self, features: &[&[f32]], scratch: &mut Scratch) -> Option<PathAnswer> {
        self.first(|exit| Some(exit.head.judge(features.get(exit.head.exit().index())?, scratch)))
    }

    /// [`HeadSet::path`] on features as a sample stores them.
    #[must_use]
    pub fn path_stored<'a>(
        &self,
        features: impl Fn(usize) -> Option<&'a [f16]>,
        scratch: &mut Scratch,
    ) -> Option<PathAnswer> {
        self.first(|exit| Some(exit.head.judge_stored(features(exit.head.exit().index())?, scratch)))
    }

    fn first(&self, mut judge: impl FnMut(&SetExit) -> Option<Verdict>) -> Option<PathAnswer> {
        self.exits.iter().find_map(|exit| {
            let verdict = judge(exit)?;
            exit.threshold.admits(verdict.confidence).then_some(PathAnswer {
                exit: exit.head.exit(),
                class: verdict.class,
                confidence: verdict.confidence,
            })
        })
    }
}

impl Default for HeadSet {
    fn default() -> Self {
        Self::empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::heads::PolicyState;
    use crate::heads::head::tests::some_head;

    /// A policy without exits or promise.
    pub(crate) fn some_policy() -> Policy {
        Policy {
            state: PolicyState::Certified,
            exits: Vec::new(),
            audit_rate: 0.1,
            copies: 0,
            log: (0, 0),
            certificate: None,
            reference: None,
            audit_limit: 1.0,
        }
    }

    fn set(thresholds: [f32; 2]) -> HeadSet {
        let exits = thresholds.iter().zip([1u8, 3]).map(|(threshold, exit)| SetExit {
            head: Arc::new(Head::new(some_head(exit, 5, 6, vec![0, 1, 2], false), 6, 3).expect("valid")),
            threshold: Threshold::new(*threshold).expect("in range"),
        });
        HeadSet::new(5, exits.collect(), &some_policy())
    }

    proptest! {
        /// Goal: audits and serving can never disagree about where a frame leaves.
        #[test]
        fn the_path_is_the_first_exit_that_fires(
            rows in prop::collection::vec(prop::collection::vec(-2.0f32..2.0, 6), 3),
            a in 0.3f32..0.9,
            b in 0.3f32..0.9,
        ) {
            let set = set([a, b]);
            let mut scratch = Scratch::default();
            let features: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let stepwise = (0..set.exits().len()).find_map(|position| {
                let exit = set.exits()[position];
                let decision = set.decide(position, features[exit.index()], &mut scratch);
                decision.leaves.then_some((exit, decision.verdict.class))
            });
            let path = set.path(&features, &mut scratch);
            prop_assert_eq!(path.map(|answer| (answer.exit, answer.class)), stepwise);
            let stored: Vec<Vec<f16>> = rows.iter().map(|r| r.iter().map(|v| f16::from_f32(*v)).collect()).collect();
            prop_assert_eq!(set.path_stored(|i| stored.get(i).map(Vec::as_slice), &mut scratch), path);
        }
    }

    #[test]
    fn the_empty_set_audits_everything() {
        let set = HeadSet::empty();
        assert_eq!((set.version(), set.exits().len(), set.audit_rate()), (0, 0, 1.0));
        assert!(set.path(&[&[1.0]], &mut Scratch::default()).is_none());
    }
}
