//! Encoded pictures to 8-bit pixels in reused memory. The only user of the picture decoders.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError, Limits};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::refusal::{check_size, corrupt, too_large};
use super::shape::{Shape, luma, sized};
use super::{jpeg, webp};
use crate::frame::{RejectReason, Rejection};

/// Progressive JPEGs have some 10 scans; each costs a pass over all coefficients, so a hostile one could hold a lane.
const JPEG_SCANS_MAX: usize = 32;

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
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else {
            None
        }
    }
}

/// Buffers that live from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// What the decoder wrote.
    decoded: Vec<u8>,
    /// The same with 8 bits and 1 or 3 channels, where it had alpha or 16 bits.
    pixels: Vec<u8>,
}

impl Scratch {
    /// Decodes a picture; the result has one channel if it is grey or `want_gray` asks for it, else three.
    pub(super) fn decode(
        &mut self,
        format: Format,
        payload: &[u8],
        want_gray: bool,
        max_pixels: u64,
    ) -> Result<(&[u8], Shape), Rejection> {
        let (size, samples) = match format {
            Format::Jpeg => self.decode_jpeg(payload, want_gray, max_pixels)?,
            Format::Png => {
                let decoder = PngDecoder::with_limits(Cursor::new(payload), limits(max_pixels));
                self.read(decoder.map_err(|error| image_fault(&error))?, max_pixels)?
            }
            Format::WebP => {
                webp::check(payload, max_pixels)?;
                let decoder = WebPDecoder::new(Cursor::new(payload));
                self.read(decoder.map_err(|error| image_fault(&error))?, max_pixels)?
            }
        };
        Ok(self.reduce(size, samples, want_gray))
    }

    /// JPEG goes to its decoder directly: through `image` a truncated one would come out grey and without an error.
    fn decode_jpeg(
        &mut self,
        payload: &[u8],
        want_gray: bool,
        max_pixels: u64,
    ) -> Result<((usize, usize), Samples), Rejection> {
        match jpeg::end_of_picture(payload) {
            jpeg::End::At(_) => {}
            jpeg::End::Truncated => return Err(corrupt("the JPEG ends before its end marker")),
            jpeg::End::Broken => return Err(corrupt("the JPEG's markers are broken")),
        }
        let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_max_scans(JPEG_SCANS_MAX);
        let options = options.set_max_width(usize::from(u16::MAX)).set_max_height(usize::from(u16::MAX));
        let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(payload), options);
        decoder.decode_headers().map_err(|error| corrupt(error.to_string()))?;
        let (width, height) = decoder.dimensions().ok_or_else(|| corrupt("the JPEG has no frame header"))?;
        check_size(width as u64, height as u64, max_pixels)?;
        // A grey picture is the luma channel. It is picked from the decoder's YCbCr: the decoder's own short cut to luma skips
        // chroma blocks, and loses its place in some valid files (4:4:4 with optimised Huffman tables; 0.5.15).
        let (space, samples) = match decoder.input_colorspace() {
            Some(ColorSpace::Luma) => (ColorSpace::Luma, Samples { stride: 1, is_gray: true, is_wide: false }),
            Some(ColorSpace::YCbCr) if want_gray => {
                (ColorSpace::YCbCr, Samples { stride: 3, is_gray: true, is_wide: false })
            }
            _ => (ColorSpace::RGB, Samples { stride: 3, is_gray: false, is_wide: false }),
        };
        decoder.set_options(options.jpeg_set_out_colorspace(space));
        let length = decoder.output_buffer_size().ok_or_else(|| corrupt("the JPEG has no size"))?;
        decoder.decode_into(sized(&mut self.decoded, length)).map_err(|error| corrupt(error.to_string()))?;
        Ok(((width, height), samples))
    }

    fn read<D: ImageDecoder>(
        &mut self,
        mut decoder: D,
        max_pixels: u64,
    ) -> Result<((usize, usize), Samples), Rejection> {
        let (width, height) = decoder.dimensions();
        check_size(u64::from(width), u64::from(height), max_pixels)?;
        decoder.set_limits(limits(max_pixels)).map_err(|error| image_fault(&error))?;
        let samples = Samples::of(decoder.color_type())?;
        let length = usize::try_from(decoder.total_bytes()).map_err(|_| too_large(width, height, max_pixels))?;
        decoder.read_image(sized(&mut self.decoded, length)).map_err(|error| image_fault(&error))?;
        Ok(((width as usize, height as usize), samples))
    }

    /// To 8 bits, without alpha, and grey if that is wanted. Pictures that already are so stay where they are.
    fn reduce(&mut self, (width, height): (usize, usize), samples: Samples, want_gray: bool) -> (&[u8], Shape) {
        let Samples { stride, is_gray, is_wide } = samples;
        if is_wide {
            narrow(&mut self.decoded);
        }
        let shape = Shape { width, height, channels: if is_gray || want_gray { 1 } else { 3 } };
        if stride == shape.channels {
            return (self.decoded.as_slice(), shape);
        }
        let pixels = sized(&mut self.pixels, shape.len());
        let groups = self.decoded.chunks_exact(stride);
        match (is_gray, want_gray) {
            (true, _) => pixels.iter_mut().zip(groups).for_each(|(to, from)| *to = from[0]),
            (false, true) => pixels.iter_mut().zip(groups).for_each(|(to, from)| *to = luma(from[0], from[1], from[2])),
            (false, false) => {
                pixels.chunks_exact_mut(3).zip(groups).for_each(|(to, from)| to.copy_from_slice(&from[..3]));
            }
        }
        (self.pixels.as_slice(), shape)
    }
}

/// What a decoder writes for one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Samples {
    /// Samples per pixel; those behind the colours (alpha, or chroma of a grey picture) are skipped.
    stride: usize,
    /// The first sample is luma; otherwise the first three are red, green, blue.
    is_gray: bool,
    /// Samples have 16 bits.
    is_wide: bool,
}

impl Samples {
    fn of(color: ColorType) -> Result<Self, Rejection> {
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
        Ok(Self { stride, is_gray: stride <= 2, is_wide })
    }
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

fn image_fault(error: &ImageError) -> Rejection {
    match error {
        ImageError::Limits(limit) => Rejection::new(RejectReason::TooLarge, limit.to_string()),
        other => corrupt(other.to_string()),
    }
}
