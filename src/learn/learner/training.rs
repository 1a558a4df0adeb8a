//! When the next version is trained, on what, and what becomes of it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::heads::Head;
use crate::learn::certify::CandidateHead;
use crate::learn::rng::mix;
use crate::learn::sample::Sample;
use crate::learn::select;
use crate::learn::trainer::{TrainStep, Training};
use crate::learn::version::{self, Version};
use crate::learn::window::Entry;
use crate::plan::CostTable;

use super::{Learner, Pace, Pending, Step, TUNE_LEAST, TUNE_SHARE, WAITING_MAX};

/// Samples from before a change that teach beside each audit from after it: as many as there are copies of one.
const RECALLED: usize = 3;

impl Learner {
    /// Begins the next version when there are enough new audits; false if there is nothing to train.
    pub(super) fn begin_training(&mut self) -> bool {
        let needed = if self.last_trained == 0 {
            self.config.first_training
        } else {
            let young = self.config.young_training.checked_sub(self.last_trained).filter(|missing| *missing > 0);
            let growth = if young.is_some() { self.config.growth } else { self.config.growth_later };
            let grow = (self.last_trained as f64 * (growth - 1.0)).ceil() as usize;
            // The version that ends youth is not put off for a few audits more.
            let grow = young.map_or(grow, |missing| grow.min(missing.max(self.last_trained / 2)));
            self.audits_at_training + grow.min(self.config.window_samples / 4).max(1)
        };
        if !self.may_pay() || self.audits < needed {
            return false;
        }
        let spare = self.spare_audits(needed);
        self.audits_at_training = self.audits - spare;
        let pending = self.gather(spare);
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

    /// How many of the newest audits are left out of a training, to certify it. None as long as the learner keeps up. One that
    /// is behind its stream has more than it waited for, and by the time it had trained on all of them would wait for two
    /// thirds as many again: a version that ends youth is large enough, and no more than two fifths need to certify it.
    fn spare_audits(&self, needed: usize) -> usize {
        let enough = if self.last_trained < self.config.young_training {
            needed.max(self.config.young_training)
        } else {
            needed
        };
        let spare = self.audits.saturating_sub(enough);
        // A batch more than was waited for is no lag.
        if spare * 10 < self.audits { 0 } else { spare.min(self.originals().count() * 2 / 5) }
    }

    /// The audits since the last change, as far as the window reaches; copies are none.
    pub(super) fn originals(&self) -> impl Iterator<Item = &Entry> {
        self.window.since(self.epoch).filter(|entry| !entry.sample.is_copy())
    }

    fn gather(&self, spare: usize) -> Option<Pending> {
        let trained = self.originals().count() - spare;
        let next_serial = self.originals().nth(trained).map_or_else(|| self.window.next_serial(), |entry| entry.serial);
        let entries: Vec<&Entry> =
            self.window.since(self.epoch).take_while(|entry| entry.serial < next_serial).collect();
        let share = TUNE_SHARE.max(TUNE_LEAST / trained.max(1) as f64).min(0.5);
        let limit = (share * u64::MAX as f64) as u64;
        let tunes = |entry: &Entry| {
            let identity = entry.sample.frame().unwrap_or(entry.serial);
            mix(identity ^ mix(self.config.seed)) < limit
        };
        let (mut train, mut tune, mut frames) = (Vec::new(), Vec::new(), HashSet::new());
        for entry in entries {
            frames.extend(entry.sample.frame());
            // Copies of a frame go where it goes: what they show of an exit would be flattered by a training on the frame.
            let part = if tunes(entry) { &mut tune } else { &mut train };
            part.push(Arc::clone(&entry.sample));
        }
        for sample in self.before_the_change(trained) {
            frames.extend(sample.frame());
            train.push(sample);
        }
        let seed = mix(self.config.seed.wrapping_add(self.versions + 1));
        let training = Training::new(&self.plan, &self.config, train, tune, seed)?;
        Some(Pending { training, trained, frames, next_serial })
    }

    /// The newest samples from before the change, so many to each audit that came after it.
    fn before_the_change(&self, audits: usize) -> impl Iterator<Item = Arc<Sample>> {
        let most = if self.recalls { RECALLED * audits } else { 0 };
        self.window.before(self.epoch).rev().take(most).map(|entry| Arc::clone(&entry.sample))
    }

    /// Trains on; a finished training becomes a version that waits for its certificate.
    pub(super) fn train(&mut self, pace: &mut dyn Pace) -> Step {
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
        let rows: Vec<_> = tune.iter().map(|sample| version::row(&heads, all, sample, &mut self.scratch)).collect();
        let [costs, flops] =
            [&self.costs, &CostTable::of_flops(&self.plan)].map(|costs| version::priced(costs, &self.plan, &heads));
        let choice = select::select(&rows, &costs, &flops, self.config.epsilon);
        self.versions += 1;
        let version =
            Version::new(&self.config, heads, choice.subset, pending.trained, pending.frames, pending.next_serial);
        self.waiting.push(version);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.remove(0);
        }
    }
}
