//! 3 · Batches: whatever waits when a lane is free, at most `max`.
//!
//! There is no timer: under load batches grow by themselves, and an idle worker answers one frame at once.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_holds_the_oldest_items_in_order(sent in 1_usize..50, max in 1_usize..20) {
            let (tx, rx) = crossbeam_channel::bounded(64);
            (0..sent).for_each(|item| tx.send(item).expect("room"));
            let Next::Batch(batch) = next(&rx, max, Duration::ZERO) else { panic!("items are waiting") };
            prop_assert_eq!(batch, (0..sent.min(max)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_closed_inbox_ends_the_lane() {
        let (tx, rx) = crossbeam_channel::bounded::<u8>(1);
        assert!(matches!(next(&rx, 4, Duration::ZERO), Next::Idle));
        drop(tx);
        assert!(matches!(next(&rx, 4, Duration::ZERO), Next::Closed));
    }
}
