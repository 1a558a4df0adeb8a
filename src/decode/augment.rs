//! Copies of a decoded frame on which the backbone is audited again: mirrored, or shifted by a few pixels. Pure.
//!
//! The backbone's own answer on the copy is the copy's target, so a copy need not keep the class.

use crate::frame::{InputSpec, Layout};

/// Writes the frame mirrored left to right. `frame` and `out` are [`InputSpec::len`] values in the spec's layout.
///
/// # Panics
/// If one of them has another length.
pub fn mirror(spec: &InputSpec, frame: &[f32], out: &mut [f32]) {
    remap(spec, frame, out, |x, y| (spec.width - 1 - x, y));
}

/// Writes the frame moved by `dx` pixels to the right and `dy` down (negative: left, up); uncovered edges repeat the
/// nearest pixel. `frame` and `out` are [`InputSpec::len`] values in the spec's layout.
///
/// # Panics
/// If one of them has another length.
pub fn shift(spec: &InputSpec, frame: &[f32], dx: i32, dy: i32, out: &mut [f32]) {
    remap(spec, frame, out, |x, y| (moved(x, dx, spec.width), moved(y, dy, spec.height)));
}

/// Writes copy `number`, from 0, of every frame in `frames` (rows of [`InputSpec::len`] values) into `out`: the first copy is
/// the mirror image, if the spec allows it, the others are moved by up to a tenth of the sides. `draw(row)` decides by how
/// much: uniform bits that belong to the frame and the copy.
///
/// # Panics
/// If `out` has not room for all rows.
pub fn copies(spec: &InputSpec, frames: &[f32], number: u8, draw: impl Fn(usize) -> u64, out: &mut [f32]) {
    let width = spec.len().max(1);
    assert!(out.len() >= frames.len(), "a copy needs as much room as its frame");
    for (row, (frame, copy)) in frames.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        if number == 0 && spec.mirror {
            mirror(spec, frame, copy);
        } else {
            let (dx, dy) = distance(spec, draw(row));
            shift(spec, frame, dx, dy, copy);
        }
    }
}

/// Pixels to the right and down, up to a tenth of the side (at least one), never none at all.
fn distance(spec: &InputSpec, draw: u64) -> (i32, i32) {
    let within = |side: usize, bits: u64| {
        let most = i64::try_from((side + 5) / 10).unwrap_or(1).max(1);
        i32::try_from((bits & 0xffff_ffff) as i64 % (2 * most + 1) - most).unwrap_or(0)
    };
    match (within(spec.width, draw), within(spec.height, draw >> 32)) {
        (0, 0) => (1, 0),
        moved => moved,
    }
}

/// The source coordinate of `at` after a move by `by`, kept inside `0..length`.
fn moved(at: usize, by: i32, length: usize) -> usize {
    let distance = by.unsigned_abs() as usize;
    let from = if by >= 0 { at.saturating_sub(distance) } else { at.saturating_add(distance) };
    from.min(length.saturating_sub(1))
}

/// Fills every pixel of `out` from the pixel of `frame` that `source` names.
fn remap(spec: &InputSpec, frame: &[f32], out: &mut [f32], source: impl Fn(usize, usize) -> (usize, usize)) {
    assert_eq!(frame.len(), spec.len(), "the frame must be one row of the backbone's input");
    assert_eq!(out.len(), spec.len(), "the copy must be one row of the backbone's input");
    if spec.is_empty() {
        return;
    }
    // Planes of pixels with `group` values each: NCHW has a plane per channel, NHWC one plane with all channels together.
    let group = match spec.layout {
        Layout::Nchw => 1,
        Layout::Nhwc => spec.channels.count(),
    };
    let row = spec.width * group;
    for (from, to) in frame.chunks_exact(row * spec.height).zip(out.chunks_exact_mut(row * spec.height)) {
        for (y, line) in to.chunks_exact_mut(row).enumerate() {
            for (x, pixel) in line.chunks_exact_mut(group).enumerate() {
                let (sx, sy) = source(x, y);
                let start = sy * row + sx * group;
                pixel.copy_from_slice(&from[start..start + group]);
            }
        }
    }
}
