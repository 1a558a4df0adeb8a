//! Encoded pictures to 8-bit pixels in reused memory. The only user of the decoders of PNG and WebP.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::orientation::{Turn, turn_of, turned};
use super::refusal::{check_size, corrupt, too_large, truncated};
use super::shape::{Samples, Shape, luma, sized};
use super::thumbnail::Luma;
use super::{jpeg, png, webp};
use crate::frame::{InputSpec, Orientation, RejectReason, Rejection};

/// The formats that are recognised by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    pub(super) fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&jpeg::START) {
            Some(Self::Jpeg)
        } else if bytes.starts_with(&png::START) {
            Some(Self::Png)
        } else if webp::is_start(bytes) {
            Some(Self::WebP)
        } else {
            None
        }
    }
}

/// Buffers that live from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    jpeg: jpeg::Scratch,
    /// What the decoder wrote.
    decoded: Vec<u8>,
    /// The same with 8 bits and 1 or 3 channels, where it had alpha or 16 bits.
    pixels: Vec<u8>,
    /// The same upright.
    upright: Vec<u8>,
}

impl Scratch {
    /// Decodes a picture; the result has one channel if it is grey or `want_gray` asks for it, else three. It is turned
    /// upright if `orientation` asks for that.
    pub(super) fn decode(
        &mut self,
        format: Format,
        payload: &[u8],
        want_gray: bool,
        (max_pixels, orientation): (u64, Orientation),
    ) -> Result<(&[u8], Shape), Rejection> {
        let (size, samples, exif) = match format {
            Format::Jpeg => {
                let (size, samples) = jpeg::decode(payload, want_gray, max_pixels, &mut self.jpeg, &mut self.decoded)?;
                (size, samples, jpeg::exif(payload))
            }
            Format::Png => {
                // The header's word comes first: a picture that is too large is that, whether it is whole or not.
                if let Some((width, height)) = png::size(payload) {
                    check_size(width, height, max_pixels)?;
                }
                let outline = png::outline(payload);
                let (size, samples) = match outline.cut {
                    None => self.read_png(payload, max_pixels)?,
                    Some(cut) if cut <= png::START.len() => {
                        return Err(truncated("the PNG ends within its first chunk"));
                    }
                    Some(cut) => self.read_cut_png(payload.get(..cut).unwrap_or(payload), max_pixels)?,
                };
                (size, samples, outline.exif)
            }
            Format::WebP => {
                let outline = webp::outline(payload, max_pixels)?;
                let decoder = WebPDecoder::new(Cursor::new(payload));
                let read =
                    decoder.map_err(|error| image_fault(&error)).and_then(|decoder| self.read(decoder, max_pixels));
                let (size, samples) = read.map_err(|fault| if outline.is_cut { cut(fault) } else { fault })?;
                (size, samples, outline.exif)
            }
        };
        let turn = turn_of(exif).filter(|_| orientation == Orientation::Exif);
        let Self { decoded, pixels, upright, .. } = self;
        let (values, shape) = reduce(decoded, pixels, size, samples, want_gray);
        Ok(turn.map_or((values, shape), |turn| turned(values, shape, turn, upright)))
    }

    fn read_png(&mut self, payload: &[u8], max_pixels: u64) -> Result<((usize, usize), Samples), Rejection> {
        let decoder = PngDecoder::with_limits(Cursor::new(payload), limits(max_pixels));
        self.read(decoder.map_err(|error| image_fault(&error))?, max_pixels)
    }

    /// Perhaps nothing but the last chunk is missing, which the decoder wants to see.
    fn read_cut_png(&mut self, chunks: &[u8], max_pixels: u64) -> Result<((usize, usize), Samples), Rejection> {
        let mended = [chunks, &png::END].concat();
        self.read_png(&mended, max_pixels).map_err(cut)
    }

    fn read<D: ImageDecoder>(
        &mut self,
        mut decoder: D,
        max_pixels: u64,
    ) -> Result<((usize, usize), Samples), Rejection> {
        let (width, height) = decoder.dimensions();
        check_size(u64::from(width), u64::from(height), max_pixels)?;
        decoder.set_limits(limits(max_pixels)).map_err(|error| image_fault(&error))?;
        let samples = samples_of(decoder.color_type())?;
        let length = usize::try_from(decoder.total_bytes()).map_err(|_| too_large(width, height, max_pixels))?;
        decoder.read_image(sized(&mut self.decoded, length)).map_err(|error| image_fault(&error))?;
        Ok(((width as usize, height as usize), samples))
    }

    /// Luma of a picture for its thumbnail, and what is left to turn it by: the means of a JPEG's blocks where they are
    /// fine enough, else every pixel.
    pub(super) fn luma(
        &mut self,
        format: Format,
        payload: &[u8],
        spec: &InputSpec,
        rules: (u64, Orientation),
    ) -> Result<(Luma<'_>, Turn), Rejection> {
        let (max_pixels, orientation) = rules;
        let blocks = (format == Format::Jpeg).then(|| jpeg::reduce(payload, max_pixels, &mut self.jpeg)).flatten();
        if let Some(jpeg::Blocks { width, height, stride }) = blocks {
            let turn = turn_of(jpeg::exif(payload)).filter(|_| orientation == Orientation::Exif);
            let turn = turn.unwrap_or(Turn::NoTransforms);
            let luma = Luma { values: self.jpeg.means(), stride, width, height, unit: jpeg::BLOCK };
            if luma.is_fine(spec, turn) {
                return Ok((Luma { values: self.jpeg.means(), ..luma }, turn));
            }
        }
        let (pixels, Shape { width, height, .. }) = self.decode(format, payload, true, rules)?;
        Ok((Luma { values: pixels, stride: width, width, height, unit: 1 }, Turn::NoTransforms))
    }
}

/// To 8 bits, without alpha, and grey if that is wanted. Pictures that already are so stay where they are.
fn reduce<'a>(
    decoded: &'a mut Vec<u8>,
    pixels: &'a mut Vec<u8>,
    (width, height): (usize, usize),
    Samples { stride, is_gray, is_wide }: Samples,
    want_gray: bool,
) -> (&'a [u8], Shape) {
    if is_wide {
        narrow(decoded);
    }
    let shape = Shape { width, height, channels: if is_gray || want_gray { 1 } else { 3 } };
    if stride == shape.channels {
        return (decoded, shape);
    }
    let pixels = sized(pixels, shape.len());
    let groups = decoded.chunks_exact(stride);
    match (is_gray, want_gray) {
        (true, _) => pixels.iter_mut().zip(groups).for_each(|(to, from)| *to = from[0]),
        (false, true) => pixels.iter_mut().zip(groups).for_each(|(to, from)| *to = luma(from[0], from[1], from[2])),
        (false, false) => {
            pixels.chunks_exact_mut(3).zip(groups).for_each(|(to, from)| to.copy_from_slice(&from[..3]));
        }
    }
    (pixels, shape)
}

/// What `image` writes for a pixel of this type.
fn samples_of(color: ColorType) -> Result<Samples, Rejection> {
    let (stride, is_wide) = match color {
        ColorType::L8 => (1, false),
        ColorType::La8 => (2, false),
        ColorType::Rgb8 => (3, false),
        ColorType::Rgba8 => (4, false),
        ColorType::L16 => (1, true),
        ColorType::La16 => (2, true),
        ColorType::Rgb16 => (3, true),
        ColorType::Rgba16 => (4, true),
        other => return Err(corrupt(format!("pixels of type {other:?} are not supported"))),
    };
    Ok(Samples { stride, is_gray: stride <= 2, is_wide })
}

/// 16-bit samples (native byte order, as `image` writes them) to 8 bits, rounded, in place.
fn narrow(bytes: &mut Vec<u8>) {
    let length = bytes.len() / 2;
    for at in 0..length {
        let value = u32::from(u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]]));
        bytes[at] = ((value * 255 + 32_767) / 65_535).min(255) as u8;
    }
    bytes.truncate(length);
}

fn limits(max_pixels: u64) -> Limits {
    let mut limits = Limits::default();
    // Four 16-bit samples per pixel, and as much again for the decoder's own rows and chunks.
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(1 << 20));
    limits
}

/// The fault of a picture of which part is missing: whatever the decoder stumbled over, that is why.
fn cut(fault: Rejection) -> Rejection {
    if fault.reason() == RejectReason::Corrupt { truncated(fault.detail()) } else { fault }
}

fn image_fault(error: &ImageError) -> Rejection {
    match error {
        ImageError::Limits(limit) => Rejection::new(RejectReason::TooLarge, limit.to_string()),
        other => corrupt(other.to_string()),
    }
}
