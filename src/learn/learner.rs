//! The learner of the fleet, whole: takes samples, trains, chooses, certifies, watches, and says what to serve with.
//!
//! Two calls drive it. [`Learner::observe`] is cheap. [`Learner::work`] does the rest and can be paused between any two
//! minibatches; it goes on where it stopped.

use std::collections::HashSet;
use std::sync::Arc;

use crate::heads::set::SetExit;
use crate::heads::{BINS, Confidence, Head, HeadSet, Policy, PolicyExit, PolicyState, Reference, Scratch};
use crate::learn::certify::{CandidateHead, CertifiedHead};
use crate::learn::config::LearnConfig;
use crate::learn::publication::Publication;
use crate::learn::rng::mix;
use crate::learn::sample::{Sample, SampleRejection};
use crate::learn::select;
use crate::learn::status::LearnStatus;
use crate::learn::trainer::{TrainStep, Training};
use crate::learn::version::{self, Version};
use crate::learn::watch::Watch;
use crate::learn::window::{Entry, Window};
use crate::plan::{CostTable, Plan};

/// Least share of the training audits that is kept for temperatures and for the choice of exits.
const TUNE_SHARE: f64 = 0.1;
/// And their least number.
const TUNE_LEAST: f64 = 64.0;
/// Trained versions that may wait for a certificate beside the one in force.
const WAITING_MAX: usize = 2;
/// Newest audits on which two policies' costs are compared.
const COMPARE_ROWS: usize = 2_000;
/// Audits that a suspicion keeps the audit rate up for.
const SUSPICION_AUDITS: usize = 800;
/// Share of frames audited when nothing could be certified in all of youth.
const HOPELESS_RATE: f64 = 0.1;
/// A policy established on twice the audits may cost this much of the one in force.
const FIRMER_MAY_COST: f64 = 1.1;
/// Samples judged between two questions to the pace.
const JUDGED_PER_SLICE: usize = 16;

/// What the caller wants [`Learner::work`] to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Continue,
    /// Return now; the next call goes on from here.
    Pause,
}

/// Asked after every few milliseconds of work: may sleep (a CPU budget), or have the learner pause.
pub trait Pace {
    /// Called between two slices.
    fn slice(&mut self) -> Step;
}

/// Never pauses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpaced;

impl Pace for Unpaced {
    fn slice(&mut self) -> Step {
        Step::Continue
    }
}

/// A training in progress and what its version will need.
#[derive(Debug)]
struct Pending {
    training: Training,
    trained: usize,
    frames: HashSet<u64>,
    next_serial: u64,
}

/// The learner.
#[derive(Debug)]
pub struct Learner {
    plan: Plan,
    costs: CostTable,
    config: LearnConfig,
    window: Window,
    /// Samples before this serial belong to a time whose promise broke; they train nothing any more.
    epoch: u64,
    /// The same as an offset in the samples log; what is older is not even kept.
    log_from: i64,
    /// The newest offset when the policy in force was made: what is older may have trained it and cannot test it.
    policy_position: i64,
    /// Audits since then, copies not counted.
    audits: usize,
    /// Audits that trained the newest version.
    last_trained: usize,
    /// Audits seen when the last training began, to grow on fresh ones once the window is full.
    audits_at_training: usize,
    pending: Option<Pending>,
    waiting: Vec<Version>,
    force: Option<Version>,
    set: Arc<HeadSet>,
    state: PolicyState,
    watch: Watch,
    watched_to: u64,
    versions: u64,
    sequence: u64,
    grown: bool,
    one_class: bool,
    nothing_pays: bool,
    /// Audits for which suspicion still holds.
    suspicion: usize,
    refresh_reference: bool,
    alarms: u64,
    scratch: Scratch,
}

impl Learner {
    /// Knows nothing yet: every frame is audited until the first certificate.
    #[must_use]
    pub fn new(plan: &Plan, costs: CostTable, config: LearnConfig) -> Self {
        Self {
            window: Window::new(&config),
            watch: Watch::new(config.epsilon, config.frames_per_false_alarm),
            plan: plan.clone(),
            costs,
            config,
            epoch: 0,
            log_from: i64::MIN,
            policy_position: i64::MIN,
            audits: 0,
            last_trained: 0,
            audits_at_training: 0,
            pending: None,
            waiting: Vec::new(),
            force: None,
            set: Arc::new(HeadSet::empty()),
            state: PolicyState::Learning,
            watched_to: 0,
            versions: 0,
            sequence: 0,
            grown: false,
            one_class: false,
            nothing_pays: false,
            suspicion: 0,
            refresh_reference: false,
            alarms: 0,
            scratch: Scratch::default(),
        }
    }

    /// Goes on from the policy in force: call it before the first sample. `high_water` is the highest sequence number
    /// seen in any record ([`crate::heads::Registry::high_water`]).
    pub fn resume(&mut self, set: Arc<HeadSet>, high_water: u64) {
        self.sequence = self.sequence.max(set.version()).max(high_water);
        (self.log_from, self.policy_position) = set.log();
        if !set.exits().is_empty() {
            self.force = Some(Version::resumed(&set, self.window.next_serial()));
            self.state = PolicyState::Certified;
            self.grown = set.audit_rate() < self.config.audit_young;
        }
        self.watched_to = self.window.next_serial();
        self.set = set;
    }

    /// Takes fresh measurements of what the parts of the path cost.
    pub fn set_costs(&mut self, costs: CostTable) {
        self.costs = costs;
    }

    /// Takes one sample from the log; cheap.
    ///
    /// # Errors
    /// When the sample is not to be used; it is then forgotten.
    pub fn observe(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection> {
        if position < self.log_from {
            return Ok(());
        }
        let original = !sample.is_copy();
        self.window.push(sample, position)?;
        if original {
            self.audits += 1;
            self.suspicion = self.suspicion.saturating_sub(1);
        }
        Ok(())
    }

    /// Hears how a worker's first exit was spread over a window of frames ([`crate::heads::Suspicion`]) under the policy
    /// `version`. Raises the audit rate if that is suspicious.
    pub fn note_suspicion(&mut self, version: u64, counts: &[u32; BINS]) {
        let reference = self.set.reference().filter(|_| version == self.set.version());
        // One that is under examination is not prolonged: it ends in an alarm or in a new reference.
        if self.suspicion > 0 || self.refresh_reference {
            return;
        }
        if reference.is_some_and(|reference| reference.excess(counts) > 1.0) {
            self.suspicion = SUSPICION_AUDITS;
            self.refresh_reference = true;
        }
    }

    /// What is in force, as far as this learner knows.
    #[must_use]
    pub fn set(&self) -> &Arc<HeadSet> {
        &self.set
    }

    /// Works until there is something to tell, nothing left to do (`None`), or the pace says pause (`None`). Call it
    /// again after a publication: there may be more.
    pub fn work(&mut self, pace: &mut dyn Pace) -> Option<Publication> {
        loop {
            if let Some(mark) = self.watch_fresh() {
                return Some(self.raise_alarm(mark));
            }
            if self.judge_fresh(pace) == Step::Pause {
                return None;
            }
            if let Some(publication) = self.look().or_else(|| self.adjust()) {
                return Some(publication);
            }
            if self.pending.is_none() && !self.begin_training() {
                return None;
            }
            if self.train(pace) == Step::Pause {
                return None;
            }
        }
    }

    /// Holds the policy in force against audits that came after it; the serial of the change, on alarm.
    fn watch_fresh(&mut self) -> Option<u64> {
        if self.set.exits().is_empty() {
            self.watched_to = self.window.next_serial();
            return None;
        }
        for entry in self.window.since(self.watched_to) {
            self.watched_to = entry.serial + 1;
            if !entry.certifies || entry.position <= self.policy_position {
                continue;
            }
            let sample = &entry.sample;
            let answer = self
                .set
                .path_stored(|candidate| sample.features(candidate), &mut self.scratch);
            let disagrees = answer.is_some_and(|answer| answer.class != sample.answer());
            let mark = self.watch.observe(disagrees, f64::from(sample.weight()), entry.serial);
            if mark.is_some() {
                return mark;
            }
        }
        None
    }

    /// Exits off, everything audited, and learn again from what came after the change.
    fn raise_alarm(&mut self, mark: u64) -> Publication {
        self.alarms += 1;
        self.epoch = mark.max(self.window.front_serial());
        self.log_from = self
            .window
            .since(self.epoch)
            .next()
            .map_or(self.log_from, |entry| entry.position);
        self.audits = self
            .window
            .since(self.epoch)
            .filter(|entry| !entry.sample.is_copy())
            .count();
        self.last_trained = 0;
        self.audits_at_training = 0;
        self.pending = None;
        self.waiting.clear();
        self.force = None;
        self.grown = false;
        self.nothing_pays = false;
        self.suspicion = 0;
        self.refresh_reference = false;
        self.state = PolicyState::Alarm;
        self.publish(Vec::new(), Vec::new(), None)
    }

    /// Lets all versions judge the samples that they have not seen.
    fn judge_fresh(&mut self, pace: &mut dyn Pace) -> Step {
        for version in self.waiting.iter_mut().chain(&mut self.force) {
            for (count, entry) in self.window.since(version.judged_to).enumerate() {
                if count % JUDGED_PER_SLICE == JUDGED_PER_SLICE - 1 && pace.slice() == Step::Pause {
                    return Step::Pause;
                }
                version.judge(entry, &mut self.scratch);
            }
        }
        Step::Continue
    }

    /// Takes the looks that are due, oldest version first; publishes the first certificate that is worth it.
    fn look(&mut self) -> Option<Publication> {
        if self.force.as_mut().is_some_and(|force| force.look(&self.config)) {
            let force = self.force.as_ref()?;
            let bolder = force.certified.as_ref().filter(|path| {
                let on = (0..self.set.exits().len())
                    .next()
                    .map(|first| self.set.threshold(first));
                on.is_none_or(|on| path.threshold < on)
            });
            if bolder.is_some() {
                return self.publish_force();
            }
        }
        for index in 0..self.waiting.len() {
            if !self.waiting[index].look(&self.config) {
                continue;
            }
            if self.is_better(&self.waiting[index]) {
                self.force = Some(self.waiting.remove(index));
                // Older versions have nothing to add.
                self.waiting.drain(..index);
                return self.publish_force();
            }
        }
        None
    }

    /// Whether a version's certified path is cheaper than no exits, and clearly cheaper than the policy in force. One that
    /// was established on twice the audits may be a little dearer: of many certificates the boldest is the likeliest to be
    /// too bold.
    fn is_better(&self, version: &Version) -> bool {
        let Some(path) = &version.certified else { return false };
        let cost = version.cost(path.threshold.get(), &self.costs, COMPARE_ROWS);
        if cost >= self.costs.whole_ms * self.config.hysteresis {
            return false;
        }
        let (Some(force), Some(held)) = (&self.force, self.set.certificate()) else {
            return true;
        };
        let present = force.cost(self.set.threshold(0).get(), &self.costs, COMPARE_ROWS);
        let allowed = if path.certificate.n >= 2 * held.n {
            FIRMER_MAY_COST
        } else {
            self.config.hysteresis
        };
        cost < present * allowed
    }

    fn publish_force(&mut self) -> Option<Publication> {
        let force = self.force.as_mut()?;
        let path = force.certified.clone()?;
        let sequence = force.published.unwrap_or(self.sequence + 1);
        let heads: Vec<CertifiedHead> = path.heads.iter().map(|head| head.numbered(sequence)).collect();
        let fresh = if force.published.is_none() {
            heads.clone()
        } else {
            Vec::new()
        };
        force.published = Some(sequence);
        self.state = PolicyState::Certified;
        self.note_growth();
        self.refresh_reference = false;
        let exits = heads.iter().map(CertifiedHead::to_exit).collect();
        Some(self.publish(fresh, exits, Some((path.certificate, path.reference))))
    }

    /// Youth ends with a grown version that had two looks, or when it took far too many audits.
    fn note_growth(&mut self) {
        let grown = |version: &Version| {
            version.trained >= self.config.young_training && version.rows.len() * 3 >= version.trained * 2
        };
        let late = self.audits >= 2 * self.config.young_training;
        self.grown |= late || self.force.iter().chain(&self.waiting).any(grown);
    }

    /// Publishes a changed audit rate or a renewed reference, if there is one.
    fn adjust(&mut self) -> Option<Publication> {
        self.note_growth();
        if self.refresh_reference && self.suspicion == 0 {
            return self.renew_reference();
        }
        let hopeless = self.grown && self.set.exits().is_empty();
        if hopeless && self.state == PolicyState::Learning {
            self.state = PolicyState::None;
        }
        if (self.audit_rate() - self.set.audit_rate()).abs() < 1e-9 && self.copies() == self.set.copies() {
            return None;
        }
        // With nothing published there is nothing to adjust: workers audit everything by themselves.
        if self.set.version() == 0 && self.state == PolicyState::Learning {
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
        let recent: Vec<Confidence> = force.rows[from..]
            .iter()
            .map(|row| Confidence::new(row.confidences[first]))
            .collect();
        let reference = Reference::of(&recent)?;
        Some(self.republish(Some(reference)))
    }

    /// The policy in force with the audit rate of now.
    fn republish(&mut self, reference: Option<Reference>) -> Publication {
        let set = Arc::clone(&self.set);
        let exit = |position| SetExit {
            head: Arc::clone(set.head(position)),
            threshold: set.threshold(position),
        };
        let path = (0..set.exits().len()).map(exit).collect();
        self.publish(
            Vec::new(),
            path,
            set.certificate().map(|certificate| (*certificate, reference)),
        )
    }

    fn publish(
        &mut self,
        fresh: Vec<CertifiedHead>,
        path: Vec<SetExit>,
        promise: Option<(crate::heads::Certificate, Option<Reference>)>,
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
        };
        let publication = Publication::new(self.sequence, fresh, path, policy);
        self.set = Arc::clone(publication.set());
        publication
    }

    fn audit_rate(&self) -> f64 {
        self.rate_with(!self.set.exits().is_empty())
    }

    fn rate_with(&self, exits: bool) -> f64 {
        let calm = match (exits, self.grown) {
            (true, true) => self.config.audit_floor,
            (true, false) => self.config.audit_young,
            (false, true) => HOPELESS_RATE,
            (false, false) => 1.0,
        };
        if self.suspicion > 0 {
            calm.max(self.config.audit_suspicion)
        } else {
            calm
        }
    }

    fn copies(&self) -> u8 {
        if self.grown {
            0
        } else {
            u8::try_from(self.config.copies).unwrap_or(u8::MAX)
        }
    }

    /// Begins the next version when there are enough new audits; false if there is nothing to train.
    fn begin_training(&mut self) -> bool {
        let needed = if self.last_trained == 0 {
            self.config.first_training
        } else {
            let grow = (self.last_trained as f64 * (self.config.growth - 1.0)).ceil() as usize;
            self.audits_at_training + grow.min(self.config.window_samples / 4).max(1)
        };
        if self.plan.candidates.is_empty() || self.audits < needed {
            return false;
        }
        self.audits_at_training = self.audits;
        let pending = self.gather();
        self.one_class = pending.is_none();
        if let Some(pending) = pending {
            self.last_trained = pending.trained;
            self.pending = Some(pending);
            return true;
        }
        // Try again only when there is a good part more to see.
        self.last_trained = self.audits;
        false
    }

    fn gather(&self) -> Option<Pending> {
        let entries: Vec<&Entry> = self.window.since(self.epoch).collect();
        let trained = entries.iter().filter(|entry| !entry.sample.is_copy()).count();
        let share = TUNE_SHARE.max(TUNE_LEAST / trained.max(1) as f64).min(0.5);
        let limit = (share * u64::MAX as f64) as u64;
        let tunes = |entry: &Entry| {
            let identity = entry.sample.frame().unwrap_or(entry.serial);
            mix(identity ^ mix(self.config.seed)) < limit
        };
        let (mut train, mut tune, mut frames) = (Vec::new(), Vec::new(), HashSet::new());
        for entry in entries {
            frames.extend(entry.sample.frame());
            if !tunes(entry) {
                train.push(Arc::clone(&entry.sample));
            } else if !entry.sample.is_copy() {
                tune.push(Arc::clone(&entry.sample));
            }
        }
        let seed = mix(self.config.seed.wrapping_add(self.versions + 1));
        let training = Training::new(&self.plan, &self.config, train, tune, seed)?;
        Some(Pending {
            training,
            trained,
            frames,
            next_serial: self.window.next_serial(),
        })
    }

    /// Trains on; a finished training becomes a version that waits for its certificate.
    fn train(&mut self, pace: &mut dyn Pace) -> Step {
        while let Some(pending) = &mut self.pending {
            match pending.training.step() {
                Ok(TrainStep::Going) => {}
                Ok(TrainStep::Done(heads)) => {
                    self.finish_training(heads);
                    return Step::Continue;
                }
                // Weights ran off to infinity: drop this version.
                Err(_) => {
                    self.pending = None;
                    return Step::Continue;
                }
            }
            if pace.slice() == Step::Pause {
                return Step::Pause;
            }
        }
        Step::Continue
    }

    fn finish_training(&mut self, heads: Vec<Head>) {
        let Some(pending) = self.pending.take() else { return };
        let heads: Vec<CandidateHead> = heads.into_iter().map(CandidateHead::new).collect();
        let all = u8::MAX;
        let tune = pending.training.tune();
        let rows: Vec<_> = tune
            .iter()
            .map(|sample| version::row(&heads, all, sample, &mut self.scratch))
            .collect();
        let choice = select::select(&rows, &self.costs, self.config.epsilon);
        self.versions += 1;
        self.nothing_pays = choice.subset == 0;
        let version = Version::new(
            &self.config,
            heads,
            choice.subset,
            pending.trained,
            pending.frames,
            pending.next_serial,
        );
        self.waiting.push(version);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.remove(0);
        }
    }

    /// What it is doing and why.
    #[must_use]
    pub fn status(&self) -> LearnStatus {
        LearnStatus {
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
            training: self.pending.is_some(),
            suspicious: self.suspicion > 0,
            alarms: self.alarms,
            watched: (self.watch.audits, self.watch.disagreements),
        }
    }

    fn why(&self) -> String {
        if let Some(certificate) = self.set.certificate() {
            let bound = certificate.bound * 100.0;
            return format!(
                "at most {bound:.2} % disagreement, established on {} audits",
                certificate.n
            );
        }
        if self.plan.candidates.is_empty() {
            return "the model has no candidate exits".to_owned();
        }
        if self.one_class {
            return "fewer than two classes are seen often enough to tell them apart".to_owned();
        }
        if self.pending.is_some() {
            return format!("training on {} audits", self.last_trained);
        }
        let Some(version) = self.waiting.last() else {
            return format!(
                "training needs {} audits, has {}",
                self.config.first_training, self.audits
            );
        };
        if version.subset == 0 {
            return "no set of exits is cheaper than the whole model".to_owned();
        }
        match version.next_look() {
            Some(look) => format!("certifying needs {look} clean audits, has {}", version.rows.len()),
            None => format!(
                "{} audits do not establish epsilon {}",
                version.rows.len(),
                self.config.epsilon
            ),
        }
    }
}
