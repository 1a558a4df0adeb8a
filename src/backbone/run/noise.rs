//! Pictures of no meaning: what is fed where only shapes and times matter.

/// Values in [0, 1) that differ from row to row; the same on every machine.
pub(crate) fn noise(length: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65536.0
    };
    (0..length).map(next).collect()
}
