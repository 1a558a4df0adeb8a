//! The way from the thread that polls Kafka to the one that learns: a bounded queue, and what found it full.
//!
//! Nothing that was offered is lost. Pure: whoever offers pauses and resumes the input.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, TrySendError};

/// What the input should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// As it does.
    Stay,
    /// Bring nothing more: the queue is full.
    Pause,
    /// Go on: half of the queue is free, and pausing throws the prefetch away, so it should not happen often.
    Resume,
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: Sender<T>,
    room: usize,
    /// What found the queue full, in order: what the client still hands out after it was paused. While there is any, the
    /// input is paused, so it stays at a few.
    held: VecDeque<T>,
}

impl<T> Inbox<T> {
    /// A queue of `room` items, and where they come out.
    pub(crate) fn new(room: usize) -> (Self, Receiver<T>) {
        let (queue, out) = crossbeam_channel::bounded(room);
        (Self { queue, room, held: VecDeque::new() }, out)
    }

    /// Sends an item, or keeps it behind those that are kept already.
    pub(crate) fn offer(&mut self, item: T) -> Input {
        if self.held.is_empty() {
            match self.queue.try_send(item) {
                Err(TrySendError::Full(item)) => self.held.push_back(item),
                // Nobody listens any more: the term is over, and the next one reads the log again.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return Input::Stay,
            }
        } else {
            self.held.push_back(item);
        }
        Input::Pause
    }

    /// Sends what was kept, once there is real room.
    pub(crate) fn flush(&mut self) -> Input {
        if self.held.is_empty() || self.queue.len() > self.room / 2 {
            return Input::Stay;
        }
        while let Some(item) = self.held.pop_front() {
            if let Err(TrySendError::Full(item)) = self.queue.try_send(item) {
                self.held.push_front(item);
                return Input::Stay;
            }
        }
        Input::Resume
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// One test for a bug: a second item that found the queue full took the place of the first.
        #[test]
        fn nothing_that_was_offered_is_lost(bursts in prop::collection::vec((0_u32..6, 0_usize..6), 1..40), room in 1_usize..5) {
            let (mut inbox, out) = Inbox::new(room);
            let (mut sent, mut received, mut paused) = (0, Vec::new(), false);
            for (offered, taken) in bursts {
                for _ in 0..offered {
                    paused |= inbox.offer(sent) == Input::Pause;
                    sent += 1;
                }
                received.extend(out.try_iter().take(taken));
                match inbox.flush() {
                    Input::Resume => paused = false,
                    kept => prop_assert_eq!((kept, paused), (Input::Stay, !inbox.held.is_empty())),
                }
            }
            for _ in 0..=sent {
                received.extend(out.try_iter());
                inbox.flush();
            }
            prop_assert_eq!(received, (0..sent).collect::<Vec<u32>>());
        }
    }
}
