//! What the parts of a backbone cost on this machine: medians, the cut and the uncut model in turns.

use std::time::{Duration, Instant};

use super::chain::Chain;
use super::probe::noise;
use super::{Backbone, BackboneError, Split};
use crate::cascade::{Segments, StepOutput};
use crate::plan::{CostTable, ExitId};

/// Rounds of which the median is taken: at least, at most, and as long as there is time.
const ROUNDS_MIN: usize = 5;
const ROUNDS_MAX: usize = 60;
const BUDGET: Duration = Duration::from_millis(600);
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

/// Times the backbone cut at `exits` against the uncut one, at one batch size.
pub(super) fn time(backbone: &Backbone, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
    time_within(backbone, exits, batch, PATIENCE)
}

fn time_within(
    backbone: &Backbone,
    exits: &[ExitId],
    batch: usize,
    patience: Duration,
) -> Result<Timing, BackboneError> {
    let batch = batch.max(1);
    let (mut cut, mut whole) = (backbone.chain(exits)?, backbone.uncut()?);
    let frames = noise(batch * backbone.plan().input.len());
    cut.load(batch).copy_from_slice(&frames);
    whole.load(batch).copy_from_slice(&frames);
    // By round: every segment's, and the uncut model's.
    let mut rounds: Vec<(Vec<f64>, f64)> = Vec::new();
    let (began, clock) = (Instant::now(), Clock::of(backbone));
    while !enough(rounds.len(), began, BUDGET, patience) {
        let mut times = Vec::with_capacity(exits.len() + 1);
        for segment in 0..=exits.len() {
            times.push(clock.timed(|| cut.run(segment, batch).map(drop)).map_err(BackboneError::Engine)?);
        }
        rounds.push((times, clock.timed(|| whole.run(0, batch).map(drop)).map_err(BackboneError::Engine)?));
    }
    // The first round warmed caches and arenas.
    let warm = rounds.get(1..).filter(|warm| !warm.is_empty()).unwrap_or(&rounds);
    let per_frame = 1.0 / batch as f64;
    let segment = |at: usize| median(warm.iter().filter_map(|(times, _)| times.get(at).copied()).collect()) * per_frame;
    Ok(Timing {
        segments_ms: (0..=exits.len()).map(segment).collect(),
        whole_ms: median(warm.iter().map(|(_, whole)| *whole).collect()) * per_frame,
        ratio: median(warm.iter().map(|(times, whole)| times.iter().sum::<f64>() / whole).collect()),
    })
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
        let answered = backbone.chain_of(&some, way).and_then(|mut chain| {
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
    for segment in 0..=chain.exits().len() {
        if let StepOutput::Probabilities(values) = chain.run(segment, rows)? {
            return Ok(values.to_vec());
        }
    }
    Ok(Vec::new())
}

/// The cost table for one batch size; `head_ms` prices a head by the width of its features.
pub(super) fn costs(
    backbone: &Backbone,
    batch: usize,
    head_ms: impl Fn(usize) -> f64,
) -> Result<CostTable, BackboneError> {
    let (plan, batch) = (backbone.plan(), batch.max(1));
    let exits: Vec<ExitId> = plan.candidates.iter().map(|point| point.exit).collect();
    let timing = time_within(backbone, &exits, batch, PATIENCE_AT_LOAD)?;
    let sum: f64 = timing.segments_ms.iter().sum();
    // The pieces are scaled to the uncut model; what the cut chain costs more is shared out by the tensors' sizes.
    let share = timing.whole_ms / sum.max(f64::MIN_POSITIVE);
    let sizes = backbone.cut_sizes();
    let all: f64 = sizes.iter().sum();
    let over = timing.whole_ms * (timing.ratio - 1.0);
    let table = CostTable {
        piece_ms: timing.segments_ms.iter().map(|ms| ms * share).collect(),
        cut_ms: sizes.iter().map(|size| over * size / all.max(f64::MIN_POSITIVE)).collect(),
        head_ms: plan.candidates.iter().map(|point| head_ms(point.feature_width)).collect(),
        whole_ms: timing.whole_ms,
    };
    tracing::debug!(batch, ?table, "measured");
    Ok(table)
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
