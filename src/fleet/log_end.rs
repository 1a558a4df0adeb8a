//! Whether a log of one partition has been read as far as it reached when reading began.
//!
//! By position, never by the last record and never by a fetch that came back empty: transaction markers and compaction
//! leave gaps at the end of a log, and a log that grows all the time has no empty fetch.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

/// The ends of a log's one partition as they were at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnd {
    first: i64,
    next: i64,
}

impl LogEnd {
    /// Asks the leader of the partition.
    pub(crate) fn of<C>(consumer: &BaseConsumer<C>, topic: &str, limit: Duration) -> Result<Self, KafkaError>
    where
        C: ClientContext + ConsumerContext,
    {
        let (first, next) = consumer.fetch_watermarks(topic, 0, limit)?;
        Ok(Self { first, next })
    }

    /// The offset that the next record would have got.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// Whether the consumer has handed out everything before it, markers of transactions included.
    pub(crate) fn is_reached<C>(&self, consumer: &BaseConsumer<C>, topic: &str) -> Result<bool, KafkaError>
    where
        C: ClientContext + ConsumerContext,
    {
        let positions = consumer.position()?;
        Ok(self.is_at(positions.find_partition(topic, 0).map(|element| element.offset())))
    }

    fn is_at(&self, position: Option<Offset>) -> bool {
        let read = matches!(position, Some(Offset::Offset(position)) if position >= self.next);
        read || self.next <= self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_a_position_and_no_record() {
        let end = LogEnd { first: 3, next: 10 };
        let at = |position| end.is_at(Some(Offset::Offset(position)));
        assert_eq!([3, 9, 10, 12].map(at), [false, false, true, true]);
        assert!(!end.is_at(None) && !end.is_at(Some(Offset::Invalid)), "nothing was read yet");
        assert!(LogEnd { first: 10, next: 10 }.is_at(None), "nothing is there to be read");
    }
}
