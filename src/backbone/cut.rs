//! The loaded model, and what lanes get of it: chains of segments cut at some exits, and the auditor.

use std::sync::Arc;

use super::error::BackboneError;
use super::graph::port::Port;
use super::graph::prepared::{Candidate, Prepared};
use super::graph::split;
use super::measure::batch_size::{self, BatchTiming};
use super::options::LoadOptions;
use super::run::auditor::Audited;
use super::run::chain::{Chain, Shown, Stage};
use super::run::frames::Frames;
use super::run::optimised::{Cut, Optimised};
use super::run::probabilities::Probabilities;
use super::run::runner::Runner;
use super::run::session::Session;
use crate::plan::{ExitId, Plan};

/// A loaded model with its plan; shared by all lanes. A clone shares the model's bytes.
#[derive(Debug, Clone)]
pub struct Backbone {
    pub(super) plan: Arc<Plan>,
    pub(super) prepared: Prepared,
    pub(super) options: LoadOptions,
    /// The graph as ONNX Runtime rewrote it, where cutting that one was found to be right and faster.
    pub(super) optimised: Option<Optimised>,
    /// What its parts cost, by the rows in a run; empty: not measured.
    pub(super) timings: Vec<BatchTiming>,
}

/// Which of the two graphs a chain is cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// The user's graph; every segment is optimised by itself.
    Plain,
    /// The graph that ONNX Runtime optimised as a whole.
    Optimised,
}

impl Backbone {
    /// How segments are made, for people.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match (&self.optimised, self.plan.candidates.is_empty()) {
            (_, true) => "whole: no usable cut points",
            (Some(_), _) => "cut after optimisation",
            (None, _) => "cut before optimisation (plain split)",
        }
    }

    /// What serving and learning must know of it.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The backbone cut at `exits` (ascending); without exits the uncut model.
    ///
    /// # Errors
    /// When an exit is unknown or a segment cannot be loaded.
    pub fn chain(&self, exits: &[ExitId]) -> Result<Chain, BackboneError> {
        self.chain_of(exits, if self.optimised.is_some() { Split::Optimised } else { Split::Plain }, &self.timings)
    }

    /// The model as it would run without us: what a cut is measured against.
    ///
    /// # Errors
    /// When the model cannot be loaded.
    pub fn uncut(&self) -> Result<Chain, BackboneError> {
        self.chain_of(&[], Split::Plain, &[])
    }

    /// A chain whose segments run as many rows at a time as is best by these measurements, a whole batch without.
    pub(super) fn chain_of(
        &self,
        exits: &[ExitId],
        wanted: Split,
        timings: &[BatchTiming],
    ) -> Result<Chain, BackboneError> {
        let chosen = self.candidates(exits)?;
        let optimised = self.optimised.as_ref().filter(|_| wanted == Split::Optimised);
        // A cut that the optimised graph does not have is made in the user's graph, and with it all others.
        let found = |optimised: &'_ Optimised| -> Option<Vec<Cut>> {
            exits.iter().map(|exit| optimised.cuts.get(exit.index())?.clone()).collect()
        };
        let (cuts, optimised) = match optimised.and_then(|optimised| Some((found(optimised)?, optimised))) {
            Some((cuts, optimised)) => (cuts, Some(optimised)),
            None => (chosen.iter().map(|cut| Cut { port: cut.port.clone(), layout: None }).collect(), None),
        };
        let mut stages = Vec::with_capacity(cuts.len() + 1);
        let mut start = &self.prepared.input;
        let mut best = batch_size::best_rows(timings, exits).into_iter();
        let mut stage = |session, dims: &[usize], shown| {
            let best = best.next().unwrap_or(usize::MAX);
            Stage::new(session, dims.to_vec(), shown, self.prepared.batches, best)
        };
        for (segment, (candidate, Cut { port, layout })) in chosen.iter().zip(&cuts).enumerate() {
            let ends = [port.tensor.as_str(), candidate.pooling.output.as_str()];
            let ends = if layout.is_some() { &ends[..1] } else { &ends };
            let session = match optimised {
                Some(optimised) => self.optimised_session(optimised, segment, start, ends)?,
                None => self.session(segment, start, ends, std::slice::from_ref(candidate))?,
            };
            let shown = layout.clone().map_or(Shown::Width(candidate.pooling.width), Shown::Pooled);
            stages.push(stage(session, &start.dims, shown));
            start = port;
        }
        let ends = [self.prepared.scores.as_str()];
        let session = match optimised {
            Some(optimised) => self.optimised_session(optimised, cuts.len(), start, &ends)?,
            None => self.session(cuts.len(), start, &ends, &[])?,
        };
        stages.push(stage(session, &start.dims, Shown::Width(self.plan.classes())));
        Ok(Chain::new(exits, stages, self.frames(), self.probabilities()))
    }

    /// The whole model with the pooled features of every candidate.
    ///
    /// # Errors
    /// When the model cannot be loaded.
    pub fn auditor(&self) -> Result<Audited, BackboneError> {
        let candidates: Vec<&Candidate> = self.prepared.candidates.iter().collect();
        let mut ends = vec![self.prepared.scores.as_str()];
        ends.extend(candidates.iter().map(|candidate| candidate.pooling.output.as_str()));
        let session = match &self.optimised {
            Some(optimised) => self.optimised_session(optimised, 0, &self.prepared.input, &ends)?,
            None => self.session(0, &self.prepared.input, &ends, &candidates)?,
        };
        let mut widths = vec![self.plan.classes()];
        widths.extend(self.plan.feature_widths());
        let best = self.best_rows(&[]).first().copied().unwrap_or(usize::MAX);
        let whole = Runner::new(session, self.prepared.input.dims.clone(), widths, self.prepared.batches, best);
        Ok(Audited::new(whole, self.frames(), self.probabilities()))
    }

    /// How many rows each segment runs at a time when cut at `exits`; empty where that was not measured: all there are.
    #[must_use]
    pub fn best_rows(&self, exits: &[ExitId]) -> Vec<usize> {
        batch_size::best_rows(&self.timings, exits)
    }

    fn frames(&self) -> Frames {
        Frames::new(self.plan.input.len())
    }

    fn probabilities(&self) -> Probabilities {
        Probabilities::new(self.plan.classes(), self.prepared.meaning)
    }

    fn candidates(&self, exits: &[ExitId]) -> Result<Vec<&Candidate>, BackboneError> {
        let unknown = || BackboneError::Exits { asked: exits.to_vec(), candidates: self.prepared.candidates.len() };
        if !exits.is_sorted_by(|a, b| a < b) {
            return Err(unknown());
        }
        let find = |exit: &ExitId| usize::from(exit.0).checked_sub(1).and_then(|at| self.prepared.candidates.get(at));
        exits.iter().map(|exit| find(exit).ok_or_else(unknown)).collect()
    }

    fn optimised_session(
        &self,
        optimised: &Optimised,
        segment: usize,
        start: &Port,
        ends: &[&str],
    ) -> Result<Session, BackboneError> {
        let part = split::extract(&optimised.model, &self.prepared.input.tensor, start, ends)
            .map_err(|reason| BackboneError::Segment { segment, reason })?;
        optimised.load(part, self.options.intra_threads).map_err(|error| BackboneError::segment(segment, error))
    }

    fn session(
        &self,
        segment: usize,
        start: &Port,
        ends: &[&str],
        pooled: &[&Candidate],
    ) -> Result<Session, BackboneError> {
        let mut model = self.prepared.model.clone();
        split::add_features(&mut model, pooled.iter().map(|candidate| &candidate.pooling));
        let mut part = split::extract(&model, &self.prepared.input.tensor, start, ends)
            .map_err(|reason| BackboneError::Segment { segment, reason })?;
        split::shorten(&mut part);
        Session::load(&part, &self.options.provider, self.options.intra_threads)
            .map_err(|error| BackboneError::segment(segment, error))
    }
}
