//! The learner of the fleet, whole: takes samples, trains, chooses, certifies, watches, and says what to serve with.
//!
//! Two calls drive it. [`Learner::observe`] is cheap. [`Learner::work`] does the rest and can be paused between any two
//! minibatches; it goes on where it stopped.

mod publishing;
mod report;
mod training;

use std::collections::HashSet;
use std::sync::Arc;

use crate::heads::{HeadSet, LEAST_AUDIT_RATE, PolicyState, SUSPICION_WINDOW, Scratch, Suspicion};
use crate::learn::config::LearnConfig;
use crate::learn::publication::Publication;
use crate::learn::sample::{Sample, SampleRejection};
use crate::learn::select;
use crate::learn::trainer::Training;
use crate::learn::version::Version;
use crate::learn::window::Window;
use crate::plan::{CostTable, Plan};
use crate::promise::watch::{Doubt, Watch};

/// Least share of the training audits that is kept for temperatures and for the choice of exits.
const TUNE_SHARE: f64 = 0.1;
/// And their least number.
const TUNE_LEAST: f64 = 64.0;
/// Trained versions that may wait for a certificate beside the one in force.
const WAITING_MAX: usize = 2;
/// Newest audits on which two policies' costs are compared.
const COMPARE_ROWS: usize = 2_000;
/// And the least number of them.
const COMPARE_LEAST: usize = 100;
/// Audits that a suspicion keeps the audit rate up for.
const SUSPICION_AUDITS: usize = 800;
/// Cost, as a share of the whole model's, above which one more version is learned at the rate of youth.
const CHEAP_AUDITS_FROM: f64 = 0.5;
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
#[allow(clippy::struct_excessive_bools, reason = "independent facts, not states of one thing")]
pub struct Learner {
    plan: Plan,
    costs: CostTable,
    config: LearnConfig,
    window: Window,
    /// Samples before this serial belong to a time whose promise broke. They certify nothing and choose nothing any more,
    /// and teach only beside newer ones.
    epoch: u64,
    /// The same as an offset in the samples log.
    log_from: i64,
    /// Whether what came before that time teaches beside what came after it; copies are not needed then.
    recalls: bool,
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
    /// Most that may be audited.
    audit_limit: f64,
    /// Sees on audits what workers see on all frames.
    monitor: Suspicion,
    /// Audits for which suspicion still holds.
    suspicion: usize,
    /// What its audits say.
    doubt: Doubt,
    refresh_reference: bool,
    alarms: u64,
    alarmed_at: (u64, u64),
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
            doubt: Doubt::new(config.epsilon),
            config,
            epoch: 0,
            log_from: i64::MIN,
            recalls: false,
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
            audit_limit: 1.0,
            monitor: Suspicion::new(SUSPICION_WINDOW),
            suspicion: 0,
            refresh_reference: false,
            alarms: 0,
            alarmed_at: (0, 0),
            scratch: Scratch::default(),
        }
    }

    /// Goes on from the policy in force: call it before the first sample. `high_water` is the highest sequence number
    /// seen in any record ([`crate::heads::Registry::high_water`]), `log_end` the offset after the newest sample: a log that
    /// ends before the policy was made is another log, and nothing in it is too old. A certificate that promises less than
    /// this learner must is none: it learns and certifies anew, on from that number.
    pub fn resume(&mut self, set: Arc<HeadSet>, high_water: u64, log_end: i64) {
        self.sequence = self.sequence.max(set.version()).max(high_water);
        let too_loose = set.is_looser_than(self.config.epsilon, self.config.delta);
        let set = if too_loose { Arc::new(set.without_exits()) } else { set };
        let (from, position) = set.log();
        if log_end > from.max(position) {
            (self.log_from, self.policy_position) = (from, position);
            self.recalls = from > i64::MIN && set.copies() == 0;
        }
        if !set.exits().is_empty() {
            self.force = Some(Version::resumed(&set, self.window.next_serial(), self.policy_position));
            self.state = PolicyState::Certified;
            // The grown make no copies; the audit rate may be low or high for other reasons.
            let calm = set.audit_rate() < self.config.audit_young;
            self.grown = if self.copies() > 0 { set.copies() == 0 } else { calm };
        }
        self.watched_to = self.window.next_serial();
        self.audit_limit = set.audit_limit();
        self.set = set;
    }

    /// Takes fresh measurements of what the parts of the path cost.
    pub fn set_costs(&mut self, costs: CostTable) {
        self.costs = costs;
    }

    /// Holds the share of audited frames to this, whatever learning would like: the fleet makes more samples than it may.
    pub fn limit_audits(&mut self, share: f64) {
        self.audit_limit = share.clamp(LEAST_AUDIT_RATE, 1.0);
    }

    /// What was said last, possibly by an earlier learner.
    #[must_use]
    pub fn audit_limit(&self) -> f64 {
        self.audit_limit
    }

    /// Takes one sample from the log; cheap.
    ///
    /// # Errors
    /// When the sample is not to be used; it is then forgotten.
    pub fn observe(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection> {
        let original = !sample.is_copy();
        self.window.push(sample, position)?;
        if position < self.log_from {
            self.epoch = self.window.next_serial();
        } else if original {
            self.audits += 1;
            self.suspicion = self.suspicion.saturating_sub(1);
        }
        Ok(())
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
            if let Some(alarm) = self.alarm() {
                return Some(alarm);
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

    /// The part of [`Learner::work`] that waits for nothing: exits whose promise is broken go off.
    pub fn alarm(&mut self) -> Option<Publication> {
        self.watch_fresh().map(|mark| self.raise_alarm(mark))
    }

    /// Holds the policy in force against audits that came after it; the serial of the change, on alarm.
    fn watch_fresh(&mut self) -> Option<u64> {
        let Some(first) = self.set.exits().first().copied() else {
            self.watched_to = self.window.next_serial();
            return None;
        };
        let mut suspicious = false;
        for entry in self.window.since(self.watched_to) {
            self.watched_to = entry.serial + 1;
            if !entry.certifies || entry.position <= self.policy_position {
                continue;
            }
            let sample = &entry.sample;
            if let (Some(reference), Some(features)) = (self.set.reference(), sample.features(first.index())) {
                let sure = self.set.head(0).judge_stored(features, &mut self.scratch).confidence;
                let window = self.monitor.observe(self.set.version(), reference, sure);
                suspicious |= window.is_some() && self.monitor.is_suspicious();
            }
            let disagrees = exits_are_right(&self.set, sample, &mut self.scratch) == Some(false);
            self.doubt.observe(disagrees);
            let mark = self.watch.observe(disagrees, f64::from(sample.weight()), entry.serial);
            if mark.is_some() {
                return mark;
            }
        }
        if suspicious {
            self.suspect();
        }
        None
    }

    /// The first exit looks different from when it was certified: audits up, for so many of them. A suspicion under
    /// examination is not prolonged, but for what its own audits say: it ends in an alarm or in a new reference, or workers
    /// that share it would audit for ever.
    fn suspect(&mut self) {
        if self.suspicion == 0 && !self.refresh_reference {
            self.suspicion = SUSPICION_AUDITS;
            self.refresh_reference = true;
            self.doubt = Doubt::new(self.config.epsilon);
        }
    }

    /// Exits off, everything audited, and learn again from what came after the change.
    fn raise_alarm(&mut self, mark: u64) -> Publication {
        self.alarms += 1;
        self.alarmed_at = (self.watch.audits(), self.watch.disagreements());
        self.epoch = mark.max(self.window.front_serial());
        self.recalls = self.is_right_mostly();
        self.log_from = self.window.since(self.epoch).next().map_or(self.log_from, |entry| entry.position);
        self.audits = self.originals().count();
        self.last_trained = 0;
        self.audits_at_training = 0;
        self.pending = None;
        self.waiting.clear();
        self.force = None;
        self.grown = false;
        self.suspicion = 0;
        self.refresh_reference = false;
        self.state = PolicyState::Alarm;
        self.publish(Vec::new(), Vec::new(), None)
    }

    /// Whether the exits in force still give the backbone's answer more often than not. If they do not, the same features mean
    /// something else now, and samples from before the change would teach what is wrong.
    fn is_right_mostly(&mut self) -> bool {
        let (mut right, mut wrong) = (0, 0);
        let mut scratch = std::mem::take(&mut self.scratch);
        for entry in self.originals() {
            match exits_are_right(&self.set, &entry.sample, &mut scratch) {
                Some(true) => right += 1,
                Some(false) => wrong += 1,
                None => {}
            }
        }
        self.scratch = scratch;
        right > wrong
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
                let on = (0..self.set.exits().len()).next().map(|first| self.set.threshold(first));
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

    /// Whether a frame that costs so much is clearly cheaper than one without exits.
    fn pays(&self, cost_ms: f64) -> bool {
        cost_ms < self.costs.whole_ms * self.config.hysteresis
    }

    /// Whether any exits could pay, with the best of heads. Where not (a model that spends its time at the start, one without
    /// cuts) there is nothing to learn, and no frame is audited for it.
    fn may_pay(&self) -> bool {
        self.pays(select::least_cost(&self.costs))
    }

    /// Whether a version's certified path is cheaper than no exits, and clearly cheaper than the policy in force. One that
    /// was established on twice the audits may be a little dearer: of many certificates the boldest is the likeliest to be
    /// too bold.
    fn is_better(&self, version: &Version) -> bool {
        let Some(path) = &version.certified else { return false };
        let cost = version.cost(path.threshold.get(), &self.costs, &self.plan, COMPARE_ROWS);
        if !self.pays(cost) {
            return false;
        }
        let (Some(force), Some(held)) = (&self.force, self.set.certificate()) else {
            return true;
        };
        // A policy that was taken over has not been judged yet while the log is read back.
        if force.rows.len() < COMPARE_LEAST {
            return false;
        }
        let present = force.cost(self.set.threshold(0).get(), &self.costs, &self.plan, COMPARE_ROWS);
        let allowed = if path.certificate.n >= 2 * held.n { FIRMER_MAY_COST } else { self.config.hysteresis };
        cost < present * allowed
    }
}

/// Whether these exits would have given the backbone's answer to an audited frame; `None` where it goes all the way.
fn exits_are_right(set: &HeadSet, sample: &Sample, scratch: &mut Scratch) -> Option<bool> {
    let answer = set.path_stored(|candidate| sample.features(candidate), scratch)?;
    Some(answer.class == sample.answer())
}
