//! A head's first layer in whole numbers: features and weights of 16 bits, sums of 32.
//!
//! Whole sums are exact in any order: replicas on different machines get the same bits, with the widest registers of each, and a
//! processor takes twice as many products of 16 bits at a time as of floats. What is certified is certified with the rounding.

#![allow(clippy::inline_always, reason = "what is not inlined is not compiled for the registers that were picked")]

use half::f16;
use pulp::Arch;

/// Hidden units of a block: a block's sums stay in registers while the features pass.
const LANE: usize = 32;
/// Features whose weights are used at once: 16 kB, half of the smallest first-level cache about.
const TILE: usize = 256;
/// Steps to a standard deviation.
const STEPS: f32 = 256.0;
/// Most steps of a feature: sixteen standard deviations.
const STEPS_MAX: f32 = 4095.0;

/// The first layer of a head with d features and h hidden units.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FirstLayer {
    /// Features, made even with one that is always zero.
    width: usize,
    /// `[ceil(h / LANE)][width / 2][LANE][2]`, zero padded: a register takes pairs of products and adds each pair.
    weights: Vec<i16>,
    /// What one step of each unit's sum is worth; padded like its weights.
    worth: Vec<f32>,
}

impl FirstLayer {
    /// Rounds `weights`, `d x h`, a row per feature: each unit's to as fine a step as its sum may have without overflow.
    pub(super) fn new(weights: &[f16], hidden: usize) -> Self {
        let features = weights.len() / hidden;
        let (width, units) = (features.next_multiple_of(2), hidden.next_multiple_of(LANE));
        let mut layer = Self { width, weights: vec![0; units * width], worth: vec![0.0; units] };
        for unit in 0..hidden {
            let column = || weights.iter().skip(unit).step_by(hidden).map(|weight| f64::from(weight.to_f32()));
            let (sum, most) = column().fold((0.0f64, 0.0f64), |(sum, most), w| (sum + w.abs(), most.max(w.abs())));
            // Rounding adds up to half a step a weight.
            let room = f64::from(i32::MAX) / f64::from(STEPS_MAX) - features as f64;
            let steps = if most > 0.0 { (room / sum).min(f64::from(i16::MAX) / most) } else { 1.0 };
            layer.worth[unit] = (1.0 / (steps * f64::from(STEPS))) as f32;
            for (feature, weight) in column().enumerate() {
                let pair = (unit / LANE * width + feature / 2 * 2) * LANE;
                layer.weights[pair + unit % LANE * 2 + feature % 2] = (weight * steps).round() as i16;
            }
        }
        layer
    }

    /// Features of a row as this layer takes them.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Sums of a row.
    pub(super) fn units(&self) -> usize {
        self.worth.len()
    }

    /// Standardises a row of features and rounds it to whole steps. `row` has [`FirstLayer::width`] places.
    #[allow(clippy::manual_clamp, reason = "a NaN must become a number: its row is not believed, but it is summed")]
    pub(super) fn round(features: &[f32], mean: &[f32], scale: &[f32], row: &mut [i16]) {
        // Added to a number below, it pushes the fraction out of a float; what is left is the nearest whole number.
        const ROUNDER: f32 = 12_582_912.0;
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (((value, mean), scale), steps) in features.iter().zip(mean).zip(scale).zip(row) {
                    let value = ((value - mean) * scale * STEPS).max(-STEPS_MAX).min(STEPS_MAX);
                    *steps = (value + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i16;
                }
            },
        );
    }

    /// The units' values for rows of rounded features, before the rectifier: `bias` is as long as a row of sums.
    pub(super) fn units_of(&self, rows: &[i16], bias: &[f32], sums: &mut Vec<i32>, values: &mut Vec<f32>) {
        sums.clear();
        sums.resize(rows.len() / self.width * self.units(), 0);
        add_all(&self.weights, self.width, rows, sums);
        values.clear();
        for sums in sums.chunks_exact(self.units()) {
            let values_of = sums.iter().zip(&self.worth).zip(bias);
            values.extend(values_of.map(|((sum, worth), bias)| *sum as f32 * worth + bias));
        }
    }
}

/// Adds `features * weights` to `sums`, both a row per frame, as fast as this processor can.
fn add_all(weights: &[i16], width: usize, features: &[i16], sums: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(wide::AddAll { simd, weights, width, features, sums });
    }
    tiles(weights, width, features, sums, |weights, values, sums| {
        values.into_iter().zip(sums).for_each(|(values, sums)| add_plainly(weights, values, sums));
    });
}

/// Tiles of weights outside, rows inside: a tile stays in the first-level cache while every row meets it. Two rows at a time
/// (the second is empty where there is none): each weight is loaded once for both.
#[inline(always)]
fn tiles(
    weights: &[i16],
    width: usize,
    features: &[i16],
    sums: &mut [i32],
    mut add: impl FnMut(&[i16], [&[i16]; 2], [&mut [i32]; 2]),
) {
    let units = weights.len() / width;
    for (block, weights) in weights.chunks_exact(width * LANE).enumerate() {
        let units_here = block * LANE..(block + 1) * LANE;
        for (tile, weights) in weights.chunks(TILE * LANE).enumerate() {
            let features_here = tile * TILE..tile * TILE + weights.len() / LANE;
            for (features, sums) in features.chunks(2 * width).zip(sums.chunks_mut(2 * units)) {
                let (first, second) = features.split_at(width);
                let (sums, below) = sums.split_at_mut(units);
                let second = second.get(features_here.clone()).unwrap_or_default();
                let below = below.get_mut(units_here.clone()).unwrap_or_default();
                add(weights, [&first[features_here.clone()], second], [&mut sums[units_here.clone()], below]);
            }
        }
    }
}

/// One row and one block, for any processor.
#[inline(always)]
fn add_plainly(weights: &[i16], values: &[i16], sums: &mut [i32]) {
    for ([first, second], weights) in values.as_chunks::<2>().0.iter().zip(weights.as_chunks::<{ 2 * LANE }>().0) {
        for (sum, [one, other]) in sums.iter_mut().zip(weights.as_chunks::<2>().0) {
            *sum += i32::from(*first) * i32::from(*one) + i32::from(*second) * i32::from(*other);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use pulp::x86::V3;
    use pulp::{NullaryFnOnce, cast, i16x16, i32x8};

    use super::{LANE, tiles};

    /// Units in a register.
    const UNITS: usize = 8;
    const REGISTERS: usize = LANE / UNITS;

    /// [`super::add_all`] in registers of 256 bits.
    pub(super) struct AddAll<'a> {
        pub(super) simd: V3,
        pub(super) weights: &'a [i16],
        pub(super) width: usize,
        pub(super) features: &'a [i16],
        pub(super) sums: &'a mut [i32],
    }

    impl NullaryFnOnce for AddAll<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { simd, weights, width, features, sums } = self;
            tiles(
                weights,
                width,
                features,
                sums,
                #[inline(always)]
                |weights, values, sums| match (values, sums) {
                    ([values, []], [sums, _]) => add(simd, weights, [values], [sums]),
                    (values, sums) => add(simd, weights, values, sums),
                },
            );
        }
    }

    #[inline(always)]
    fn add<const ROWS: usize>(simd: V3, weights: &[i16], values: [&[i16]; ROWS], sums: [&mut [i32]; ROWS]) {
        let mut held = [[simd.splat_i32x8(0); REGISTERS]; ROWS];
        for (held, sums) in held.iter_mut().zip(&sums) {
            held.iter_mut().zip(sums.as_chunks::<UNITS>().0).for_each(|(held, sums)| *held = cast(*sums));
        }
        for (pair, weights) in weights.as_chunks::<{ 2 * LANE }>().0.iter().enumerate() {
            let weights: [i16x16; REGISTERS] = cast(*weights);
            for (held, values) in held.iter_mut().zip(values) {
                let pair: i32 = cast(values.as_chunks::<2>().0[pair]);
                let pair: i16x16 = cast(simd.splat_i32x8(pair));
                for (sums, weights) in held.iter_mut().zip(weights) {
                    let products: i32x8 = cast(simd.avx2._mm256_madd_epi16(cast(pair), cast(weights)));
                    *sums = simd.wrapping_add_i32x8(*sums, products);
                }
            }
        }
        for (held, sums) in held.iter().zip(sums) {
            sums.as_chunks_mut::<UNITS>().0.iter_mut().zip(held).for_each(|(sums, held)| *sums = cast(*held));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, seed: u32) -> impl Iterator<Item = f32> {
        (0..count).map(move |at| (at as f32 * 0.37 + seed as f32).sin())
    }

    proptest! {
        /// Goal: the same sums on every processor, for a row among others as for the row alone. Method: against plain loops.
        #[test]
        fn sums_are_those_of_plain_loops(half in 1usize..300, rows in 1usize..6, blocks in 1usize..4, seed in 0u32..99) {
            let width = 2 * half;
            let weights: Vec<i16> = numbers(blocks * width * LANE, seed).map(|v| (v * 3e4) as i16).collect();
            let features: Vec<i16> = numbers(rows * width, seed + 1).map(|v| (v * 100.0) as i16).collect();
            let mut fast = vec![7; rows * blocks * LANE];
            let mut plain = fast.clone();
            add_all(&weights, width, &features, &mut fast);
            for (features, sums) in features.chunks_exact(width).zip(plain.chunks_exact_mut(blocks * LANE)) {
                for (weights, sums) in weights.chunks_exact(width * LANE).zip(sums.chunks_exact_mut(LANE)) {
                    add_plainly(weights, features, sums);
                }
            }
            prop_assert_eq!(fast, plain);
        }

        /// Goal: no sum overflows, whatever the weights and the features; and rounding loses little.
        #[test]
        fn sums_have_room(width in 1usize..700, hidden in 1usize..70, size in -14i32..15, extreme in any::<bool>()) {
            let size = 2f32.powi(size);
            let weights: Vec<f16> = numbers(width * hidden, 1)
                .map(|value| f16::from_f32(if extreme { size } else { value * size }))
                .collect();
            let layer = FirstLayer::new(&weights, hidden);
            let features: Vec<f32> = numbers(width, 2).map(|value| if extreme { 1e9 } else { value * 3.0 }).collect();
            let mut row = vec![0; layer.width()];
            FirstLayer::round(&features, &vec![0.0; width], &vec![1.0; width], &mut row);
            let (mut sums, mut values) = (Vec::new(), Vec::new());
            layer.units_of(&row, &vec![0.0; layer.units()], &mut sums, &mut values);
            let kept = |value: f32| f64::from(value.clamp(-STEPS_MAX / STEPS, STEPS_MAX / STEPS));
            for (unit, made) in values.iter().take(hidden).enumerate() {
                let column = weights.iter().skip(unit).step_by(hidden).map(|weight| f64::from(weight.to_f32()));
                let (exact, sizes) = features.iter().zip(column).fold((0.0, 0.0), |(exact, sizes), (value, weight)| {
                    (exact + kept(*value) * weight, sizes + weight.abs())
                });
                // Half a step of every feature, and of every weight.
                let most = sizes * (0.5 / f64::from(STEPS) + 16.0 * width as f64 / 524_000.0) + 1e-5 * exact.abs();
                prop_assert!((f64::from(*made) - exact).abs() <= most, "{made} for {exact} +- {most}");
            }
        }
    }
}
