//! Raw tensors, declared by their content type. Pure.

use super::refusal::{check_size, shorten};
use super::shape::Shape;
use crate::frame::{InputSpec, Layout, RejectReason, Rejection};

/// The media type that declares a raw tensor.
const MEDIA_TYPE: &str = "application/x-raw";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    U8,
    F32,
}

/// A raw tensor as declared; nothing is known about its bytes yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Declared {
    dtype: Dtype,
    height: usize,
    width: usize,
    channels: usize,
}

/// A raw tensor whose bytes fit what was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tensor {
    /// 8-bit pixels, interleaved.
    Pixels(Shape),
    /// `f32` values that the backbone is fed as they are.
    Prepared,
}

/// Parses a content type; `None` if it declares no raw tensor.
pub(super) fn declared(content_type: &str) -> Option<Result<Declared, Rejection>> {
    let mut parts = content_type.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(MEDIA_TYPE) {
        return None;
    }
    let (mut dtype, mut shape) = (None, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "dtype" => dtype = Some(value),
            "shape" => shape = Some(value),
            _ => {}
        }
    }
    Some(parse(dtype, shape))
}

fn parse(dtype: Option<&str>, shape: Option<&str>) -> Result<Declared, Rejection> {
    let dtype = match dtype {
        Some("u8" | "uint8") => Dtype::U8,
        Some("f32" | "float32") => Dtype::F32,
        Some(other) => return Err(bad(format!("dtype {:?} is neither u8 nor f32", shorten(other)))),
        None => return Err(bad("the content type names no dtype; say dtype=u8 or dtype=f32")),
    };
    let shape = shape.ok_or_else(|| bad("the content type names no shape; say shape=HEIGHTxWIDTHxCHANNELS"))?;
    let wrong = || bad(format!("shape {:?} is not HEIGHTxWIDTHxCHANNELS", shorten(shape)));
    let dims: Result<Vec<usize>, _> = shape.split('x').take(4).map(str::parse).collect();
    let (height, width, channels) = match *dims.map_err(|_| wrong())?.as_slice() {
        [height, width] => (height, width, 1),
        [height, width, channels] => (height, width, channels),
        _ => return Err(wrong()),
    };
    if channels != 1 && channels != 3 {
        return Err(bad(format!("{channels} channels; raw tensors have 1 or 3")));
    }
    Ok(Declared { dtype, height, width, channels })
}

impl Declared {
    /// Checks the bytes against the declaration, and the declaration against the backbone.
    pub(super) fn check(self, payload: &[u8], spec: &InputSpec, max_pixels: u64) -> Result<Tensor, Rejection> {
        check_size(self.width as u64, self.height as u64, max_pixels)?;
        let values = self.height.checked_mul(self.width).and_then(|pixels| pixels.checked_mul(self.channels));
        let size = if self.dtype == Dtype::U8 { 1 } else { 4 };
        let expected = values.and_then(|values| values.checked_mul(size));
        if expected != Some(payload.len()) {
            let expected = expected.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string());
            return Err(bad(format!("{} bytes where the declared shape needs {expected}", payload.len())));
        }
        if self.dtype == Dtype::U8 {
            let shape = Shape { width: self.width, height: self.height, channels: self.channels };
            return Ok(Tensor::Pixels(shape));
        }
        let wanted = (spec.height, spec.width, spec.channels.count());
        if (self.height, self.width, self.channels) != wanted {
            let (height, width, channels) = wanted;
            return Err(bad(format!(
                "an f32 tensor is taken as it is and must be {height}x{width}x{channels}, not {}x{}x{}",
                self.height, self.width, self.channels
            )));
        }
        Ok(Tensor::Prepared)
    }
}

/// Copies little-endian `f32` values (`[height, width, channels]`, of the backbone's size) into the backbone's layout.
pub(super) fn copy_prepared(payload: &[u8], spec: &InputSpec, out: &mut [f32]) -> Result<(), Rejection> {
    let channels = spec.channels.count();
    let pixels = spec.width * spec.height;
    for (at, bytes) in payload.chunks_exact(4).enumerate() {
        let value = bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
        if !value.is_finite() {
            return Err(bad(format!("value {at} is not finite")));
        }
        let to = match spec.layout {
            Layout::Nhwc => at,
            Layout::Nchw => (at % channels) * pixels + at / channels,
        };
        if let Some(slot) = out.get_mut(to) {
            *slot = value;
        }
    }
    Ok(())
}

/// The content type of a raw u8 tensor, as [`declared`] reads it.
pub(crate) fn content_type_u8(height: usize, width: usize, channels: usize) -> String {
    format!("{MEDIA_TYPE}; dtype=u8; shape={height}x{width}x{channels}")
}

fn bad(detail: impl Into<String>) -> Rejection {
    Rejection::new(RejectReason::BadTensor, detail)
}
