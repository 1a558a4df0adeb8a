//! What a frame shows, in 14 x 14 values: enough to tell whether a camera's view has changed. Pure.
//!
//! Each value is the mean luma of its part of what the model sees of the picture, so noise is averaged away and the borders
//! of the parts lie between pixels.

use super::orientation::{Turn, is_lying, source};
use super::shape::luma;
use crate::frame::{Channels, InputSpec, Resize};

/// Values in a row and in a column.
const SIDE: usize = 14;

/// Mean luma of 14 x 14 equal parts of what the model sees of a frame, upright, row by row from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thumbnail(pub [u8; SIDE * SIDE]);

/// Luma of a picture, a value for each square of `unit` x `unit` pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Luma<'a> {
    /// Row by row, `stride` values in a row.
    pub(super) values: &'a [u8],
    pub(super) stride: usize,
    /// Size of the picture in pixels.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) unit: usize,
}

impl Luma<'_> {
    /// Whether no part is smaller than a value.
    pub(super) fn is_fine(&self, spec: &InputSpec, turn: Turn) -> bool {
        let (across, down) = seen(spec, self.width, self.height, turn);
        let least = (SIDE * self.unit) as f32;
        across.1 - across.0 >= least && down.1 - down.0 >= least
    }

    /// Averages the parts. `turn` is what makes the picture upright.
    pub(super) fn thumbnail(&self, spec: &InputSpec, turn: Turn) -> Thumbnail {
        let (across, down) = seen(spec, self.width, self.height, turn);
        let (columns, rows) = (cuts(across, self.unit), cuts(down, self.unit));
        let mut parts = [0.0_f32; SIDE * SIDE];
        for (part, from, to) in pieces(&rows) {
            for (row, weight) in covered(from, to) {
                let line = self.values.chunks_exact(self.stride).nth(row).unwrap_or_default();
                let line_parts = parts.iter_mut().skip(part * SIDE);
                for (slot, (_, left, right)) in line_parts.zip(pieces(&columns)) {
                    *slot += weight * sum(line, left, right);
                }
            }
        }
        let area = |at: usize| {
            let side = |cuts: &[f32; SIDE + 1], at: usize| cuts[at + 1] - cuts[at];
            side(&columns, at % SIDE) * side(&rows, at / SIDE)
        };
        Thumbnail(std::array::from_fn(|at| {
            let (x, y) = source(turn, SIDE, SIDE, (at % SIDE, at / SIDE));
            let from = y * SIDE + x;
            (parts[from] / area(from)).round().clamp(0.0, 255.0) as u8
        }))
    }
}

/// What the model sees of the picture as it is stored: from and to, across and down, in pixels. Bars of a letterbox are no
/// part of the picture.
fn seen(spec: &InputSpec, width: usize, height: usize, turn: Turn) -> ((f32, f32), (f32, f32)) {
    let (wide, high) = if is_lying(turn) { (spec.height, spec.width) } else { (spec.width, spec.height) };
    let (width, height) = (width as f32, height as f32);
    if spec.resize != Resize::Crop {
        return ((0.0, width), (0.0, height));
    }
    let scale = (width / wide.max(1) as f32).min(height / high.max(1) as f32);
    let middle = |side: f32, kept: f32| ((side - kept) / 2.0, f32::midpoint(side, kept));
    (middle(width, wide as f32 * scale), middle(height, high as f32 * scale))
}

/// The borders of the parts, in values.
fn cuts((from, to): (f32, f32), unit: usize) -> [f32; SIDE + 1] {
    std::array::from_fn(|at| (from + (to - from) * at as f32 / SIDE as f32) / unit as f32)
}

/// Each part with its borders.
fn pieces(cuts: &[f32; SIDE + 1]) -> impl Iterator<Item = (usize, f32, f32)> + '_ {
    cuts.iter().zip(cuts.iter().skip(1)).enumerate().map(|(part, (&from, &to))| (part, from, to))
}

/// The rows between two borders, and how much of each.
fn covered(from: f32, to: f32) -> impl Iterator<Item = (usize, f32)> {
    let (first, behind) = (from as usize, to.ceil() as usize);
    (first..behind).map(move |row| (row, (to.min((row + 1) as f32) - from.max(row as f32)).max(0.0)))
}

/// Sum of a line's values between two borders.
fn sum(line: &[u8], from: f32, to: f32) -> f32 {
    let (first, last) = (from as usize, to as usize);
    let at = |place: usize| line.get(place).copied().map_or(0.0, f32::from);
    if first == last {
        return (to - from) * at(first);
    }
    let whole: u32 = line.get(first + 1..last).unwrap_or_default().iter().map(|&value| u32::from(value)).sum();
    let rest = to - last as f32;
    whole as f32 + ((first + 1) as f32 - from) * at(first) + if rest > 0.0 { rest * at(last) } else { 0.0 }
}

/// Luma of interleaved 8-bit pixels: grey already, or red, green, blue.
pub(super) fn luma_of(pixels: &[u8], channels: usize, out: &mut Vec<u8>) {
    out.clear();
    match channels {
        1 => out.extend_from_slice(pixels),
        _ => out.extend(pixels.chunks_exact(3).map(|px| luma(px[0], px[1], px[2]))),
    }
}

/// Luma of a tensor that is already scaled and normalised for the backbone (little-endian `f32`, `[height, width, channels]`).
pub(super) fn luma_of_prepared(payload: &[u8], spec: &InputSpec, out: &mut Vec<u8>) {
    let channels = spec.channels.count();
    let values = payload.chunks_exact(4).map(|bytes| bytes.try_into().map_or(0.0, f32::from_le_bytes));
    let mut pixels: Vec<u8> = values
        .enumerate()
        .map(|(at, value)| {
            let of = |list: &[f32], or: f32| list.get(at % channels).copied().unwrap_or(or);
            let pixel = (value * of(&spec.std, 1.0) + of(&spec.mean, 0.0)) / spec.scale;
            pixel.round().clamp(0.0, 255.0) as u8
        })
        .collect();
    if spec.channels == Channels::Bgr {
        pixels.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    }
    luma_of(&pixels, channels, out);
}
