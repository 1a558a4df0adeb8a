//! 2 · From a record's bytes to what the backbone is fed: the only place where a frame may be rejected.
//!
//! Pure: no clock, no I/O, no metrics, no Kafka. A [`Rejection`] is a verdict on the bytes; it would be the same on every
//! replica and on every attempt.
//!
//! The bytes are foreign. So the size is checked first, then only the header is read and its dimensions are checked, then
//! the picture is decoded with an allocation limit, and a panic inside a decoder is a corrupt frame, not a dead lane.

mod augment;
mod fit;
mod jpeg;
mod orientation;
mod picture;
mod png;
mod raw;
mod refusal;
mod shape;
mod thumbnail;
mod webp;
mod wrapping;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::frame::{InputSpec, Orientation, RejectReason, Rejection};

pub use augment::{copies, mirror, shift};
use fit::Fitter;
pub(crate) use jpeg::{End as JpegEnd, START as JPEG_START, end_of_picture as jpeg_end};
use orientation::Turn;
use picture::Format;
pub(crate) use raw::content_type_u8;
use refusal::shorten;
use shape::Shape;
use thumbnail::Luma;
pub use thumbnail::Thumbnail;

/// What a frame may cost before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes of an encoded frame.
    pub max_bytes: usize,
    /// Pixels (width x height) of a decoded frame; memory follows from it: at most some 20 bytes per pixel and lane.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    /// 1 MiB as Kafka's own default for a record, 16 Mi pixels (a 4K camera has 8).
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_pixels: 1 << 24 }
    }
}

/// A decoded picture, before it is fitted to a backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Interleaved channels: 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `width * height * channels` values, row by row.
    pub values: Vec<u8>,
}

impl Pixels {
    /// The content type under which `values` can be decoded again, as a raw tensor.
    #[must_use]
    pub fn content_type(&self) -> String {
        content_type_u8(self.height, self.width, self.channels)
    }
}

/// Turns encoded frames into backbone input. One per lane: its buffers are reused from frame to frame.
#[derive(Debug)]
pub struct Decoder {
    spec: InputSpec,
    limits: DecodeLimits,
    orientation: Orientation,
    fitter: Fitter,
    scratch: picture::Scratch,
    /// Of raw tensors.
    luma: Vec<u8>,
}

impl Decoder {
    /// A decoder for one backbone, that turns pictures upright as their EXIF block says.
    #[must_use]
    pub fn new(spec: InputSpec, limits: DecodeLimits) -> Self {
        let fitter = Fitter::new(&spec);
        Self {
            spec,
            limits,
            orientation: Orientation::Exif,
            fitter,
            scratch: picture::Scratch::default(),
            luma: Vec::new(),
        }
    }

    /// The same with another rule for the EXIF block.
    #[must_use]
    pub fn oriented(self, orientation: Orientation) -> Self {
        Self { orientation, ..self }
    }

    /// Decodes one frame into `out`, which is one row of the backbone's input: [`InputSpec::len`] values, in its layout and
    /// channel order, scaled and normalised.
    ///
    /// JPEG, PNG and WebP are recognised by their first bytes. `content_type` decides only for raw tensors:
    /// `application/x-raw; dtype=u8; shape=28x28x1` (height x width x channels; pixels, in RGB order) or `dtype=f32`
    /// (little-endian, already scaled and normalised, of the backbone's own size and channel order).
    /// Alpha is dropped.
    ///
    /// # Errors
    /// A [`Rejection`] if the frame can never be classified. `out` then holds nothing of meaning.
    ///
    /// # Panics
    /// If `out` is not [`InputSpec::len`] long: the caller's buffer does not fit the backbone.
    pub fn decode(&mut self, payload: &[u8], content_type: Option<&str>, out: &mut [f32]) -> Result<(), Rejection> {
        assert_eq!(out.len(), self.spec.len(), "the output row must be as long as the backbone's input");
        self.guarded(payload, |decoder| {
            if let Some(tensor) = content_type.and_then(raw::declared) {
                return match tensor?.check(payload, &decoder.spec, decoder.limits.max_pixels)? {
                    raw::Tensor::Pixels(shape) => decoder.fitter.fit(payload, shape, out),
                    raw::Tensor::Prepared => raw::copy_prepared(payload, &decoder.spec, out),
                };
            }
            let (pixels, shape) =
                picture_of(&decoder.spec, decoder.rules(), &mut decoder.scratch, payload, content_type)?;
            decoder.fitter.fit(pixels, shape, out)
        })
    }

    /// Decodes one frame to 8-bit pixels of its own size: what [`Decoder::decode`] would fit to the backbone. One channel
    /// if the picture or the backbone is grey, else three.
    ///
    /// # Errors
    /// As [`Decoder::decode`], and for a raw `f32` tensor, which is no picture any more.
    pub fn pixels(&mut self, payload: &[u8], content_type: Option<&str>) -> Result<Pixels, Rejection> {
        self.guarded(payload, |decoder| {
            let (values, shape) = match content_type.and_then(raw::declared) {
                Some(tensor) => match tensor?.check(payload, &decoder.spec, decoder.limits.max_pixels)? {
                    raw::Tensor::Pixels(shape) => (payload, shape),
                    raw::Tensor::Prepared => {
                        let detail = "an f32 tensor is already normalised: it has no 8-bit pixels";
                        return Err(Rejection::new(RejectReason::BadTensor, detail));
                    }
                },
                None => picture_of(&decoder.spec, decoder.rules(), &mut decoder.scratch, payload, content_type)?,
            };
            let Shape { width, height, channels } = shape;
            Ok(Pixels { width, height, channels, values: values.to_vec() })
        })
    }

    /// Reduces one frame to its thumbnail. A JPEG that is large enough is not decoded for it: the means of its blocks stand
    /// in its data, and cost a fraction.
    ///
    /// # Errors
    /// A [`Rejection`] if the frame can never be classified. A frame may yet be rejected by [`Decoder::decode`] whose
    /// thumbnail could be had.
    pub fn thumbnail(&mut self, payload: &[u8], content_type: Option<&str>) -> Result<Thumbnail, Rejection> {
        self.guarded(payload, |decoder| {
            let Self { spec, limits, orientation, scratch, luma, .. } = decoder;
            let rules = (limits.max_pixels, *orientation);
            if let Some(tensor) = content_type.and_then(raw::declared) {
                let (width, height) = match tensor?.check(payload, spec, limits.max_pixels)? {
                    raw::Tensor::Pixels(Shape { width, height, channels }) => {
                        thumbnail::luma_of(payload, channels, luma);
                        (width, height)
                    }
                    raw::Tensor::Prepared => {
                        thumbnail::luma_of_prepared(payload, spec, luma);
                        (spec.width, spec.height)
                    }
                };
                return Ok(
                    Luma { values: luma, stride: width, width, height, unit: 1 }.thumbnail(spec, Turn::NoTransforms)
                );
            }
            let format = format_of(spec, payload, content_type)?;
            let (luma, turn) = scratch.luma(format, payload, spec, rules)?;
            Ok(luma.thumbnail(spec, turn))
        })
    }

    /// Most pixels, and what is done about the EXIF block.
    fn rules(&self) -> (u64, Orientation) {
        (self.limits.max_pixels, self.orientation)
    }

    fn guarded<T>(
        &mut self,
        payload: &[u8],
        work: impl FnOnce(&mut Self) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        if payload.is_empty() {
            return Err(Rejection::new(RejectReason::Empty, "the record has no bytes"));
        }
        if payload.len() > self.limits.max_bytes {
            let detail = format!("{} bytes, the limit is {}", payload.len(), self.limits.max_bytes);
            return Err(Rejection::new(RejectReason::TooLarge, detail));
        }
        // The buffers may be half written after a panic; they hold no invariant, and are thrown away all the same.
        let decoded = catch_unwind(AssertUnwindSafe(|| work(&mut *self)));
        decoded.unwrap_or_else(|panic| {
            self.scratch = picture::Scratch::default();
            self.fitter = Fitter::new(&self.spec);
            let detail = format!("the decoder gave up: {}", panic_words(panic.as_ref()));
            Err(Rejection::new(RejectReason::Corrupt, detail))
        })
    }
}

/// The pixels of an encoded picture, in the scratch memory.
fn picture_of<'a>(
    spec: &InputSpec,
    rules: (u64, Orientation),
    scratch: &'a mut picture::Scratch,
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<(&'a [u8], Shape), Rejection> {
    let format = format_of(spec, payload, content_type)?;
    scratch.decode(format, payload, spec.channels.count() == 1, rules)
}

fn format_of(spec: &InputSpec, payload: &[u8], content_type: Option<&str>) -> Result<Format, Rejection> {
    let unknown = || Rejection::new(RejectReason::UnknownFormat, wrapping::words(payload, content_type, spec.len()));
    Format::sniff(payload).ok_or_else(unknown)
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    words.or_else(|| panic.downcast_ref::<String>().cloned()).map_or_else(|| "panic".to_owned(), |text| shorten(&text))
}
