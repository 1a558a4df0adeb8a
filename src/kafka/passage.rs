//! The way past what cannot be read: a batch whose checksum is wrong, or that does not unpack.
//!
//! librdkafka reports such a batch and asks for it again, for ever; after a wrong checksum it may even go on at an offset that
//! it took from the broken bytes. It does not say where the batch ends. So a consumer of its own looks from which offset on
//! records come again, with one question for an offset, and as few as a bisection needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Consequence, Quiet, REQUEST_TIMEOUT, consequence};

const POLL: Duration = Duration::from_millis(100);
/// Records exist and neither one nor an error comes for so long: they cannot be read.
const SILENCE: Duration = Duration::from_secs(5);

/// Whether an error says that the records at a partition's position cannot be read, however often it is tried.
#[must_use]
pub fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BadMessage
                | Code::BadCompression
                | Code::NotImplemented
                | Code::InvalidMessage
                | Code::MessageSizeTooLarge
        )
    )
}

/// What is found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Records, or the end of the partition.
    Readable,
    Unreadable,
}

/// A stretch of a partition that cannot be read; empty if it can after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its first offset.
    pub from: i64,
    /// Where reading can go on.
    pub to: i64,
}

/// The stretch that cannot be read at `from`, or where that is none, at the committed offset of the client's group. `client`
/// makes a consumer. None if it was stopped.
///
/// # Errors
/// When Kafka says what cannot be cured by waiting.
pub fn unreadable(
    client: &ClientConfig,
    topic: &str,
    partition: i32,
    from: Option<i64>,
    stop: &AtomicBool,
) -> KafkaResult<Option<Stretch>> {
    let probe = Probe::open(client, topic, partition)?;
    let Some(from) = from.map_or_else(|| probe.start(stop), |from| Ok(Some(from)))? else { return Ok(None) };
    Ok(search(from, |offset| probe.look(offset, stop))?.map(|to| Stretch { from, to }))
}

/// The first readable offset from `from` on, as far as `look` tells: what is unreadable is one stretch that begins there.
fn search<E>(from: i64, mut look: impl FnMut(i64) -> Result<Option<Found>, E>) -> Result<Option<i64>, E> {
    let (mut unreadable, mut step) = (from - 1, 1);
    let mut readable = loop {
        let ahead = unreadable.saturating_add(step);
        match look(ahead)? {
            None => return Ok(None),
            Some(Found::Readable) => break ahead,
            Some(Found::Unreadable) => unreadable = ahead,
        }
        if unreadable > from {
            step *= 2;
        }
    };
    while readable - unreadable > 1 {
        let middle = unreadable + (readable - unreadable) / 2;
        match look(middle)? {
            None => return Ok(None),
            Some(Found::Readable) => readable = middle,
            Some(Found::Unreadable) => unreadable = middle,
        }
    }
    Ok(Some(readable))
}

struct Probe<'a> {
    consumer: BaseConsumer<Quiet>,
    topic: &'a str,
    partition: i32,
}

impl<'a> Probe<'a> {
    fn open(client: &ClientConfig, topic: &'a str, partition: i32) -> KafkaResult<Self> {
        let mut client = client.clone();
        // One batch is enough to know; beyond the end there is nothing, and no reset elsewhere.
        client
            .set("fetch.message.max.bytes", "1024")
            .set("queued.min.messages", "1")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        Ok(Self { consumer: client.create_with_context(Quiet)?, topic, partition })
    }

    /// Where the group begins to read the partition.
    fn start(&self, stop: &AtomicBool) -> KafkaResult<Option<i64>> {
        while !stop.load(Ordering::Acquire) {
            let mut here = TopicPartitionList::new();
            here.add_partition(self.topic, self.partition);
            let committed = self.consumer.committed_offsets(here, REQUEST_TIMEOUT).and_then(|found| {
                match found.find_partition(self.topic, self.partition).map(|element| element.offset()) {
                    Some(Offset::Offset(offset)) => Ok(offset),
                    // The oldest record is the first that a group without an offset can meet.
                    _ => Ok(self.consumer.fetch_watermarks(self.topic, self.partition, REQUEST_TIMEOUT)?.0),
                }
            });
            match committed {
                Ok(offset) => return Ok(Some(offset)),
                Err(error) if consequence(&error) == Consequence::Stop => return Err(error),
                Err(error) => tracing::debug!(%error, partition = self.partition, "asking where the group begins"),
            }
        }
        Ok(None)
    }

    fn look(&self, offset: i64, stop: &AtomicBool) -> KafkaResult<Option<Found>> {
        let mut here = TopicPartitionList::new();
        here.add_partition_offset(self.topic, self.partition, Offset::Offset(offset))?;
        self.consumer.assign(&here)?;
        let mut silent = Instant::now();
        while !stop.load(Ordering::Acquire) {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) if message.offset() >= offset => return Ok(Some(Found::Readable)),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Some(Found::Readable)),
                Some(Err(error)) if is_beyond(&error) => return Ok(Some(Found::Readable)),
                Some(Err(error)) if is_unreadable(&error) => return Ok(Some(Found::Unreadable)),
                Some(Err(error)) if consequence(&error) == Consequence::Stop => return Err(error),
                // What is left of the assignment before, or an outage: patience begins anew.
                Some(_) => silent = Instant::now(),
                None if silent.elapsed() < SILENCE => {}
                None => match self.consumer.fetch_watermarks(self.topic, self.partition, REQUEST_TIMEOUT) {
                    Ok((_, end)) if offset < end => return Ok(Some(Found::Unreadable)),
                    Ok(_) => return Ok(Some(Found::Readable)),
                    Err(_) => silent = Instant::now(),
                },
            }
        }
        Ok(None)
    }
}

fn is_beyond(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing that can be read is passed over, and the search is short.
        #[test]
        fn the_first_readable_offset_is_found(from in 0_i64..1_000_000, length in 0_i64..100_000) {
            let mut looks = 0;
            let found = search(from, |offset| {
                looks += 1;
                assert!(offset >= from, "never looks back");
                Ok::<_, Infallible>(Some(if offset < from + length { Found::Unreadable } else { Found::Readable }))
            });
            prop_assert_eq!(found, Ok(Some(from + length)));
            prop_assert!(looks <= 40, "{} looks", looks);
        }
    }
}
