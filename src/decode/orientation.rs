//! How a camera was held, from the picture's EXIF block, and the picture turned upright. Pure.

pub(super) use image::metadata::Orientation as Turn;

use super::shape::{Shape, sized};

/// By what a picture with this EXIF block must be turned to be upright: the block's tag `Orientation`. `None`: by nothing.
pub(super) fn turn_of(exif: Option<&[u8]>) -> Option<Turn> {
    // In WebP some writers leave the prefix that JPEG needs.
    let block = exif.map(|block| block.strip_prefix(b"Exif\0\0").unwrap_or(block))?;
    Turn::from_exif_chunk(block).filter(|turn| *turn != Turn::NoTransforms)
}

/// Whether width and height change places.
pub(super) fn is_lying(turn: Turn) -> bool {
    matches!(turn, Turn::Rotate90 | Turn::Rotate270 | Turn::Rotate90FlipH | Turn::Rotate270FlipH)
}

/// Writes the picture turned upright into `out`. `pixels` has `shape.len()` values.
pub(super) fn turned<'a>(pixels: &[u8], shape: Shape, turn: Turn, out: &'a mut Vec<u8>) -> (&'a [u8], Shape) {
    let Shape { width, height, channels } = shape;
    let upright = if is_lying(turn) { Shape { width: height, height: width, channels } } else { shape };
    let out = sized(out, upright.len());
    if channels == 1 {
        fill::<1>(pixels, shape, turn, out, upright);
    } else {
        fill::<3>(pixels, shape, turn, out, upright);
    }
    (out, upright)
}

/// For a number of channels that the compiler knows: a pixel is then one move.
fn fill<const CHANNELS: usize>(pixels: &[u8], from: Shape, turn: Turn, out: &mut [u8], to: Shape) {
    let (pixels, _) = pixels.as_chunks::<CHANNELS>();
    let (out, _) = out.as_chunks_mut::<CHANNELS>();
    for (y, row) in out.chunks_exact_mut(to.width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let (sx, sy) = source(turn, from.width, from.height, (x, y));
            *pixel = pixels[sy * from.width + sx];
        }
    }
}

/// Where in a picture of `width` x `height` the pixel comes from that is at `(x, y)` once it is turned.
pub(super) fn source(turn: Turn, width: usize, height: usize, (x, y): (usize, usize)) -> (usize, usize) {
    match turn {
        Turn::NoTransforms => (x, y),
        Turn::FlipHorizontal => (width - 1 - x, y),
        Turn::FlipVertical => (x, height - 1 - y),
        Turn::Rotate180 => (width - 1 - x, height - 1 - y),
        Turn::Rotate90 => (y, height - 1 - x),
        Turn::Rotate270 => (width - 1 - y, x),
        // Across the diagonals.
        Turn::Rotate90FlipH => (y, x),
        Turn::Rotate270FlipH => (width - 1 - y, height - 1 - x),
    }
}
