//! How many consecutive frames of a camera tell as much as one: the design effect (Kish 1965), B of the blocks.
//!
//! `1 + 2 sum rho(h)`, where `rho(h)` is the correlation of what two frames h apart show, pooled over all cameras and summed
//! until it is below 0.05. Scenes of geometric length with mean L give about 2 L. What is shown is an error or none, or, where
//! too few errors were seen, the answer: scenes of answers last at least as long as the errors within them.

use std::collections::BTreeMap;

use crate::audit::{CameraId, Place};

/// Correlation that is none.
const NONE: f64 = 0.05;
/// Pairs of frames from which a correlation is read.
const PAIRS: f64 = 50.0;
/// And those from which it is read what cameras differ by for good.
const PLATEAU_PAIRS: f64 = 200.0;
/// Standard errors by which the first correlation must exceed [`NONE`] to be one.
const SIGNIFICANT: f64 = 2.0;
/// Bursts (of errors, of answers) that must have been seen.
const BURSTS: usize = 20;
/// Blocks that the frames must make: from fewer scenes nothing is known of their length.
const BLOCKS: f64 = 20.0;

/// What audited frames showed, in a stretch of time: an answer, or an error or none.
#[derive(Debug, Clone, Default)]
pub struct Series {
    streams: BTreeMap<(CameraId, u64), Vec<(u64, u32)>>,
}

impl Series {
    /// Takes one audited frame and the kind of what it showed.
    pub fn push(&mut self, place: Place, kind: u32) {
        self.streams.entry((place.camera, place.stream)).or_default().push((place.number, kind));
    }

    /// Bursts of this kind: audits of one camera that show it, one after the other.
    #[must_use]
    pub fn bursts(&mut self, kind: u32) -> usize {
        let starts = |stream: &mut Vec<(u64, u32)>| {
            sort(stream);
            let of = |at: usize| stream.get(at).is_some_and(|(_, shown)| *shown == kind);
            (0..stream.len()).filter(|at| of(*at) && !at.checked_sub(1).is_some_and(of)).count()
        };
        self.streams.values_mut().map(starts).sum()
    }

    /// The number of frames in a block; `None`: it cannot be told, for want of frames or because nothing varied.
    #[must_use]
    pub fn effect(&mut self) -> Option<u64> {
        self.streams.values_mut().for_each(sort);
        let base = self.same_by_chance();
        if base > 1.0 - 1e-9 {
            return None;
        }
        let lags = self.correlations(base);
        let first = lags.first()?;
        let longest = lags.last().map_or(0.0, |lag| lag.to);
        // Cameras that show different things stay alike at any distance. That is no dependence of their frames, and is taken
        // off where a correlation that passes is over long before the greatest distances that were seen.
        let far: Vec<&Lag> = lags.iter().filter(|lag| lag.from > longest / 2.0).collect();
        let pairs: f64 = far.iter().map(|lag| lag.pairs).sum();
        let plateau = far.iter().map(|lag| lag.rho * lag.pairs).sum::<f64>() / pairs.max(1.0);
        let plateau = if pairs >= PLATEAU_PAIRS { plateau.clamp(0.0, 0.99) } else { 0.0 };
        let without = |plateau: f64| move |lag: &Lag| (lag.rho - plateau) / (1.0 - plateau);
        let over = |plateau: f64| lags.iter().position(|lag| without(plateau)(lag) < NONE);
        let passes = over(plateau).filter(|end| lags.get(*end).is_some_and(|lag| lag.from <= longest / 4.0));
        let (plateau, end) = match passes {
            Some(end) => (plateau, end),
            None => (0.0, over(0.0)?),
        };
        let rho = without(plateau);
        if rho(first) <= NONE + SIGNIFICANT / first.pairs.sqrt() {
            return Some(1);
        }
        let sum: f64 = lags.iter().take(end).map(|lag| rho(lag) * (lag.to - lag.from + 1.0)).sum();
        let effect = (1.0 + 2.0 * sum).ceil();
        (self.frames() >= BLOCKS * effect).then_some(effect as u64)
    }

    /// Frames from the first to the last audit of each stream.
    fn frames(&self) -> f64 {
        let span = |stream: &Vec<(u64, u32)>| match (stream.first(), stream.last()) {
            (Some((first, _)), Some((last, _))) => (last - first + 1) as f64,
            _ => 0.0,
        };
        self.streams.values().map(span).sum()
    }

    /// How likely two frames from anywhere show the same.
    fn same_by_chance(&self) -> f64 {
        let mut kinds = BTreeMap::<u32, f64>::new();
        self.streams.values().flatten().for_each(|(_, kind)| *kinds.entry(*kind).or_default() += 1.0);
        let all: f64 = kinds.values().sum();
        kinds.values().map(|count| (count / all.max(1.0)).powi(2)).sum()
    }

    /// Correlations by distance, in ranges that hold enough pairs; `base` is what chance alone makes the same.
    fn correlations(&self, base: f64) -> Vec<Lag> {
        let offsets = offsets();
        let mut counts: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for stream in self.streams.values() {
            for (at, (number, kind)) in stream.iter().enumerate() {
                for offset in &offsets {
                    let Some((other, shown)) = stream.get(at + offset) else { break };
                    let (same, pairs) = counts.entry(range(other - number)).or_default();
                    *same += f64::from(u8::from(shown == kind));
                    *pairs += 1.0;
                }
            }
        }
        let (mut lags, mut open) = (Vec::new(), None::<(f64, f64, f64)>);
        for (end, (same, pairs)) in counts {
            let from = lags.last().map_or(1.0, |lag: &Lag| lag.to + 1.0);
            let (from, same, pairs) = open.map_or((from, same, pairs), |(from, s, p)| (from, s + same, p + pairs));
            if pairs < PAIRS {
                open = Some((from, same, pairs));
                continue;
            }
            lags.push(Lag { from, to: end as f64, pairs, rho: (same / pairs - base) / (1.0 - base) });
            open = None;
        }
        lags
    }
}

/// A range of distances, in frames, and the correlation there.
#[derive(Debug)]
struct Lag {
    from: f64,
    to: f64,
    pairs: f64,
    rho: f64,
}

fn sort(stream: &mut Vec<(u64, u32)>) {
    stream.sort_unstable();
    stream.dedup_by_key(|(number, _)| *number);
}

/// The end of the range that a distance (at least 1) falls into: ranges grow by a quarter.
fn range(distance: u64) -> u64 {
    let mut end = 1;
    while end < distance {
        end = (end + 1).max(end + end / 4);
    }
    end
}

/// How many audits on a frame is compared with: all neighbours, then ever fewer. A few hundred comparisons a frame.
fn offsets() -> Vec<usize> {
    (1..64).chain((64..512).step_by(4)).chain((512..8_192).step_by(32)).collect()
}

/// The number of frames in a block, from the errors of a stretch that the heads were not trained on and from its answers.
/// The errors decide where enough of them were seen. `None`: nobody can tell yet.
#[must_use]
pub fn design_effect(errors: &mut Series, answers: &mut Series) -> Option<u64> {
    let seen = errors.bursts(1) >= BURSTS;
    seen.then(|| errors.effect()).flatten().or_else(|| answers.effect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::dice::Dice;

    /// Answers of `cameras`, in scenes of geometric length with this mean: each scene shows one of `kinds`.
    fn scenes(cameras: u64, frames: u64, mean: f64, rate: f64, seed: u64, kind: impl Fn(u64, f64) -> u32) -> Series {
        let mut dice = Dice::new(seed);
        let mut series = Series::default();
        for camera in 0..cameras {
            let mut shown = kind(camera, dice.unit());
            for number in 0..frames {
                if dice.unit() < 1.0 / mean {
                    shown = kind(camera, dice.unit());
                }
                if dice.unit() < rate {
                    series.push(Place { camera: CameraId(camera), stream: 1, number }, shown);
                }
            }
        }
        series
    }

    fn ten(_: u64, draw: f64) -> u32 {
        (draw * 10.0) as u32
    }

    /// Goal: frames that know nothing of each other are trials of their own, however many cameras, audits and kinds there are,
    /// and also where every camera has kinds of its own. Method: 20 seeds each.
    #[test]
    fn independent_frames_are_blocks_of_one() {
        let halves = |camera: u64, draw: f64| (draw * 5.0) as u32 + camera as u32 % 2 * 5;
        let rare = |_: u64, draw: f64| u32::from(draw < 0.03);
        let mut ones = [0; 6];
        for seed in 0..20 {
            let cases = [
                scenes(1, 450, 1.0, 1.0, seed, ten),
                scenes(12, 40, 1.0, 0.9, seed, ten),
                scenes(200, 5, 1.0, 1.0, seed, ten),
                scenes(12, 60, 1.0, 0.9, seed, halves),
                scenes(6, 20_000, 1.0, 0.01, seed, ten),
                scenes(8, 300, 1.0, 0.9, seed, rare),
            ];
            for (count, mut case) in ones.iter_mut().zip(cases) {
                *count += u32::from(case.effect() == Some(1));
            }
        }
        assert!(ones.iter().all(|count| *count >= 18), "{ones:?} of 20");
    }

    /// Goal: scenes of mean length L make blocks of about 2 L, or nothing is said.
    #[test]
    fn scenes_make_blocks_of_twice_their_length() {
        for (mean, cameras, frames) in [(10.0, 6, 500), (10.0, 24, 100), (30.0, 6, 1_500), (100.0, 6, 3_000)] {
            let mut effects: Vec<f64> = Vec::new();
            let mut silent = 0;
            for seed in 0..10 {
                match scenes(cameras, frames, mean, 0.9, seed, ten).effect() {
                    Some(effect) => effects.push(effect as f64),
                    None => silent += 1,
                }
            }
            effects.sort_by(f64::total_cmp);
            let (low, middle) = (effects[0], effects[effects.len() / 2]);
            assert!(silent <= 2, "{silent} of 10 say nothing at {mean}");
            assert!(low >= 1.0 * mean && (1.3 * mean..=2.8 * mean).contains(&middle), "{mean}: {effects:?}");
        }
    }

    /// Goal: scenes longer than what was seen are not taken for short ones.
    #[test]
    fn what_cannot_be_told_is_not_told() {
        for seed in 0..20 {
            let said = scenes(24, 19, 100.0, 1.0, seed, ten).effect();
            assert!(said.is_none(), "{said:?}");
            let said = scenes(3, 100, 1_000.0, 1.0, seed, ten).effect();
            assert!(said.is_none(), "{said:?}");
            let said = scenes(1, 450, 100.0, 1.0, seed, ten).effect();
            assert!(said.is_none(), "{said:?}");
        }
        assert_eq!(scenes(5, 100, 1.0, 1.0, 1, |_, _| 7).effect(), None, "nothing varies");
        assert_eq!(Series::default().effect(), None);
    }

    /// Goal: a camera that errs more than the others, and one that never changes, make no frames depend on each other.
    #[test]
    fn cameras_that_differ_for_good_are_no_scenes() {
        let bad = |camera: u64, draw: f64| u32::from(draw < if camera == 0 { 0.3 } else { 0.015 });
        let still = |camera: u64, draw: f64| if camera < 3 { 99 } else { ten(camera, draw) };
        let (mut ones, mut tens) = (0, 0);
        for seed in 0..20 {
            ones += u32::from(scenes(24, 200, 1.0, 0.9, seed, bad).effect() == Some(1));
            let effect = scenes(6, 1_500, 10.0, 0.9, seed, still).effect();
            tens += u32::from(effect.is_some_and(|effect| (10..=28).contains(&effect)));
        }
        assert!(ones >= 17 && tens >= 18, "{ones} and {tens} of 20");
    }

    #[test]
    fn few_errors_leave_it_to_the_answers() {
        let mut answers = scenes(6, 500, 10.0, 0.9, 3, ten);
        let by_answers = answers.effect();
        let mut few = scenes(6, 500, 1.0, 0.9, 3, |_, draw| u32::from(draw < 0.002));
        assert_eq!(design_effect(&mut few, &mut answers), by_answers);
        let mut many = scenes(6, 500, 1.0, 0.9, 3, |_, draw| u32::from(draw < 0.03));
        assert_eq!(design_effect(&mut many, &mut answers), Some(1));
    }
}
