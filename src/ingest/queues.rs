//! A queue for every partition, apart from the one of rebalances and errors, so that both can be served at their own pace.
//!
//! Pausing partitions is no way to hold frames back: librdkafka throws away what it has fetched, and notices a resume only
//! when its broker thread looks up next, up to a second later. A queue that is not polled fills up to librdkafka's own
//! limits, and fetching goes on by itself as it empties.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;

use super::groups::Groups;

/// The queues of the assigned partitions, served in turn: no partition waits for another's backlog.
pub(super) struct Queues {
    consumer: Arc<BaseConsumer<Groups>>,
    topic: String,
    partitions: Vec<Partition>,
    /// Where the next round begins.
    next: Cell<usize>,
}

struct Partition {
    id: i32,
    queue: PartitionQueue<Groups>,
    /// Not served for now.
    held: bool,
}

impl Queues {
    pub(super) fn new(consumer: Arc<BaseConsumer<Groups>>, topic: &str) -> Self {
        Self { consumer, topic: topic.into(), partitions: Vec::new(), next: Cell::new(0) }
    }

    /// Makes the queues those of the `assigned` partitions. Whenever one of them gets its first record, the thread that called
    /// this is unparked.
    pub(super) fn follow(&mut self, assigned: &[i32]) {
        let gone = self.partitions.extract_if(.., |partition| !assigned.contains(&partition.id));
        // What lies in the queue of a partition that went would lie there until it comes back.
        gone.for_each(|gone| while gone.queue.poll(Duration::ZERO).is_some() {});
        for id in assigned {
            if self.partitions.iter().any(|partition| partition.id == *id) {
                continue;
            }
            // Without a queue of its own a partition's records come with the rebalances, and are taken there.
            if let Some(mut queue) = self.consumer.split_partition_queue(&self.topic, *id) {
                let waits = std::thread::current();
                queue.set_nonempty_callback(move || waits.unpark());
                self.partitions.push(Partition { id: *id, queue, held: false });
            }
        }
    }

    /// The next record or error and its partition, each partition in turn; none if there is none now.
    pub(super) fn poll(&self) -> Option<(i32, KafkaResult<BorrowedMessage<'_>>)> {
        let (count, first) = (self.partitions.len(), self.next.get());
        for step in 0..count {
            let at = (first + step) % count;
            if let Some(partition) = self.partitions.get(at).filter(|partition| !partition.held)
                && let Some(polled) = partition.queue.poll(Duration::ZERO)
            {
                self.next.set(at + 1);
                return Some((partition.id, polled));
            }
        }
        None
    }

    /// Serves a partition no more, or again. False if it has no queue, or that is so already.
    pub(super) fn hold(&mut self, id: i32, hold: bool) -> bool {
        let partition = self.partitions.iter_mut().find(|partition| partition.id == id && partition.held != hold);
        partition.map(|partition| partition.held = hold).is_some()
    }

    /// How many partitions have a queue.
    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }
}
