//! What the parts of a backbone cost on this machine: medians, the cut and the uncut model in turns.

use std::time::Instant;

use super::batch_size::{self, BatchTiming};
use super::effort::{Effort, TO_CUT, TO_PACE, TO_SHOW};
use super::measured::{Measured, Way};
use super::pass::pass;
use super::timer::Clock;
use super::timing::{Rounds, Timing};
use crate::backbone::cut::{Backbone, Split};
use crate::backbone::error::BackboneError;
use crate::backbone::run::chain::Chain;
use crate::backbone::run::noise::noise;
use crate::cascade::{EngineError, Segments};
use crate::plan::{CostTable, ExitId};

impl Backbone {
    /// Measures what the parts cost on this machine; chains and auditors that are made from now on run as many rows at a time
    /// as they run best. Gives the costs per frame: medians, cut and uncut model in turns. What a head costs is told by its
    /// maker: `head_ms`, milliseconds per frame by the width of its features and the rows in a run.
    ///
    /// # Errors
    /// When a part cannot be loaded or run.
    pub fn measure(&mut self, head_ms: impl Fn(usize, usize) -> f64) -> Result<CostTable, BackboneError> {
        self.timings = batch_timings(self)?;
        Ok(batch_size::costs(&self.timings, &self.plan, &self.cut_sizes(), head_ms))
    }

    /// What was measured so far; [`Backbone::load_recalling`] takes it.
    #[must_use]
    pub fn measured(&self) -> Measured {
        let way = match (&self.optimised, self.plan.candidates.is_empty()) {
            (_, true) => Way::Whole,
            (Some(_), _) => Way::Optimised,
            (None, _) => Way::Plain,
        };
        Measured { way, timings: self.timings.clone() }
    }

    /// Times the backbone cut at `exits` against the uncut one.
    ///
    /// # Errors
    /// When a part cannot be loaded or run.
    pub fn time(&self, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
        time(self, exits, batch)
    }

    /// Elements per row of each candidate's cut tensor.
    fn cut_sizes(&self) -> Vec<f64> {
        self.prepared.candidates.iter().map(|candidate| candidate.port.row() as f64).collect()
    }
}

/// Times the backbone cut at all candidates and the uncut one with few rows in a run and with many, in turns.
fn batch_timings(backbone: &Backbone) -> Result<Vec<BatchTiming>, BackboneError> {
    let exits: Vec<ExitId> = backbone.plan().candidates.iter().map(|point| point.exit).collect();
    let way = if backbone.optimised.is_some() { Split::Optimised } else { Split::Plain };
    let (mut cut, mut whole) = (backbone.chain_of(&exits, way, &[])?, backbone.uncut()?);
    let clock = backbone.clock();
    let mut run = |rows, rounds: &mut Rounds| -> Result<f64, EngineError> {
        let pieces = pieces(clock, &mut cut, rows)?;
        whole.load(rows);
        let whole = clock.timed(|| whole.run(0, rows).map(drop))?;
        rounds.turns.push((pieces.iter().sum(), whole));
        rounds.pieces.push(pieces);
        Ok(whole)
    };
    run(1, &mut Rounds::default())?;
    let rows = batch_size::candidates(backbone.prepared.batches, run(1, &mut Rounds::default())?);
    let mut tried: Vec<(usize, Rounds)> = rows.into_iter().map(|rows| (rows, Rounds::default())).collect();
    let (mut count, began) = (0, Instant::now());
    while !TO_PACE.is_spent(count, began) {
        count += 1;
        for (rows, rounds) in &mut tried {
            run(*rows, rounds)?;
        }
    }
    Ok(tried.into_iter().map(|(rows, rounds)| BatchTiming { rows, timing: rounds.timing(rows) }).collect())
}

/// Milliseconds of each segment for a loaded batch.
fn pieces(clock: Clock, cut: &mut Chain, batch: usize) -> Result<Vec<f64>, EngineError> {
    let mut times = vec![0.0; cut.exits().len() + 1];
    pass(cut, batch, |cut, segment, rows| {
        times[segment] += clock.timed(|| cut.run(segment, rows).map(drop))?;
        Ok(())
    })?;
    Ok(times)
}

/// Times the backbone cut at `exits` against the uncut one, at one batch size. It runs as it serves: each segment as many rows at
/// a time as it runs best.
fn time(backbone: &Backbone, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
    let batch = batch.max(1);
    let mut cut = backbone.chain(exits)?;
    let mut whole = backbone.uncut()?;
    let frames = noise(batch * backbone.plan().input.len());
    cut.load(batch).copy_from_slice(&frames);
    whole.load(batch).copy_from_slice(&frames);
    let clock = backbone.clock();
    // In turns, and nothing else between: whoever ran before would leave its tensors in the caches.
    let mut rounds = Rounds::default();
    let began = Instant::now();
    while !TO_SHOW.is_spent(rounds.turns.len(), began) {
        let chain = clock.timed(|| pass(&mut cut, batch, |cut, segment, rows| cut.run(segment, rows).map(drop)))?;
        whole.load(batch);
        rounds.turns.push((chain, clock.timed(|| whole.run(0, batch).map(drop))?));
    }
    // Looking at the clock within a chain costs something too: its segments are timed by themselves.
    let (began, effort) = (Instant::now(), Effort { most: TO_SHOW.most, ..TO_CUT });
    while !effort.is_spent(rounds.pieces.len(), began) {
        rounds.pieces.push(pieces(clock, &mut cut, batch)?);
    }
    Ok(rounds.timing(batch))
}
