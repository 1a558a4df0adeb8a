//! Pooled features as graph nodes: what a head sees of a cut tensor.
//!
//! Pictures are averaged over a g x g grid, tokens over all tokens with the first one beside. Pure.

use std::ops::Range;

use super::onnx::{FLOAT, NodeProto, TensorProto};
use super::port::Port;

/// Values per frame that any head may be given.
const WIDTH: usize = 1024;
/// And if that is a grid coarser than [`GRID_COARSE`]: what a late exit of many channels gains by a finer one is worth a
/// wider head. An early exit's head is paid for by every frame, and more than this is worth less than it costs.
const WIDTH_MAX: usize = 2048;
/// The finest grid of such a head.
const GRID_COARSE: usize = 4;
/// Its first layer stays below this share of the model's FLOPs.
const WIDE_FLOPS: f64 = 0.004;
/// Finest grid: an early exit of few channels sees where on the picture something is, which is worth more to a head than
/// anything else that was tried (docs/measurements.md has the figures).
const GRID_MAX: usize = 8;
/// From this operator set on, `ReduceMean` takes its axes as an input.
const REDUCE_AXES_INPUT: i64 = 18;

/// Nodes that pool one tensor, and the name and width of what they make: `width` values a row, f32.
#[derive(Debug, Clone)]
pub(crate) struct Pooling {
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) weights: Vec<TensorProto>,
    pub(crate) output: String,
    pub(crate) width: usize,
    /// What they average over, where a picture is.
    pub(crate) grid: Option<Grid>,
}

/// The windows that a picture is averaged over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Rows of pixels of each row of windows.
    pub(crate) rows: Vec<Range<usize>>,
    /// Columns of pixels of each column of windows.
    pub(crate) columns: Vec<Range<usize>>,
}

impl Grid {
    /// Features of a frame: `channels x rows x columns`.
    pub(crate) fn features(&self) -> usize {
        self.channels * self.windows()
    }

    /// Every window: its rows and its columns of pixels.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&Range<usize>, &Range<usize>)> {
        self.rows.iter().flat_map(|rows| self.columns.iter().map(move |columns| (rows, columns)))
    }

    pub(crate) fn windows(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// Most values per frame that heads of `hidden` units are given in a model of so many FLOPs.
pub(crate) fn width_max(flops: u64, hidden: u64) -> usize {
    let bearable = WIDE_FLOPS * flops as f64 / (2 * hidden) as f64;
    (bearable as usize).clamp(WIDTH, WIDTH_MAX)
}

/// Makes the pooling of a tensor to at most `width_max` values. `None`: no features can be had of such a tensor.
pub(crate) fn pooling(tensor: &Port, opset: i64, exit: usize, width_max: usize) -> Option<Pooling> {
    let prefix = format!("offramp_exit{exit}");
    let mut build = Build { prefix, width_max, nodes: Vec::new(), weights: Vec::new(), grid: None, count: 0 };
    let mut from = tensor.tensor.clone();
    if tensor.element != FLOAT {
        from = build.node("Cast", &[&from], |node| node.with_int("to", i64::from(FLOAT)));
    }
    let (from, width) = match *tensor.dims {
        [width] if width <= width_max => (from, width),
        [tokens, width] if tokens > 0 && width > 0 => build.tokens(&from, width, opset),
        [a, b, c] if a > 0 && b > 0 && c > 0 => {
            // Square pictures tell their layout; what is not square is taken for the usual planes.
            if a == b && b != c {
                let from = build.node("Transpose", &[&from], |node| node.with_ints("perm", &[0, 3, 1, 2]));
                build.grid(&from, c, a, b)
            } else {
                build.grid(&from, a, b, c)
            }
        }
        _ => return None,
    };
    let output = format!("{}_features", build.prefix);
    match build.nodes.last_mut().and_then(|node| node.output.first_mut()) {
        // Rows are contiguous: planes of a grid are features as they lie, flattening them would only copy.
        Some(last) => last.clone_from(&output),
        None => build.nodes.push(NodeProto::new("Flatten", &output, &[&from], &[&output]).with_int("axis", 1)),
    }
    Some(Pooling { nodes: build.nodes, weights: build.weights, output, width, grid: build.grid })
}

struct Build {
    prefix: String,
    width_max: usize,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    grid: Option<Grid>,
    count: usize,
}

impl Build {
    fn node(&mut self, op: &str, inputs: &[&str], finish: impl FnOnce(NodeProto) -> NodeProto) -> String {
        self.count += 1;
        let output = format!("{}_{}", self.prefix, self.count);
        self.nodes.push(finish(NodeProto::new(op, &output, inputs, &[&output])));
        output
    }

    fn weight(&mut self, suffix: &str, values: &[i64]) -> String {
        let name = format!("{}_{suffix}", self.prefix);
        self.weights.push(TensorProto::int64s(&name, values));
        name
    }

    fn tokens(&mut self, from: &str, width: usize, opset: i64) -> (String, usize) {
        let mean = if opset >= REDUCE_AXES_INPUT {
            let axes = self.weight("axes", &[1]);
            self.node("ReduceMean", &[from, &axes], |node| node.with_int("keepdims", 0))
        } else {
            self.node("ReduceMean", &[from], |node| node.with_ints("axes", &[1]).with_int("keepdims", 0))
        };
        if 2 * width > self.width_max {
            return (mean, width);
        }
        let index = self.weight("first", &[0]);
        let first = self.node("Gather", &[from, &index], |node| node.with_int("axis", 1));
        let first = self.node("Flatten", &[&first], |node| node.with_int("axis", 1));
        (self.node("Concat", &[&mean, &first], |node| node.with_int("axis", 1)), 2 * width)
    }

    fn grid(&mut self, from: &str, channels: usize, height: usize, width: usize) -> (String, usize) {
        let grid = finest_grid(channels, height, width, self.width_max);
        let (rows, columns) = (Windows::over(height, grid), Windows::over(width, grid));
        let (above, beside) = (rows.pixels(height, grid), columns.pixels(width, grid));
        let averaged = Grid { channels, height, width, rows: above, columns: beside };
        let features = averaged.features();
        self.grid = Some(averaged);
        if grid == 1 {
            return (self.node("GlobalAveragePool", &[from], |node| node), features);
        }
        if grid == height && grid == width {
            return (from.to_owned(), features);
        }
        let pool = self.node("AveragePool", &[from], |node| {
            node.with_ints("kernel_shape", &[rows.size, columns.size])
                .with_ints("strides", &[rows.stride, columns.stride])
                .with_ints("pads", &[rows.before, columns.before, rows.after, columns.after])
                .with_int("count_include_pad", 0)
        });
        (pool, features)
    }
}

/// The finest grid whose features stay within [`WIDTH`], or if that is a coarse one, within `width_max`; and whose windows
/// are needed: eight windows of four pixels over a side of 28 would hold an empty one, seven cover it.
fn finest_grid(channels: usize, height: usize, width: usize, width_max: usize) -> usize {
    let needed = |side: usize, grid: usize| side.div_ceil(side.div_ceil(grid)) == grid;
    let finest = |most: usize, values: usize| {
        let fits = |grid: &usize| {
            let small = channels.saturating_mul(grid * grid) <= values && *grid <= height && *grid <= width;
            small && needed(height, *grid) && needed(width, *grid)
        };
        (1..=most).rev().find(fits).unwrap_or(1)
    };
    finest(GRID_MAX, WIDTH).max(finest(GRID_COARSE, width_max))
}

/// `grid` windows of equal size that cover a side; padding is never averaged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Windows {
    size: i64,
    stride: i64,
    before: i64,
    after: i64,
}

impl Windows {
    fn over(length: usize, grid: usize) -> Self {
        let size = length.div_ceil(grid);
        let padding = size * grid - length;
        if padding.div_ceil(2) < size {
            return Self::of(size, size, padding / 2, padding.div_ceil(2));
        }
        // Padding would leave a window empty: let the windows overlap instead.
        let stride = length / grid;
        Self::of(length - (grid - 1) * stride, stride, 0, 0)
    }

    /// The pixels in each of `grid` windows; padding is none.
    fn pixels(&self, length: usize, grid: usize) -> Vec<Range<usize>> {
        let [size, stride, before] = [self.size, self.stride, self.before].map(|int| usize::try_from(int).unwrap_or(0));
        let pixel = |at: usize| at.saturating_sub(before).min(length);
        (0..grid).map(|window| pixel(window * stride)..pixel(window * stride + size)).collect()
    }

    fn of(size: usize, stride: usize, before: usize, after: usize) -> Self {
        let int = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        Self { size: int(size), stride: int(stride), before: int(before), after: int(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grids_are_as_fine_as_the_width_allows() {
        let grids =
            [(16, 28), (32, 14), (64, 7), (128, 4), (32, 32), (64, 16), (64, 56), (256, 14), (2048, 7), (4, 224)]
                .map(|(channels, side)| [WIDTH, WIDTH_MAX].map(|most| finest_grid(channels, side, side, most)));
        assert_eq!(grids.map(|[narrow, _]| narrow), [7, 5, 4, 2, 5, 4, 4, 2, 1, 8]);
        assert_eq!(grids.map(|[_, wide]| wide), [7, 5, 4, 4, 5, 4, 4, 2, 1, 8]);
        assert_eq!([57_000_000, 400_000_000_000].map(|flops| width_max(flops, 128)), [WIDTH, WIDTH_MAX]);
    }

    proptest! {
        /// Goal: the feature width is exactly channels x grid x grid and no pixel is left out, whatever the side.
        /// Method: lay the windows over the side by hand.
        #[test]
        fn windows_cover_the_side(side in 1usize..300, grid in 2usize..=GRID_MAX) {
            prop_assume!(side >= grid);
            let w = Windows::over(side, grid);
            let length = i64::try_from(side).unwrap_or(0);
            let made = (length + w.before + w.after - w.size) / w.stride + 1;
            prop_assert_eq!(made, i64::try_from(grid).unwrap_or(0));
            let windows: Vec<(i64, i64)> =
                (0..made).map(|k| (k * w.stride - w.before, k * w.stride - w.before + w.size)).collect();
            for pixel in 0..length {
                prop_assert!(windows.iter().any(|(from, to)| (*from..*to).contains(&pixel)), "pixel {}", pixel);
            }
            for (from, to) in &windows {
                prop_assert!(*from.max(&0) < *to.min(&length), "empty window");
            }
            let inside = |(from, to): &(i64, i64)| (*from.max(&0)) as usize..(*to.min(&length)) as usize;
            prop_assert_eq!(w.pixels(side, grid), windows.iter().map(inside).collect::<Vec<_>>());
            prop_assert!(w.before < w.size && w.after < w.size, "the runtime refuses wider pads");
        }
    }
}
