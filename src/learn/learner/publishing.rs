//! What the learner tells the fleet: certified paths, audit rates, renewed references.

use std::sync::Arc;

use crate::heads::set::SetExit;
use crate::heads::{Certificate, Confidence, Policy, PolicyExit, PolicyState, Reference};
use crate::learn::certify::CertifiedHead;
use crate::learn::publication::Publication;
use crate::learn::version::Version;
use crate::promise::watch::Watch;

use super::{CHEAP_AUDITS_FROM, COMPARE_ROWS, Learner, SUSPICION_AUDITS};

impl Learner {
    pub(super) fn publish_force(&mut self) -> Option<Publication> {
        let force = self.force.as_mut()?;
        let path = force.certified.clone()?;
        let sequence = force.published.unwrap_or(self.sequence + 1);
        let heads: Vec<CertifiedHead> = path.heads.iter().map(|head| head.numbered(sequence)).collect();
        let fresh = if force.published.is_none() { heads.clone() } else { Vec::new() };
        force.published = Some(sequence);
        self.state = PolicyState::Certified;
        self.note_growth();
        self.refresh_reference = false;
        let exits = heads.iter().map(CertifiedHead::to_exit).collect();
        Some(self.publish(fresh, exits, Some((path.certificate, path.reference))))
    }

    /// Youth ends with a grown version that had both looks, or when it took far too many audits. While exits save little,
    /// audits are cheap for what they bring, and one more version is waited for. Where nothing can pay there is no youth.
    fn note_growth(&mut self) {
        let config = &self.config;
        let cheap = |version: &Version| match &version.certified {
            Some(path) => {
                let cost = version.cost(path.threshold.get(), &self.costs, &self.plan, COMPARE_ROWS);
                cost > self.costs.whole_ms * CHEAP_AUDITS_FROM
            }
            None => version.subset != 0,
        };
        let grown = |version: &Version| {
            let judged = version.rows.len() * 3 >= version.trained * 2;
            let last = version.trained >= config.young_training * 8 / 5;
            judged && version.trained >= config.young_training && (last || !cheap(version))
        };
        let late = if self.set.exits().is_empty() {
            self.audits >= 2 * config.young_training && !self.may_certify_soon()
        } else {
            self.audits as f64 >= 2.0 * config.growth_later * config.young_training as f64
        };
        let grown = late || !self.may_pay() || self.force.iter().chain(&self.waiting).any(grown);
        self.grown |= grown;
    }

    /// Whether a first training or a planned look is still to come. A learner that is slow for its stream is no reason to
    /// give up, and audits cost nothing while every frame takes the whole way.
    fn may_certify_soon(&self) -> bool {
        let untried = self.versions == 0 && !self.one_class;
        untried || self.pending.is_some() || self.waiting.iter().any(Version::may_certify)
    }

    /// Publishes a changed audit rate or a renewed reference, if there is one.
    pub(super) fn adjust(&mut self) -> Option<Publication> {
        self.note_growth();
        if self.refresh_reference && self.suspicion == 0 {
            if !self.doubt.stands() {
                return self.renew_reference();
            }
            self.suspicion = SUSPICION_AUDITS;
        }
        let hopeless = self.grown && self.set.exits().is_empty();
        if hopeless && self.state == PolicyState::Learning {
            self.state = PolicyState::None;
        }
        let same = |here: f64, there: f64| (here - there).abs() < 1e-9;
        let (rate, limit) = (self.audit_rate(), self.audit_limit);
        let told = same(rate, self.set.audit_rate()) && same(limit, self.set.audit_limit());
        if told && self.copies() == self.set.copies() {
            return None;
        }
        // With nothing published workers audit everything by themselves.
        let all = self.audit_rate() >= 1.0;
        if self.set.version() == 0 && self.state == PolicyState::Learning && all {
            return None;
        }
        Some(self.republish(self.set.reference().cloned()))
    }

    /// A suspicion that came to nothing: how sure the first exit is now is the new normal.
    fn renew_reference(&mut self) -> Option<Publication> {
        self.refresh_reference = false;
        let force = self.force.as_ref()?;
        let first = force.subset.trailing_zeros() as usize & 7;
        let from = force.rows.len().saturating_sub(SUSPICION_AUDITS);
        let recent: Vec<Confidence> =
            force.rows[from..].iter().map(|row| Confidence::new(row.confidences[first])).collect();
        Some(self.republish(Reference::of(&recent)))
    }

    /// The policy in force with the audit rate of now.
    fn republish(&mut self, reference: Option<Reference>) -> Publication {
        let set = Arc::clone(&self.set);
        let exit = |position| SetExit { head: Arc::clone(set.head(position)), threshold: set.threshold(position) };
        let path = (0..set.exits().len()).map(exit).collect();
        self.publish(Vec::new(), path, set.certificate().map(|certificate| (*certificate, reference)))
    }

    pub(super) fn publish(
        &mut self,
        fresh: Vec<CertifiedHead>,
        path: Vec<SetExit>,
        promise: Option<(Certificate, Option<Reference>)>,
    ) -> Publication {
        self.sequence += 1;
        let exit = |exit: &SetExit| PolicyExit {
            exit: exit.head.exit(),
            threshold: exit.threshold.get(),
            head: exit.head.sequence(),
        };
        let exits: Vec<PolicyExit> = path.iter().map(exit).collect();
        let thresholds_stay = exits.len() == self.set.exits().len()
            && exits.iter().enumerate().all(|(position, exit)| {
                let (head, threshold) = (self.set.head(position), self.set.threshold(position).get());
                head.sequence() == exit.head
                    && head.exit() == exit.exit
                    && threshold.to_bits() == exit.threshold.to_bits()
            });
        if !thresholds_stay {
            self.watch = Watch::new(self.config.epsilon, self.config.frames_per_false_alarm);
            self.watched_to = self.window.next_serial();
            self.policy_position = self.window.last_position();
        }
        let policy = Policy {
            state: self.state,
            audit_rate: self.rate_with(!exits.is_empty()),
            exits,
            copies: self.copies(),
            log: (self.log_from, self.policy_position),
            certificate: promise.as_ref().map(|(certificate, _)| *certificate),
            reference: promise.and_then(|(_, reference)| reference),
            audit_limit: self.audit_limit,
        };
        let publication = Publication::new(self.sequence, fresh, path, policy);
        self.set = Arc::clone(publication.set());
        publication
    }

    pub(super) fn audit_rate(&self) -> f64 {
        self.rate_with(!self.set.exits().is_empty())
    }

    fn rate_with(&self, exits: bool) -> f64 {
        let calm = match (exits, self.grown) {
            // With or without exits: an audit is a batch of its own among served frames, which exits that are off do not pay for.
            (_, true) => self.config.audit_floor,
            (true, false) => self.config.audit_young,
            (false, false) => 1.0,
        };
        let wanted = if self.suspicion > 0 { calm.max(self.config.audit_suspicion) } else { calm };
        wanted.min(self.audit_limit)
    }

    pub(super) fn copies(&self) -> u8 {
        if self.grown || self.recalls { 0 } else { u8::try_from(self.config.copies).unwrap_or(u8::MAX) }
    }
}
