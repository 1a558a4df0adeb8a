//! What the parts of a backbone cost on this machine: medians, the cut and the uncut model in turns.

use std::time::{Duration, Instant};

use super::chain::Chain;
use super::pace::{self, Pace};
use super::probe::noise;
use super::{Backbone, BackboneError, Split};
use crate::cascade::{self, EngineError, Segments, StepOutput};
use crate::plan::ExitId;

/// Rounds of which the median is taken: at least, at most, and as long as there is time.
const ROUNDS_MIN: usize = 5;
const ROUNDS_MAX: usize = 60;
const BUDGET: Duration = Duration::from_millis(600);
/// Rows in a run that are tried when it is measured which are best, and how long each of them is.
const PACES: [usize; 6] = [1, 2, 4, 8, 16, 32];
const PACE_BUDGET: Duration = Duration::from_millis(250);
/// How long a worker that starts waits for the rounds of a large model, and one who asks for nothing else. After that one round
/// that is warm will do, and after twice as long a cold one.
const PATIENCE_AT_LOAD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether so many rounds are enough.
fn enough(rounds: usize, began: Instant, budget: Duration, patience: Duration) -> bool {
    let spent = began.elapsed();
    match rounds {
        0 => false,
        1 => spent > patience * 2,
        2..ROUNDS_MIN => spent > patience,
        ROUNDS_MIN..ROUNDS_MAX => spent > budget.min(patience),
        _ => true,
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

/// Times the backbone cut at `exits` against the uncut one, at one batch size. It runs as it serves: each segment as many rows at
/// a time as it runs best.
pub(super) fn time(backbone: &Backbone, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
    time_within(backbone, backbone.chain(exits)?, batch.max(1), BUDGET, PATIENCE)
}

/// Times the backbone cut at all candidates with ever more rows in a run, as long as that helps any part.
pub(super) fn paces(backbone: &Backbone) -> Result<Vec<Pace>, BackboneError> {
    let exits: Vec<ExitId> = backbone.plan().candidates.iter().map(|point| point.exit).collect();
    let way = if backbone.optimised.is_some() { Split::Optimised } else { Split::Plain };
    let most = if backbone.prepared.batches { PACES.len() } else { 1 };
    let mut paces = Vec::new();
    for rows in PACES.into_iter().take(most) {
        if !pace::may_improve(&paces, rows) {
            break;
        }
        let chain = backbone.chain_of(&exits, way, &[])?;
        let timing = time_within(backbone, chain, rows, PACE_BUDGET, PATIENCE_AT_LOAD / 4)?;
        paces.push(Pace { rows, timing });
    }
    Ok(paces)
}

fn time_within(
    backbone: &Backbone,
    mut cut: Chain,
    batch: usize,
    budget: Duration,
    patience: Duration,
) -> Result<Timing, BackboneError> {
    let mut whole = backbone.uncut()?;
    let frames = noise(batch * backbone.plan().input.len());
    cut.load(batch).copy_from_slice(&frames);
    whole.load(batch).copy_from_slice(&frames);
    let (clock, segments, budget) = (Clock::of(backbone), cut.exits().len() + 1, budget / 2);
    // In turns, and nothing else between: whoever ran before would leave its tensors in the caches.
    let mut rounds = Vec::new();
    let began = Instant::now();
    while !enough(rounds.len(), began, budget, patience) {
        let chain = clock.timed(|| pass(&mut cut, batch, |cut, segment, rows| cut.run(segment, rows).map(drop)))?;
        whole.load(batch);
        rounds.push((chain, clock.timed(|| whole.run(0, batch).map(drop))?));
    }
    // Looking at the clock within a chain costs something too: its segments are timed by themselves.
    let mut pieces = Vec::new();
    let began = Instant::now();
    while !enough(pieces.len(), began, budget, patience) {
        let mut times = vec![0.0; segments];
        pass(&mut cut, batch, |cut, segment, rows| {
            times[segment] += clock.timed(|| cut.run(segment, rows).map(drop))?;
            Ok(())
        })?;
        pieces.push(times);
    }
    let (rounds, pieces) = (warm(&rounds), warm(&pieces));
    let per_frame = 1.0 / batch as f64;
    Ok(Timing {
        segments_ms: (0..segments)
            .map(|at| median(pieces.iter().map(|times| times[at] * per_frame).collect()))
            .collect(),
        whole_ms: median(rounds.iter().map(|(_, whole)| whole * per_frame).collect()),
        ratio: median(rounds.iter().map(|(chain, whole)| chain / whole).collect()),
    })
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
    let budget = if alike.len() > 1 { BUDGET / 2 } else { Duration::ZERO };
    let (began, clock) = (Instant::now(), Clock::of(backbone));
    let mut rounds = 0;
    while !enough(rounds, began, budget, PATIENCE_AT_LOAD) {
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

/// What time is taken with. A lane of one thread does all its work in the caller's: its processor time is the cost,
/// whoever else keeps the machine busy while we measure. With more threads only the wall clock sees them all.
#[derive(Debug, Clone, Copy)]
enum Clock {
    Thread,
    Wall,
}

impl Clock {
    fn of(backbone: &Backbone) -> Self {
        if cfg!(unix) && backbone.options.intra_threads <= 1 { Self::Thread } else { Self::Wall }
    }

    fn timed<E>(self, run: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
        let (wall, thread) = (Instant::now(), thread_time());
        run()?;
        let spent = match self {
            Self::Thread => thread_time().saturating_sub(thread),
            Self::Wall => wall.elapsed(),
        };
        Ok(spent.as_secs_f64() * 1e3)
    }
}

#[cfg(unix)]
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(not(unix))]
fn thread_time() -> Duration {
    Duration::ZERO
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
