//! One training: all candidate heads of a version, in steps of one minibatch, so that it can be paused anywhere.
//!
//! A pure function of samples and seed: pausing changes nothing.
//!
//! What was tried stands in docs/measurements.md.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::heads::{Head, HeadError, HeadParts, Scratch};
use crate::learn::config::LearnConfig;
use crate::learn::mlp::{Adam, Mlp, Tape};
use crate::learn::rng::Rng;
use crate::learn::sample::Sample;
use crate::plan::{ExitId, Plan};

/// A feature that hardly varies is not blown up: its spread counts as at least this share of its size, or this.
const LEAST_SPREAD: f32 = 1e-3;

/// Heads learn the backbone's probabilities at this temperature (Hinton et al., arXiv 1503.02531): what tells most about a frame
/// is how unlikely each of the wrong classes is.
const TEMPERATURE: f32 = 4.0;
/// Less likely than this is no news.
const LEAST_PROBABILITY: f32 = 1e-12;

/// From so many samples on, copies included, heads have up to twice the hidden units (CIFAR-10, 5,000 audits with three
/// copies: cost 0.617 to 0.600 at 0.7 % disagreement) ...
const LARGE_FROM: usize = 12_000;
/// ... as far as such a head stays below this share of the model's FLOPs ...
const LARGE_FLOPS: f64 = 0.004;
/// ... and below so many weights, of two bytes each: a record holds a megabyte.
const LARGE_WEIGHTS: usize = 475_000;
/// Hidden units come in such groups: heads are judged so many units at a time.
const UNITS: usize = 32;

/// What a step came to.
#[derive(Debug)]
pub(crate) enum TrainStep {
    /// More to do.
    Going,
    /// All heads are trained, one per candidate, by depth.
    Done(Vec<Head>),
}

/// A training in progress.
#[derive(Debug)]
pub(crate) struct Training {
    widths: Vec<usize>,
    plan_classes: usize,
    plan_flops: u64,
    config: LearnConfig,
    classes: Vec<u32>,
    other: bool,
    train: Vec<Arc<Sample>>,
    /// What every sample of `train` teaches, a row each: the same for all heads and passes.
    targets: Vec<f32>,
    tune: Vec<Arc<Sample>>,
    rng: Rng,
    done: Vec<Head>,
    current: Option<Fit>,
}

/// The head being trained.
#[derive(Debug)]
struct Fit {
    mean: Vec<f32>,
    scale: Vec<f32>,
    mlp: Mlp,
    adam: Adam,
    tape: Tape,
    order: Vec<u32>,
    at: usize,
    step: usize,
    steps: usize,
}

impl Training {
    /// Every head starts from nothing: one that starts from the version before it ends 2 to 3 points of cost worse.
    /// `None` when fewer than two classes are seen often enough.
    pub(crate) fn new(
        plan: &Plan,
        config: &LearnConfig,
        train: Vec<Arc<Sample>>,
        tune: Vec<Arc<Sample>>,
        seed: u64,
    ) -> Option<Self> {
        let classes = common_classes(&train, plan.classes(), config.class_audits_min);
        if classes.len() < 2 {
            return None;
        }
        let other = classes.len() < plan.classes();
        let outputs = classes.len() + usize::from(other);
        let mut targets = vec![0.0; train.len() * outputs];
        for (sample, target) in train.iter().zip(targets.chunks_exact_mut(outputs)) {
            soft_target(sample.probabilities(), &classes, other, plan.classes(), target);
        }
        Some(Self {
            widths: plan.feature_widths(),
            plan_classes: plan.classes(),
            plan_flops: plan.flops,
            config: config.clone(),
            other,
            classes,
            train,
            targets,
            tune,
            rng: Rng::new(seed),
            done: Vec::new(),
            current: None,
        })
    }

    /// The samples kept apart for temperatures and for the choice of exits.
    pub(crate) fn tune(&self) -> &[Arc<Sample>] {
        &self.tune
    }

    /// One minibatch, or the end of one head.
    pub(crate) fn step(&mut self) -> Result<TrainStep, HeadError> {
        let candidate = self.done.len();
        if candidate == self.widths.len() {
            return Ok(TrainStep::Done(std::mem::take(&mut self.done)));
        }
        let mut fit = match self.current.take() {
            Some(fit) => fit,
            None => self.begin(candidate),
        };
        if fit.step == fit.steps {
            let head = self.finish(candidate, fit)?;
            self.done.push(head);
            return Ok(TrainStep::Going);
        }
        self.minibatch(candidate, &mut fit);
        self.current = Some(fit);
        Ok(TrainStep::Going)
    }

    fn begin(&mut self, candidate: usize) -> Fit {
        let width = self.widths[candidate];
        let outputs = self.classes.len() + usize::from(self.other);
        let hidden = hidden_units(self.config.hidden, self.train.len(), width + outputs, self.plan_flops);
        let mlp = Mlp::new(width, hidden, outputs, &mut self.rng);
        let (mean, scale) = standardisation(&self.train, candidate, width);
        let rows = self.config.minibatch.max(1);
        Fit {
            mean,
            scale,
            adam: Adam::new(&mlp),
            tape: Tape::new(&mlp, rows, TEMPERATURE),
            mlp,
            order: (0..u32::try_from(self.train.len()).unwrap_or(u32::MAX)).collect(),
            at: usize::MAX,
            step: 0,
            steps: self.config.epochs.max(1) * self.train.len().div_ceil(rows),
        }
    }

    fn minibatch(&mut self, candidate: usize, fit: &mut Fit) {
        if fit.at >= fit.order.len() {
            self.rng.shuffle(&mut fit.order);
            fit.at = 0;
        }
        let rows = self.config.minibatch.max(1).min(fit.order.len() - fit.at);
        let (width, outputs) = (fit.mlp.inputs, fit.mlp.outputs);
        for (row, index) in fit.order[fit.at..fit.at + rows].iter().enumerate() {
            let sample = &self.train[*index as usize];
            let inputs = &mut fit.tape.inputs[row * width..][..width];
            load(sample, candidate, inputs);
            standardise(inputs, &fit.mean, &fit.scale);
            let target = &self.targets[*index as usize * outputs..][..outputs];
            fit.tape.targets[row * outputs..][..outputs].copy_from_slice(target);
        }
        let _ = fit.tape.run(&fit.mlp, rows);
        let progress = fit.step as f32 / fit.steps as f32;
        let step_size = self.config.step_size * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
        fit.adam.step(&mut fit.mlp, &fit.tape.gradient, step_size);
        fit.at += rows;
        fit.step += 1;
    }

    /// Rounds the weights to what travels and fits the temperature of exactly that head.
    fn finish(&self, candidate: usize, fit: Fit) -> Result<Head, HeadError> {
        let narrow = |weights: &[f32]| weights.iter().map(|weight| f16::from_f32(*weight)).collect();
        let mut parts = HeadParts {
            exit: ExitId::from_index(candidate),
            sequence: 0,
            classes: self.classes.clone(),
            other: self.other,
            w1: narrow(fit.mlp.w1()),
            b1: fit.mlp.b1().to_vec(),
            w2: narrow(fit.mlp.w2()),
            b2: fit.mlp.b2().to_vec(),
            mean: fit.mean,
            scale: fit.scale,
            temperature: 1.0,
        };
        let width = self.widths[candidate];
        let head = Head::new(parts.clone(), width, self.plan_classes)?;
        parts.temperature = temperature(&head, &self.tune, candidate);
        Head::new(parts, width, self.plan_classes)
    }
}

/// Hidden units of a head with so many weights a unit: `least`, and up to twice that where samples are many.
fn hidden_units(least: usize, samples: usize, weights_each: usize, plan_flops: u64) -> usize {
    if samples < LARGE_FROM {
        return least;
    }
    let weights = ((LARGE_FLOPS * plan_flops as f64 / 2.0) as usize).min(LARGE_WEIGHTS);
    let units = weights / weights_each.max(1) / UNITS * UNITS;
    units.min(2 * least).max(least)
}

/// Classes that the backbone answered at least `least` times, ascending.
fn common_classes(samples: &[Arc<Sample>], classes: usize, least: usize) -> Vec<u32> {
    let mut counts = vec![0usize; classes];
    for sample in samples {
        if let Some(count) = counts.get_mut(sample.answer()) {
            *count += 1;
        }
    }
    (0u32..).zip(counts).filter(|(_, count)| *count >= least.max(1)).map(|(class, _)| class).collect()
}

fn load(sample: &Sample, candidate: usize, into: &mut [f32]) {
    // The sample was checked against the plan, whose widths `into` has.
    match sample.features(candidate).filter(|features| features.len() == into.len()) {
        Some(features) => features.convert_to_f32_slice(into),
        None => into.fill(0.0),
    }
}

fn standardise(values: &mut [f32], mean: &[f32], scale: &[f32]) {
    for ((value, mean), scale) in values.iter_mut().zip(mean).zip(scale) {
        *value = (*value - mean) * scale;
    }
}

/// Mean and one over the spread of every feature.
fn standardisation(samples: &[Arc<Sample>], candidate: usize, width: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut sums, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
    let mut row = vec![0.0f32; width];
    for sample in samples {
        load(sample, candidate, &mut row);
        for ((sum, square), value) in sums.iter_mut().zip(squares.iter_mut()).zip(&row) {
            *sum += f64::from(*value);
            *square += f64::from(*value) * f64::from(*value);
        }
    }
    let n = samples.len().max(1) as f64;
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / n) as f32).collect();
    let scale = squares.iter().zip(&mean).map(|(square, mean)| {
        let variance = (square / n - f64::from(*mean) * f64::from(*mean)).max(0.0);
        1.0 / (variance.sqrt() as f32).max(LEAST_SPREAD * mean.abs()).max(LEAST_SPREAD)
    });
    let scale = scale.collect();
    (mean, scale)
}

/// The backbone's probabilities over the subset, softened. "Any other class" is as likely as the likeliest of them: hundreds of
/// small probabilities together would often outweigh the answer, and softening makes more of them still. Classes that are not
/// listed share what the listed ones leave over, and none is likelier than any of those.
fn soft_target(listed: &[(u32, f32)], subset: &[u32], other: bool, classes: usize, into: &mut [f32]) {
    let (mut sum, mut outside) = (0.0, 0.0f32);
    into.fill(f32::NAN);
    for (class, probability) in listed {
        sum += *probability;
        match subset.binary_search(class) {
            Ok(output) => into[output] = *probability,
            Err(_) => outside = outside.max(*probability),
        }
    }
    let unlisted = classes.saturating_sub(listed.len());
    // With all of them listed what is left over is rounding.
    let left = if unlisted > 0 { (1.0 - sum).max(0.0) } else { 0.0 };
    let least = listed.last().map_or(0.0, |(_, probability)| *probability);
    let each = (left / unlisted.max(1) as f32).min(least);
    if other {
        into[subset.len()] = outside.max(each);
    }
    for target in into.iter_mut() {
        let probability = if target.is_nan() { each } else { *target };
        *target = probability.max(LEAST_PROBABILITY).powf(1.0 / TEMPERATURE);
    }
    let sum: f32 = into.iter().sum();
    into.iter_mut().for_each(|target| *target /= sum);
}

/// The temperature at which the backbone's answers on these samples are likeliest (golden section on its logarithm). A
/// little weight on 1 keeps it sane on a handful of samples.
fn temperature(head: &Head, tune: &[Arc<Sample>], candidate: usize) -> f32 {
    let mut scratch = Scratch::default();
    let rows: Vec<(Vec<f32>, usize)> = tune
        .iter()
        .filter_map(|sample| {
            let features = sample.features(candidate)?;
            let answer = u32::try_from(sample.answer()).ok()?;
            let inside = head.classes().binary_search(&answer).ok();
            let outputs = head.outputs(features, &mut scratch).to_vec();
            // Without an "other" output an answer outside the subset cannot be scored.
            let target = inside.or((outputs.len() > head.classes().len()).then_some(head.classes().len()))?;
            Some((outputs, target))
        })
        .collect();
    let loss = |log: f32| {
        let inverse = (-log).exp();
        let total: f32 = rows
            .iter()
            .map(|(outputs, target)| {
                let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = outputs.iter().map(|output| ((output - top) * inverse).exp()).sum();
                sum.ln() - (outputs[*target] - top) * inverse
            })
            .sum();
        total + log * log
    };
    let golden = 0.618_034f32;
    let (mut low, mut high) = (0.15f32.ln(), 6.0f32.ln());
    for _ in 0..24 {
        let span = (high - low) * golden;
        if loss(high - span) < loss(low + span) {
            high = low + span;
        } else {
            low = high - span;
        }
    }
    f32::midpoint(low, high).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a target tells how unlikely the unlikely classes are, whether or not the sample lists them.
    #[test]
    fn targets_are_softened() {
        let target = |listed: &[(u32, f32)], subset: &[u32], other: bool, classes: usize| {
            let mut made = vec![0.0; subset.len() + usize::from(other)];
            soft_target(listed, subset, other, classes, &mut made);
            assert!((made.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{made:?}");
            made
        };
        let near = |ratio: f32, probabilities: f32| (ratio / probabilities.powf(1.0 / TEMPERATURE) - 1.0).abs() < 1e-2;
        let listed = [(2, 0.9), (0, 0.1), (1, 1e-8)];
        let all = target(&listed, &[0, 1, 2], false, 3);
        assert!(near(all[1] / all[2], 1e-8 / 0.9) && near(all[0] / all[2], 0.1 / 0.9), "{all:?}");
        let some = target(&listed, &[0, 2], true, 3);
        assert!(near(some[2] / some[1], 1e-8 / 0.9), "the class that is left out, {some:?}");
        let short = target(&[(2, 0.9), (0, 0.06)], &[0, 2, 7, 8], true, 6);
        assert!(near(short[2] / short[1], 0.01 / 0.9) && near(short[4] / short[1], 0.01 / 0.9), "{short:?}");
        let many = target(&[(2, 0.4), (5, 0.3), (4, 0.3)], &[0, 2], true, 6);
        assert!(many[1] > many[2] && near(many[2] / many[1], 0.3 / 0.4), "others together outweigh nothing, {many:?}");
        let sure = target(&[(2, 1.0), (0, 0.0)], &[0, 2, 7], false, 9);
        assert!(sure.iter().all(|value| *value > 0.0), "{sure:?}");
    }

    /// Goal: large heads only where samples are many, and never too dear or too large to send.
    #[test]
    fn large_heads_are_bounded() {
        let units = |samples, weights_each, flops| hidden_units(128, samples, weights_each, flops);
        assert_eq!(units(LARGE_FROM - 1, 1034, 280_000_000), 128, "few samples");
        assert_eq!(units(LARGE_FROM, 1034, 280_000_000), 256);
        assert_eq!(units(LARGE_FROM, 2058, 280_000_000), 224, "a record holds a megabyte");
        assert_eq!(units(LARGE_FROM, 1034, 100_000_000), 192, "a share of the model");
        assert_eq!(units(LARGE_FROM, 1034, 1_000), 128, "never below the usual");
    }
}
