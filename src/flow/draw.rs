//! Draws: which frames are audited and how copies are shifted, decided by a frame's place and the seed alone.
//!
//! So a replay audits the same frames as a worker, every replica decides alike, and a higher rate only adds frames.

use crate::frame::Origin;

/// The draw of the frame at `origin`: uniform in [0, 1).
#[must_use]
pub fn draw(origin: &Origin, seed: u64) -> f64 {
    // 53 bits fill a double's mantissa.
    (bits(origin, seed) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Uniform bits for the copy `number` of a frame, from 0; they know nothing of whether it was audited.
#[must_use]
pub(super) fn bits_of_copy(origin: &Origin, seed: u64, number: u8) -> u64 {
    bits(origin, seed ^ (u64::from(number) + 1) << 48)
}

/// Uniform bits that belong to a frame's place and the seed.
fn bits(origin: &Origin, seed: u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(origin.topic.as_bytes());
    hash.update(&origin.partition.to_le_bytes());
    hash.update(&origin.offset.to_le_bytes());
    let mut word = [0; 8];
    hash.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn is_audited(offset: i64, seed: u64, rate: f64) -> bool {
        draw(&Origin { topic: Arc::from("frames"), partition: 3, offset }, seed) < rate
    }

    proptest! {
        #[test]
        fn a_higher_rate_only_adds_audits(offset: i64, seed: u64, low in 0.0..=1.0_f64, more in 0.0..=1.0_f64) {
            let high = low + (1.0 - low) * more;
            prop_assert!(!is_audited(offset, seed, low) || is_audited(offset, seed, high));
            prop_assert!(is_audited(offset, seed, 1.0));
            prop_assert!(!is_audited(offset, seed, 0.0));
        }
    }

    #[test]
    fn the_audited_share_is_the_rate() {
        let audited = (0..20_000).filter(|offset| is_audited(*offset, 7, 0.1)).count();
        // Binomial(20,000, 0.1): standard deviation 42; five of them.
        assert!((1_790..=2_210).contains(&audited), "{audited}");
    }
}
