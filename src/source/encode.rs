//! 8-bit pixels to the bytes a camera would send.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _};

use super::SourceError;
use crate::decode::content_type_u8;

/// JPEG quality of encoded arrays: what cameras send, and little enough loss that labels stay what they are.
const JPEG_QUALITY: u8 = 90;

/// What arrays are encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Encoding {
    /// Lossless.
    #[default]
    Png,
    /// Quality 90.
    Jpeg,
    /// The pixels as they are, with a content type that names their shape.
    Raw,
}

/// Size of a picture; channels are interleaved: 1 (grey) or 3 (red, green, blue).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Size {
    pub(super) fn bytes(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Encodes one picture; gives its bytes and content type. `pixels` has `size.bytes()` values.
pub(super) fn encode(
    name: &str,
    pixels: &[u8],
    size: Size,
    encoding: Encoding,
) -> Result<(Vec<u8>, String), SourceError> {
    let fault = |reason: String| SourceError::Encode { name: name.to_owned(), reason };
    let (Ok(width), Ok(height)) = (u32::try_from(size.width), u32::try_from(size.height)) else {
        return Err(fault("too wide or too high".to_owned()));
    };
    let color = if size.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    match encoding {
        Encoding::Raw => {
            return Ok((pixels.to_vec(), content_type_u8(size.height, size.width, size.channels)));
        }
        Encoding::Png => PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
            .write_image(pixels, width, height, color),
        Encoding::Jpeg => {
            JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).write_image(pixels, width, height, color)
        }
    }
    .map_err(|error| fault(error.to_string()))?;
    let kind = if encoding == Encoding::Png { "image/png" } else { "image/jpeg" };
    Ok((bytes, kind.to_owned()))
}
