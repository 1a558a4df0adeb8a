//! The words in which a frame is refused, and the check of a size that a header claims. Pure.

use crate::frame::{RejectReason, Rejection};

/// Checks the header's word before anything is allocated for it.
pub(super) fn check_size(width: u64, height: u64, max_pixels: u64) -> Result<(), Rejection> {
    if width == 0 || height == 0 {
        return Err(corrupt(format!("{width} x {height} pixels")));
    }
    if width.checked_mul(height).is_none_or(|pixels| pixels > max_pixels) {
        return Err(too_large(width, height, max_pixels));
    }
    Ok(())
}

pub(super) fn too_large(width: impl std::fmt::Display, height: impl std::fmt::Display, max_pixels: u64) -> Rejection {
    Rejection::new(RejectReason::TooLarge, format!("{width} x {height} pixels, the limit is {max_pixels} in all"))
}

pub(super) fn corrupt(detail: impl Into<String>) -> Rejection {
    let detail: String = detail.into();
    Rejection::new(RejectReason::Corrupt, detail.chars().take(200).collect::<String>())
}

pub(super) fn truncated(detail: impl Into<String>) -> Rejection {
    Rejection::new(RejectReason::Truncated, detail)
}

/// At most 64 characters of foreign text.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
