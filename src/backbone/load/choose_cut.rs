//! Which way a backbone is cut: all ways are tried at load, against the uncut model.

use std::sync::Arc;

use super::plan::plan;
use crate::backbone::cut::{Backbone, Split};
use crate::backbone::error::BackboneError;
use crate::backbone::measure::compare::compare;
use crate::backbone::measure::measured::{Measured, Way};
use crate::backbone::options::SplitChoice;
use crate::backbone::run::optimised;

/// How much slower than the plain split the cut after optimisation may look before it is dropped: timing is noisy.
const DOUBT: f64 = 0.03;

impl Backbone {
    /// Chooses the way to cut: after optimisation if that answers as the uncut model and is not slower than the plain split,
    /// else the plain split. Where neither answers so, nothing is cut. (Whether a cut pays is asked later, of every set of
    /// exits, with what it costs then.)
    pub(crate) fn choose_split(&mut self) -> Result<(), BackboneError> {
        if self.plan.candidates.is_empty() {
            return Ok(());
        }
        // The optimised graph is made of the CPU's own kernels.
        if self.options.split != SplitChoice::Plain && self.options.provider.is_cpu() {
            match optimised::optimise(&self.prepared, self.options.intra_threads) {
                Ok(optimised) => self.optimised = Some(optimised),
                Err(reason) => tracing::warn!(reason, "the optimised graph cannot be cut"),
            }
        }
        let mut found = match (&self.optimised, self.options.split) {
            (None, _) => Vec::new(),
            (Some(_), SplitChoice::Measured) => compare(self, &[Split::Optimised, Split::Plain])?,
            (Some(_), _) => compare(self, &[Split::Optimised])?,
        };
        if found.is_empty() {
            found = compare(self, &[Split::Plain])?;
        }
        let time = |way| found.iter().find(|(split, _)| *split == way).map(|(_, time)| *time);
        let (optimised, plain) = (time(Split::Optimised), time(Split::Plain));
        // The benefit of the doubt goes to the way that is faster nearly everywhere.
        let faster = |time: f64| plain.is_none_or(|plain| time <= plain * (1.0 + DOUBT));
        if !optimised.is_some_and(faster) {
            self.optimised = None;
        }
        if found.is_empty() {
            self.leave_whole();
        }
        tracing::info!(chosen = self.engine(), optimised, plain, "times over the uncut model");
        Ok(())
    }

    /// Cuts as an earlier start on this machine found right and fast. False, and nothing has happened, where that cannot be.
    pub(super) fn recall(&mut self, known: Measured) -> bool {
        if !known.fits(self.plan.candidates.len()) || (known.way == Way::Optimised && !self.options.provider.is_cpu()) {
            return false;
        }
        match known.way {
            Way::Plain => {}
            Way::Whole => self.leave_whole(),
            Way::Optimised => match optimised::optimise(&self.prepared, self.options.intra_threads) {
                Ok(optimised) => self.optimised = Some(optimised),
                Err(reason) => {
                    tracing::warn!(reason, "the optimised graph cannot be cut any more");
                    return false;
                }
            },
        }
        self.timings = known.timings;
        true
    }

    fn leave_whole(&mut self) {
        self.prepared.candidates.clear();
        let plan = plan(self.plan.backbone, self.plan.input.clone(), self.plan.labels.clone(), &self.prepared);
        self.plan = Arc::new(plan);
    }
}
