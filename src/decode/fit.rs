//! 8-bit pixels of any size to one row of backbone input: resize, channel order, layout, scale. Pure.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::shape::{Shape, luma, sized};
use crate::frame::{Channels, InputSpec, Layout, RejectReason, Rejection, Resize};

/// Resizes and normalises for one backbone, with reused buffers.
#[derive(Debug)]
pub(super) struct Fitter {
    width: usize,
    height: usize,
    channels: Channels,
    layout: Layout,
    rule: Resize,
    /// Per channel in input order: the value fed for each of the 256 pixel values.
    table: Vec<[f32; 256]>,
    resizer: Resizer,
    gray: Vec<u8>,
    resized: Vec<u8>,
    canvas: Vec<u8>,
}

impl Fitter {
    pub(super) fn new(spec: &InputSpec) -> Self {
        let table = (0..spec.channels.count()).map(|channel| table_of(spec, channel)).collect();
        Self {
            width: spec.width,
            height: spec.height,
            channels: spec.channels,
            layout: spec.layout,
            rule: spec.resize,
            table,
            resizer: Resizer::new(),
            gray: Vec::new(),
            resized: Vec::new(),
            canvas: Vec::new(),
        }
    }

    /// `pixels` has `shape.len()` values; `out` is one row of input.
    pub(super) fn fit(&mut self, pixels: &[u8], shape: Shape, out: &mut [f32]) -> Result<(), Rejection> {
        // Fewer channels first: what is grey in the end need not be resized in colour.
        let (pixels, shape) = if shape.channels == 3 && self.channels == Channels::Gray {
            let shape = Shape { channels: 1, ..shape };
            let gray = sized(&mut self.gray, shape.len());
            gray.iter_mut().zip(pixels.chunks_exact(3)).for_each(|(to, px)| *to = luma(px[0], px[1], px[2]));
            (self.gray.as_slice(), shape)
        } else {
            (pixels, shape)
        };
        let target = Shape { width: self.width, height: self.height, channels: shape.channels };
        if shape == target {
            self.normalise_from(pixels, shape.channels, out);
            return Ok(());
        }
        let inner = match self.rule {
            Resize::Stretch | Resize::Crop => target,
            Resize::Letterbox => letterbox_inner(shape, target),
        };
        resize(&mut self.resizer, self.rule, (pixels, shape), (sized(&mut self.resized, inner.len()), inner))?;
        if inner == target {
            normalise(&self.table, self.channels, self.layout, &self.resized, shape.channels, out);
        } else {
            self.canvas.clear();
            blit_centred(&self.resized, inner, sized(&mut self.canvas, target.len()), target);
            normalise(&self.table, self.channels, self.layout, &self.canvas, shape.channels, out);
        }
        Ok(())
    }

    fn normalise_from(&self, pixels: &[u8], channels: usize, out: &mut [f32]) {
        normalise(&self.table, self.channels, self.layout, pixels, channels, out);
    }
}

fn table_of(spec: &InputSpec, channel: usize) -> [f32; 256] {
    let mean = spec.mean.get(channel).copied().unwrap_or(0.0);
    let std = spec.std.get(channel).copied().unwrap_or(1.0);
    std::array::from_fn(|pixel| (pixel as f32 * spec.scale - mean) / std)
}

/// The largest size of the source's aspect that fits into the target, rounded; at least one pixel.
fn letterbox_inner(source: Shape, target: Shape) -> Shape {
    let rounded = |length: usize, by: usize, over: usize| ((length * by + over / 2) / over).max(1);
    let (width, height) = if target.width * source.height <= target.height * source.width {
        (target.width, rounded(source.height, target.width, source.width).min(target.height))
    } else {
        (rounded(source.width, target.height, source.height).min(target.width), target.height)
    };
    Shape { width, height, channels: target.channels }
}

/// Bilinear with antialiasing, as Pillow's `BILINEAR`. [`Resize::Crop`] takes the middle of the target's aspect.
fn resize(
    resizer: &mut Resizer,
    rule: Resize,
    (pixels, from): (&[u8], Shape),
    (out, to): (&mut [u8], Shape),
) -> Result<(), Rejection> {
    if from.channels == 1 {
        resize_as::<U8>(resizer, rule, (pixels, from), (out, to))
    } else {
        resize_as::<U8x3>(resizer, rule, (pixels, from), (out, to))
    }
}

/// For one kind of pixel: the library's untyped call would compile its kernels for all twenty, minutes of build.
fn resize_as<P: PixelTrait>(
    resizer: &mut Resizer,
    rule: Resize,
    (pixels, from): (&[u8], Shape),
    (out, to): (&mut [u8], Shape),
) -> Result<(), Rejection> {
    let fault = |error: &dyn std::fmt::Display| {
        let Shape { width, height, .. } = from;
        Rejection::new(RejectReason::Corrupt, format!("{width} x {height} pixels cannot be resized: {error}"))
    };
    let side = |length: usize| u32::try_from(length).map_err(|error| fault(&error));
    let source = TypedImageRef::<P>::from_buffer(side(from.width)?, side(from.height)?, pixels);
    let source = source.map_err(|error| fault(&error))?;
    let target = TypedImage::<P>::from_buffer(side(to.width)?, side(to.height)?, out);
    let mut target = target.map_err(|error| fault(&error))?;
    let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
    let mut options = ResizeOptions::new().resize_alg(bilinear).use_alpha(false);
    if rule == Resize::Crop {
        options = options.fit_into_destination(Some((0.5, 0.5)));
    }
    resizer.resize_typed::<P>(&source, &mut target, &options).map_err(|error| fault(&error))
}

fn blit_centred(pixels: &[u8], inner: Shape, canvas: &mut [u8], outer: Shape) {
    let row = inner.width * inner.channels;
    let left = (outer.width - inner.width) / 2 * outer.channels;
    let top = (outer.height - inner.height) / 2;
    let rows = canvas.chunks_exact_mut(outer.width * outer.channels).skip(top);
    for (to, from) in rows.zip(pixels.chunks_exact(row)) {
        to[left..left + row].copy_from_slice(from);
    }
}

/// Looks every pixel up and writes it where layout and channel order want it. `channels` of the pixels: 1 or 3.
fn normalise(table: &[[f32; 256]], order: Channels, layout: Layout, pixels: &[u8], channels: usize, out: &mut [f32]) {
    let count = order.count();
    let source_of = |channel: usize| match (channels, order) {
        (1, _) => 0,
        (_, Channels::Bgr) => 2 - channel,
        _ => channel,
    };
    for (channel, values) in table.iter().enumerate() {
        let source = pixels.iter().skip(source_of(channel)).step_by(channels);
        match layout {
            Layout::Nchw => {
                let area = out.len() / count;
                let plane = &mut out[channel * area..(channel + 1) * area];
                plane.iter_mut().zip(source).for_each(|(to, &pixel)| *to = values[usize::from(pixel)]);
            }
            Layout::Nhwc => {
                let slots = out.iter_mut().skip(channel).step_by(count);
                slots.zip(source).for_each(|(to, &pixel)| *to = values[usize::from(pixel)]);
            }
        }
    }
}
