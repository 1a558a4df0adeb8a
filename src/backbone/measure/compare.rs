//! The ways to cut against the uncut model: which answer as it does, and how fast they are.

use std::time::{Duration, Instant};

use super::effort::{Effort, TO_CUT};
use super::pass::pass;
use super::timing::median;
use crate::backbone::cut::{Backbone, Split};
use crate::backbone::error::BackboneError;
use crate::backbone::run::chain::Chain;
use crate::backbone::run::noise::noise;
use crate::cascade::{Segments, StepOutput};
use crate::plan::ExitId;

/// Runs the ways to cut against the uncut model, at three cuts and a small batch. Gives those that answer as it does, each with
/// its time over the uncut model's.
pub(crate) fn compare(backbone: &Backbone, ways: &[Split]) -> Result<Vec<(Split, f64)>, BackboneError> {
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
