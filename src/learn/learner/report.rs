//! What the learner says about itself.

use crate::learn::status::{LearnStatus, LearnerState};
use crate::learn::version::Version;

use super::Learner;

const NOTHING_PAYS: &str = "no set of exits is cheaper than the whole model";

impl Learner {
    /// What it is doing and why.
    #[must_use]
    pub fn status(&self) -> LearnStatus {
        LearnStatus {
            learner: self.learner_state(),
            state: self.state,
            why: self.why(),
            policy: self.set.version(),
            exits: self.set.exits().len(),
            certificate: self.set.certificate().copied(),
            audit_rate: self.audit_rate(),
            window_samples: self.window.len(),
            window_bytes: self.window.bytes(),
            audits: self.audits,
            versions: self.versions,
            suspicious: self.suspicion > 0,
            alarms: self.alarms,
            alarmed_at: self.alarmed_at,
            watched: (self.watch.audits(), self.watch.disagreements()),
        }
    }

    /// Whether a training is in progress.
    #[must_use]
    pub fn is_training(&self) -> bool {
        self.pending.is_some()
    }

    fn learner_state(&self) -> LearnerState {
        if self.is_training() {
            LearnerState::Training
        } else if self.waiting.iter().any(Version::may_certify) {
            LearnerState::Certifying
        } else if self.set.exits().is_empty() {
            LearnerState::Collecting
        } else {
            LearnerState::Watching
        }
    }

    fn why(&self) -> String {
        if let Some(certificate) = self.set.certificate() {
            let bound = certificate.bound * 100.0;
            return format!("at most {bound:.2} % disagreement, established on {} audits", certificate.n);
        }
        if self.plan.candidates.is_empty() {
            return "the model has no candidate exits".to_owned();
        }
        if !self.may_pay() {
            return NOTHING_PAYS.to_owned();
        }
        if self.one_class {
            return "fewer than two classes are seen often enough to tell them apart".to_owned();
        }
        if self.pending.is_some() {
            return format!("training on {} audits", self.last_trained);
        }
        let Some(version) = self.waiting.last() else {
            return format!("training needs {} audits, has {}", self.config.first_training, self.audits);
        };
        if version.subset == 0 {
            return NOTHING_PAYS.to_owned();
        }
        match version.next_look() {
            Some(look) => format!("certifying needs {look} clean audits, has {}", version.rows.len()),
            None => format!("{} audits do not establish epsilon {}", version.rows.len(), self.config.epsilon),
        }
    }
}
