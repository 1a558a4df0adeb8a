//! A JPEG to pixels. The only user of its decoder.

use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::blocks::{Blocks, Reducer};
use super::header::Fault;
use super::markers::{END_MARKER, End};
use super::repair::{Outline, mended};
use super::scan::SCANS_MAX;
use crate::decode::refusal::{check_size, corrupt, truncated};
use crate::decode::shape::{Samples, sized};
use crate::frame::Rejection;

/// Buffers that live from frame to frame.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    reducer: Reducer,
    mended: Vec<u8>,
}

impl Scratch {
    /// The mean luma of the blocks that were reduced last, row by row.
    pub(crate) fn means(&self) -> &[u8] {
        &self.reducer.means
    }
}

/// Decodes a picture into `out`; luma, with chroma behind it, if `want_gray` asks for it.
///
/// It goes to its decoder directly: through `image` a truncated one would come out grey and without an error.
pub(crate) fn decode(
    payload: &[u8],
    want_gray: bool,
    max_pixels: u64,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<((usize, usize), Samples), Rejection> {
    let outline = Outline::of(payload).map_err(|end| match end {
        End::Truncated => truncated("the JPEG ends before its first scan"),
        End::Broken | End::At(_) => corrupt("the JPEG's markers are broken"),
    })?;
    let (width, height) = outline.size.ok_or_else(|| corrupt("the JPEG has no frame header"))?;
    check_size(width, height, max_pixels)?;
    let picture = mended(payload, &outline, &mut scratch.mended);
    if outline.is_open() {
        return match scratch.reducer.is_whole(picture) {
            Ok(true) => read(picture, want_gray, out),
            Ok(false) => Err(truncated("the JPEG has no end marker, and scans are missing")),
            Err(fault) => Err(truncated(format!("the JPEG has no end marker, and {fault}"))),
        };
    }
    // With its end marker in sight the decoder makes up what is missing in front of it. Without, it speaks up, but not
    // between scans, and not within the last row of blocks; where little is left it has read ahead and speaks up without need.
    let bare = picture.strip_suffix(&END_MARKER).filter(|_| outline.is_one_scan());
    if let Some(Ok(read)) = bare.map(|bare| read(bare, want_gray, out)) {
        return Ok(read);
    }
    match scratch.reducer.is_whole(picture) {
        Err(fault @ Fault::Cut { .. }) => Err(truncated(format!("the JPEG has its end marker too early: {fault}"))),
        Ok(false) if !outline.is_progressive => {
            Err(truncated("the JPEG has its end marker too early: scans are missing"))
        }
        // What is broken or of another kind the decoder may know better.
        Ok(_) | Err(Fault::Corrupt | Fault::Unsupported) => read(picture, want_gray, out),
    }
}

/// Takes the mean luma of each block of 8 x 8 pixels, for a fraction of what decoding costs. `None`: this picture must be decoded,
/// if only to hear what is wrong with it.
pub(crate) fn reduce(payload: &[u8], max_pixels: u64, scratch: &mut Scratch) -> Option<Blocks> {
    let outline = Outline::of(payload).ok()?;
    let picture = mended(payload, &outline, &mut scratch.mended);
    scratch.reducer.reduce(picture, max_pixels).ok()
}

/// `picture` has passed the check of its size.
fn read(picture: &[u8], want_gray: bool, out: &mut Vec<u8>) -> Result<((usize, usize), Samples), Rejection> {
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_max_scans(SCANS_MAX);
    let options = options.set_max_width(usize::from(u16::MAX)).set_max_height(usize::from(u16::MAX));
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(picture), options);
    decoder.decode_headers().map_err(|error| corrupt(error.to_string()))?;
    let size = decoder.dimensions().ok_or_else(|| corrupt("the JPEG has no frame header"))?;
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
    decoder.decode_into(sized(out, length)).map_err(|error| corrupt(error.to_string()))?;
    Ok((size, samples))
}
