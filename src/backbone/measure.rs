//! What the parts of a backbone cost on this machine: medians, the cut and the uncut model in turns.

use std::time::{Duration, Instant};

use super::chain::Chain;
use super::clock::Clock;
use super::pace::{self, Pace};
use super::probe::noise;
use super::{Backbone, BackboneError, Split};
use crate::cascade::{self, EngineError, Segments, StepOutput};
use crate::plan::ExitId;

/// How many rounds a median is taken of.
struct Effort {
    /// Fewest rounds, unless patience ends before.
    fewest: usize,
    /// Most rounds.
    most: usize,
    /// How long they may take where that is enough for the fewest.
    budget: Duration,
    /// How long a large model is waited for. After that one round that is warm will do, and after twice as long a cold one.
    patience: Duration,
}

/// To choose the way to cut, and the rows in a run: a worker waits for it to start.
const TO_CUT: Effort =
    Effort { fewest: 5, most: 60, budget: Duration::from_millis(300), patience: Duration::from_secs(5) };
const TO_PACE: Effort = Effort { budget: Duration::from_millis(1200), patience: Duration::from_secs(10), ..TO_CUT };
/// To show: for one who asks for nothing else. Long enough to outlast what else the machine does now and then.
const TO_SHOW: Effort =
    Effort { fewest: 40, most: 3000, budget: Duration::from_secs(3), patience: Duration::from_secs(20) };

impl Effort {
    /// Whether so many rounds are enough.
    fn is_spent(&self, rounds: usize, began: Instant) -> bool {
        let spent = began.elapsed();
        match rounds {
            0 => false,
            1 => spent > self.patience * 2,
            _ if rounds < self.fewest => spent > self.patience,
            _ => rounds >= self.most || spent > self.budget.min(self.patience),
        }
    }
}

/// Milliseconds per frame of a chain's segments and of the uncut model, timed in turns: processor time with one thread,
/// wall clock with more.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Per segment, in order.
    pub segments_ms: Vec<f64>,
    /// The uncut model.
    pub whole_ms: f64,
    /// Median of the chain's time over the uncut model's, round by round.
    pub ratio: f64,
}

/// Times the backbone cut at all candidates and the uncut one with few rows in a run and with many, in turns.
pub(super) fn paces(backbone: &Backbone) -> Result<Vec<Pace>, BackboneError> {
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
    let rows = pace::candidates(backbone.prepared.batches, run(1, &mut Rounds::default())?);
    let mut tried: Vec<(usize, Rounds)> = rows.into_iter().map(|rows| (rows, Rounds::default())).collect();
    let (mut count, began) = (0, Instant::now());
    while !TO_PACE.is_spent(count, began) {
        count += 1;
        for (rows, rounds) in &mut tried {
            run(*rows, rounds)?;
        }
    }
    Ok(tried.into_iter().map(|(rows, rounds)| Pace { rows, timing: rounds.timing(rows) }).collect())
}

/// Milliseconds of a batch, round by round.
#[derive(Default)]
struct Rounds {
    /// Of each segment.
    pieces: Vec<Vec<f64>>,
    /// Of the chain, and of the uncut model in turn with it.
    turns: Vec<(f64, f64)>,
}

impl Rounds {
    /// Medians per frame, of batches of so many rows.
    fn timing(&self, rows: usize) -> Timing {
        let (pieces, turns) = (warm(&self.pieces), warm(&self.turns));
        let segments = pieces.first().map_or(0, Vec::len);
        let per_frame = |values: Vec<f64>| median(values) / rows as f64;
        Timing {
            segments_ms: (0..segments).map(|at| per_frame(pieces.iter().map(|times| times[at]).collect())).collect(),
            whole_ms: per_frame(turns.iter().map(|(_, whole)| *whole).collect()),
            ratio: median(turns.iter().map(|(chain, whole)| chain / whole).collect()),
        }
    }
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
pub(super) fn time(backbone: &Backbone, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
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

/// All rounds but the first, which warmed caches and arenas, if there are others.
fn warm<T>(rounds: &[T]) -> &[T] {
    rounds.get(1..).filter(|warm| !warm.is_empty()).unwrap_or(rounds)
}

/// Runs a loaded batch through the chain again.
fn pass(
    chain: &mut Chain,
    rows: usize,
    run: impl FnMut(&mut Chain, usize, usize) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    chain.load(rows);
    cascade::through(chain, rows, run)
}

/// Runs the ways to cut against the uncut model, at three cuts and a small batch. Gives those that answer as it does, each with
/// its time over the uncut model's.
pub(super) fn compare(backbone: &Backbone, ways: &[Split]) -> Result<Vec<(Split, f64)>, BackboneError> {
    const BATCH: usize = 2;
    const CUTS: usize = 3;
    let candidates = &backbone.plan().candidates;
    let step = candidates.len().div_ceil(CUTS).max(1);
    let some: Vec<ExitId> = candidates.iter().step_by(step).map(|point| point.exit).collect();
    let frames = noise(BATCH * backbone.plan().input.len());
    let mut whole = backbone.uncut()?;
    let right = settled(&mut whole, &frames, BATCH)?;
    let near = |answer: &[f32]| {
        let top = right.iter().copied().fold(0.0, f32::max);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= backbone.prepared.rounding * top;
        answer.len() == right.len() && answer.iter().zip(&right).all(near)
    };
    if !near(&through(&mut whole, BATCH)?) {
        tracing::warn!("the model answers at random: no way to cut it can be shown to be right");
        return Ok(Vec::new());
    }
    let mut alike = Vec::new();
    for &way in ways {
        let answered = backbone.chain_of(&some, way, &[]).and_then(|mut chain| {
            let answer = settled(&mut chain, &frames, BATCH)?;
            Ok((chain, answer))
        });
        match answered {
            Ok((chain, answer)) if near(&answer) => alike.push((way, chain, Vec::new())),
            Ok(_) => tracing::warn!(?way, "this way to cut answers otherwise than the uncut model"),
            Err(error) => tracing::warn!(?way, %error, "this way to cut does not run"),
        }
    }
    // With nothing to choose the figure is only shown.
    let effort = if alike.len() > 1 { TO_CUT } else { Effort { budget: Duration::ZERO, ..TO_CUT } };
    let (began, clock) = (Instant::now(), backbone.clock());
    let mut rounds = 0;
    while !effort.is_spent(rounds, began) {
        rounds += 1;
        let time = clock.timed(|| through(&mut whole, BATCH).map(drop))?;
        for (_, chain, ratios) in &mut alike {
            ratios.push(clock.timed(|| through(chain, BATCH).map(drop))? / time);
        }
    }
    Ok(alike.into_iter().map(|(way, _, ratios)| (way, median(ratios))).collect())
}

/// What a chain answers once its tensors stay where they are.
fn settled(chain: &mut Chain, frames: &[f32], rows: usize) -> Result<Vec<f32>, BackboneError> {
    chain.load(rows).copy_from_slice(frames);
    (0..2).try_for_each(|_| through(chain, rows).map(drop))?;
    through(chain, rows)
}

fn through(chain: &mut Chain, rows: usize) -> Result<Vec<f32>, BackboneError> {
    let mut answers = Vec::new();
    pass(chain, rows, |chain, segment, rows| {
        if let StepOutput::Probabilities(values) = chain.run(segment, rows)? {
            answers.extend_from_slice(values);
        }
        Ok(())
    })?;
    Ok(answers)
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
