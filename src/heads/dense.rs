//! The sums of a head's first layer, with the widest registers of this processor.
//!
//! Every hidden unit is summed by itself, feature after feature, product and sum rounded apart (never fused): a register
//! holds many units and no unit's sum depends on how many. So replicas on different machines get the same bits.

#![allow(clippy::inline_always, reason = "what is not inlined is not compiled for the registers that were picked")]

use pulp::{Arch, Simd, WithSimd};

/// Hidden units of a block: a block's sums stay in registers while the features pass.
pub(super) const LANE: usize = 32;
/// Features whose weights are used at once: 16 kB, half of the smallest first-level cache about.
const TILE: usize = 128;

/// Adds `features * weights` to `hidden`, both a row per frame. `weights` lie in blocks of [`LANE`] hidden units,
/// `[blocks][width][LANE]`. Tiles of weights outside, rows inside: a tile stays in the first-level cache while every row
/// meets it.
pub(super) fn first_layer(weights: &[f32], width: usize, features: &[f32], hidden: &mut [f32]) {
    Arch::new().dispatch(FirstLayer { weights, width, features, hidden });
}

struct FirstLayer<'a> {
    weights: &'a [f32],
    width: usize,
    features: &'a [f32],
    hidden: &'a mut [f32],
}

impl WithSimd for FirstLayer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, width, features, hidden } = self;
        let units = weights.len() / width;
        for (block, weights) in weights.chunks_exact(width * LANE).enumerate() {
            let units_here = block * LANE..(block + 1) * LANE;
            for (tile, weights) in weights.chunks(TILE * LANE).enumerate() {
                let features_here = tile * TILE..tile * TILE + weights.len() / LANE;
                // Two rows at a time: each weight is loaded once for both, and twice the sums hide the adder's latency.
                let pairs = features.chunks(2 * width).zip(hidden.chunks_mut(2 * units));
                for (features, hidden) in pairs {
                    let (hidden, below) = hidden.split_at_mut(units);
                    let sums = &mut hidden[units_here.clone()];
                    let values = &features[..width][features_here.clone()];
                    if below.is_empty() {
                        add_row(simd, weights, values, sums);
                    } else {
                        let rows = [values, &features[width..][features_here.clone()]];
                        add_pair(simd, weights, rows, [sums, &mut below[units_here.clone()]]);
                    }
                }
            }
        }
    }
}

/// Adds one row's products to the sums of one block.
#[inline(always)]
fn add_row<S: Simd>(simd: S, weights: &[f32], values: &[f32], sums: &mut [f32]) {
    match LANE / S::F32_LANES {
        2 => add::<S, 2, 1>(simd, weights, [values], [sums]),
        4 => add::<S, 4, 1>(simd, weights, [values], [sums]),
        8 => add::<S, 8, 1>(simd, weights, [values], [sums]),
        _ => add_one_by_one(weights, values, sums),
    }
}

/// The same for two rows, where the registers hold the sums of both.
#[inline(always)]
fn add_pair<S: Simd>(simd: S, weights: &[f32], values: [&[f32]; 2], sums: [&mut [f32]; 2]) {
    match LANE / S::F32_LANES {
        2 => add::<S, 2, 2>(simd, weights, values, sums),
        4 => add::<S, 4, 2>(simd, weights, values, sums),
        _ => values.into_iter().zip(sums).for_each(|(values, sums)| add_row(simd, weights, values, sums)),
    }
}

/// `N` registers a row, `ROWS` rows.
#[inline(always)]
fn add<S: Simd, const N: usize, const ROWS: usize>(
    simd: S,
    weights: &[f32],
    values: [&[f32]; ROWS],
    sums: [&mut [f32]; ROWS],
) {
    let mut held = [[simd.splat_f32s(0.0); N]; ROWS];
    for (held, sums) in held.iter_mut().zip(&sums) {
        held.iter_mut().zip(S::as_simd_f32s(sums).0).for_each(|(held, sum)| *held = *sum);
    }
    let (weights, _) = S::as_simd_f32s(weights);
    for (feature, weights) in weights.as_chunks::<N>().0.iter().enumerate() {
        for (held, values) in held.iter_mut().zip(&values) {
            let value = simd.splat_f32s(values[feature]);
            for (sum, weight) in held.iter_mut().zip(weights) {
                *sum = simd.add_f32s(*sum, simd.mul_f32s(value, *weight));
            }
        }
    }
    for (held, sums) in held.iter().zip(sums) {
        S::as_mut_simd_f32s(sums).0.iter_mut().zip(held).for_each(|(sum, held)| *sum = *held);
    }
}

/// For processors with other registers.
fn add_one_by_one(weights: &[f32], values: &[f32], sums: &mut [f32]) {
    for (value, weights) in values.iter().zip(weights.chunks_exact(LANE)) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += value * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * 0.37 + seed as f32).sin()).collect()
    }

    proptest! {
        /// Goal: the same bits on every processor, for a row among others as for the row alone. Method: against plain loops.
        #[test]
        fn sums_are_those_of_plain_loops(width in 1usize..300, rows in 1usize..6, blocks in 1usize..4, seed in 0u32..99) {
            let weights = numbers(blocks * width * LANE, seed);
            let features = numbers(rows * width, seed + 1);
            let start = numbers(rows * blocks * LANE, seed + 2);
            let (mut fast, mut plain) = (start.clone(), start);
            first_layer(&weights, width, &features, &mut fast);
            let rows = features.chunks_exact(width).zip(plain.chunks_exact_mut(blocks * LANE));
            for (features, hidden) in rows {
                for (weights, sums) in weights.chunks_exact(width * LANE).zip(hidden.chunks_exact_mut(LANE)) {
                    add_one_by_one(weights, features, sums);
                }
            }
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&fast), bits(&plain));
        }
    }
}
