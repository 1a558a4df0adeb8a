//! Pooled features straight from a tensor as ONNX Runtime's convolutions leave it: channels in blocks of a register's width.
//!
//! Pooling and un-blocking by nodes of the graph are two kernels an exit and an output more, and starting a kernel costs more than
//! such a small one takes. Which layout a tensor has is not asked of the runtime, it is found by trial. Pure.

#![allow(clippy::inline_always, reason = "what is not inlined is not compiled for the registers that were picked")]

use std::array;

use pulp::{Arch, Simd, WithSimd};

use crate::backbone::graph::pooling::Grid;

/// A grid over `[ceil(channels / block), height, width, block]`, what is beyond the channels being padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    grid: Grid,
    block: Block,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Eight,
    Sixteen,
}

impl Block {
    fn channels(self) -> usize {
        match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }
}

impl Blocked {
    /// Finds the layout of `tensor`, some rows, by what the graph's own nodes made of it. `None` where no layout gives these
    /// features to the bit, or the values do not tell which.
    pub(crate) fn found(grid: &Grid, tensor: &[f32], features: &[f32]) -> Option<Self> {
        let fits = |layout: &Self| {
            let mut made = Vec::new();
            tensor.chunks_exact(layout.row()).for_each(|row| layout.pool(row, &mut made));
            let whole = tensor.len().is_multiple_of(layout.row()) && !tensor.is_empty();
            whole && made.iter().map(|value| value.to_bits()).eq(features.iter().map(|value| value.to_bits()))
        };
        let layouts = [Block::Eight, Block::Sixteen].map(|block| Self { grid: grid.clone(), block });
        let found: Vec<Self> = layouts.into_iter().filter(fits).collect();
        // One pixel lies the same in both.
        let told = found.len() == 1 || grid.pixels() == 1;
        found.into_iter().next().filter(|_| told)
    }

    /// Elements of a frame's tensor.
    pub(crate) fn row(&self) -> usize {
        self.grid.channels.next_multiple_of(self.block.channels()) * self.grid.pixels()
    }

    /// Appends the features of a frame's tensor: means by channel, row and column of the grid.
    pub(crate) fn pool(&self, tensor: &[f32], features: &mut Vec<f32>) {
        let at = features.len();
        features.resize(at + self.grid.features(), 0.0);
        let features = features.get_mut(at..).unwrap_or_default();
        Arch::new().dispatch(Average { grid: &self.grid, block: self.block.channels(), tensor, features });
    }
}

/// Averages one frame with the widest registers of this processor.
struct Average<'a> {
    grid: &'a Grid,
    block: usize,
    tensor: &'a [f32],
    features: &'a mut [f32],
}

impl WithSimd for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let strands = self.tensor.len() / (self.grid.pixels() * S::F32_LANES);
        let mut first = 0;
        while first + 4 <= strands {
            self.strands::<S, 4>(simd, first);
            first += 4;
        }
        while first + 2 <= strands {
            self.strands::<S, 2>(simd, first);
            first += 2;
        }
        if first < strands {
            self.strands::<S, 1>(simd, first);
        }
    }
}

impl Average<'_> {
    /// Averages `TOGETHER` strands from the one numbered `first` on: a strand is what of a block fits a register, over all pixels. A sum
    /// waits for the one before, several need not wait for each other. Each goes in the order of ONNX Runtime's kernels, row by row
    /// of a window: floats give the same sum in the same order only.
    #[inline(always)]
    fn strands<S: Simd, const TOGETHER: usize>(&mut self, simd: S, first: usize) {
        let (grid, windows, step) = (self.grid, self.grid.windows(), self.block / S::F32_LANES);
        let (registers, _) = S::as_simd_f32s(self.tensor);
        let length = (grid.pixels() - 1) * step + 1;
        let strands: [&[S::f32s]; TOGETHER] = array::from_fn(|at| {
            let (block, register) = ((first + at) / step, (first + at) % step);
            &registers[block * grid.pixels() * step + register..][..length]
        });
        let features = self.features.get_mut(first * S::F32_LANES * windows..).unwrap_or_default();
        for (window, (rows, columns)) in grid.each().enumerate() {
            let mut sums = [simd.splat_f32s(0.0); TOGETHER];
            for row in rows.clone() {
                let (mut at, end) =
                    ((row * grid.width + columns.start) * step, (row * grid.width + columns.end) * step);
                while at < end {
                    for (sum, strand) in sums.iter_mut().zip(&strands) {
                        *sum = simd.add_f32s(*sum, strand[at]);
                    }
                    at += step;
                }
            }
            let count = simd.splat_f32s((rows.len() * columns.len()) as f32);
            let means = sums.map(|sum| simd.div_f32s(sum, count));
            let means: &[f32] = pulp::bytemuck::cast_slice(&means);
            // Padding has means, but no features.
            let mut at = window;
            for mean in means {
                if let Some(feature) = features.get_mut(at) {
                    *feature = *mean;
                }
                at += windows;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A grid whose windows may overlap and differ, over a picture with channels of its own.
    fn grids() -> impl Strategy<Value = Grid> {
        let side = || {
            (1usize..12).prop_flat_map(|side| {
                let window = (0..side).prop_flat_map(move |from| (Just(from), from + 1..=side)).prop_map(|(a, b)| a..b);
                (Just(side), prop::collection::vec(window, 1..4))
            })
        };
        (1usize..40, side(), side()).prop_map(|(channels, (height, rows), (width, columns))| Grid {
            channels,
            height,
            width,
            rows,
            columns,
        })
    }

    /// What pooling means, by planes: pixel `(channel, y, x)` is `value(channel, y, x)`.
    fn by_planes(grid: &Grid, value: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
        let mut features = Vec::new();
        for channel in 0..grid.channels {
            for rows in &grid.rows {
                for columns in &grid.columns {
                    let pixels = rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x)));
                    let sum = pixels.fold(0.0, |sum, (y, x)| sum + value(channel, y, x));
                    features.push(sum / (rows.len() * columns.len()) as f32);
                }
            }
        }
        features
    }

    fn value(channel: usize, y: usize, x: usize) -> f32 {
        ((channel * 31 + y * 7 + x * 3) as f32).sin()
    }

    fn lay_out(grid: &Grid, block: usize) -> Vec<f32> {
        let mut tensor = Vec::new();
        for first in (0..grid.channels).step_by(block) {
            for (y, x) in (0..grid.height).flat_map(|y| (0..grid.width).map(move |x| (y, x))) {
                let channels = (first..first + block).map(|channel| (channel, channel < grid.channels));
                tensor.extend(channels.map(|(channel, is)| if is { value(channel, y, x) } else { 0.0 }));
            }
        }
        tensor
    }

    proptest! {
        /// Goal: the layout is found by its values, and then gives every frame's features, padding left out.
        #[test]
        fn a_layout_is_found_by_its_values(grid in grids(), sixteen in any::<bool>(), frames in 1usize..3) {
            prop_assume!(grid.pixels() > 1 && grid.channels > 8);
            let (block, size) = if sixteen { (Block::Sixteen, 16) } else { (Block::Eight, 8) };
            let tensor = lay_out(&grid, size).repeat(frames);
            let features = by_planes(&grid, value).repeat(frames);
            let found = Blocked::found(&grid, &tensor, &features);
            prop_assert_eq!(found, Some(Blocked { grid, block }));
        }

        /// Goal: another tensor's features are of no layout.
        #[test]
        fn nothing_is_found_where_nothing_fits(grid in grids(), sixteen in any::<bool>()) {
            let tensor = lay_out(&grid, if sixteen { 16 } else { 8 });
            let others = by_planes(&grid, |channel, y, x| value(channel, y, x) + 0.5);
            prop_assert_eq!(Blocked::found(&grid, &tensor, &others), None);
            prop_assert_eq!(Blocked::found(&grid, &tensor, others.get(1..).unwrap_or_default()), None);
            prop_assert_eq!(Blocked::found(&grid, &[], &[]), None);
        }
    }

    #[test]
    fn values_that_fit_both_layouts_tell_neither() {
        let mut grid = Grid { channels: 32, height: 3, width: 3, rows: vec![0..2, 2..3], columns: vec![0..3, 1..2] };
        assert_eq!(Blocked::found(&grid, &[0.0; 32 * 9], &[0.0; 32 * 4]), None);
        (grid.height, grid.width, grid.rows, grid.columns) = (1, 1, vec![0..1, 0..1], vec![0..1, 0..1]);
        assert!(Blocked::found(&grid, &[0.0; 32], &[0.0; 32 * 4]).is_some(), "one pixel lies the same in both");
    }
}
