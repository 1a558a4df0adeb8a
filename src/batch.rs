//! 3 · Batches: whatever waits when a lane is free, at most `max`; and which of its frames are audited.
//!
//! There is no timer: under load batches grow by themselves, and an idle worker answers one frame at once.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::frame::Origin;

/// What a lane gets when it asks for work.
#[derive(Debug)]
pub enum Next<T> {
    /// At least one item.
    Batch(Vec<T>),
    /// Nothing came within the wait.
    Idle,
    /// Nothing will ever come again.
    Closed,
}

/// Waits at most `wait` for a first item, then takes what is there, up to `max` items.
#[must_use]
pub fn next<T>(inbox: &Receiver<T>, max: usize, wait: Duration) -> Next<T> {
    match inbox.recv_timeout(wait) {
        Ok(first) => {
            let mut batch = Vec::with_capacity(max.min(inbox.len() + 1));
            batch.push(first);
            batch.extend(inbox.try_iter().take(max - 1));
            Next::Batch(batch)
        }
        Err(RecvTimeoutError::Timeout) => Next::Idle,
        Err(RecvTimeoutError::Disconnected) => Next::Closed,
    }
}

/// Whether a frame is audited: a hash of its place and the seed falls below the rate, so that a replay audits the same
/// frames, every replica decides alike, and a higher rate only adds frames.
#[must_use]
pub fn is_audited(origin: &Origin, seed: u64, rate: f64) -> bool {
    // 53 bits fill a double's mantissa: the draw is uniform on [0, 1).
    let draw = (draw(origin, seed) >> 11) as f64 / (1_u64 << 53) as f64;
    draw < rate
}

/// [`draw`] for the copy `number` of a frame; bits of their own, which know nothing of whether it was audited.
#[must_use]
pub fn draw_of_copy(origin: &Origin, seed: u64, number: u8) -> u64 {
    draw(origin, seed ^ (u64::from(number) + 1) << 48)
}

/// Uniform bits that belong to a frame's place and the seed.
#[must_use]
pub fn draw(origin: &Origin, seed: u64) -> u64 {
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

    fn origin(offset: i64) -> Origin {
        Origin { topic: Arc::from("frames"), partition: 3, offset }
    }

    proptest! {
        #[test]
        fn a_higher_rate_only_adds_audits(offset: i64, seed: u64, low in 0.0..=1.0_f64, more in 0.0..=1.0_f64) {
            let high = low + (1.0 - low) * more;
            prop_assert!(!is_audited(&origin(offset), seed, low) || is_audited(&origin(offset), seed, high));
            prop_assert!(is_audited(&origin(offset), seed, 1.0));
            prop_assert!(!is_audited(&origin(offset), seed, 0.0));
        }

        #[test]
        fn a_batch_holds_the_oldest_items_in_order(sent in 1_usize..50, max in 1_usize..20) {
            let (tx, rx) = crossbeam_channel::bounded(64);
            (0..sent).for_each(|item| tx.send(item).expect("room"));
            let Next::Batch(batch) = next(&rx, max, Duration::ZERO) else { panic!("items are waiting") };
            prop_assert_eq!(batch, (0..sent.min(max)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_audited_share_is_the_rate() {
        let audited = (0..20_000).filter(|offset| is_audited(&origin(*offset), 7, 0.1)).count();
        // Binomial(20,000, 0.1): standard deviation 42; five of them.
        assert!((1_790..=2_210).contains(&audited), "{audited}");
    }

    #[test]
    fn a_closed_inbox_ends_the_lane() {
        let (tx, rx) = crossbeam_channel::bounded::<u8>(1);
        assert!(matches!(next(&rx, 4, Duration::ZERO), Next::Idle));
        drop(tx);
        assert!(matches!(next(&rx, 4, Duration::ZERO), Next::Closed));
    }
}
