//! 8-bit pixels in reused memory: their shape, their luma, their room. Pure.

/// An 8-bit picture in the decoder's scratch memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Interleaved channels: 1 (grey) or 3 (red, green, blue).
    pub(super) channels: usize,
}

impl Shape {
    pub(super) fn len(self) -> usize {
        self.width * self.height * self.channels
    }
}

/// What a decoder writes for one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Samples {
    /// Samples per pixel; those behind the colours (alpha, or chroma of a grey picture) are skipped.
    pub(super) stride: usize,
    /// The first sample is luma; otherwise the first three are red, green, blue.
    pub(super) is_gray: bool,
    /// Samples have 16 bits.
    pub(super) is_wide: bool,
}

/// Rec. 601 luma in Pillow's fixed-point form, so that a grey model sees what its trainer saw.
pub(super) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000;
    // The weights add up to 2^16, so the shifted sum is at most 255.
    (sum >> 16).min(255) as u8
}

/// The first `length` bytes of a reused buffer; their content is old.
pub(super) fn sized(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    buffer.resize(length, 0);
    buffer.as_mut_slice()
}
