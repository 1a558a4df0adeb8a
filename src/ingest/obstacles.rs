//! Partitions that stand before records that cannot be read: they are held, a way past is looked for, and what lies between
//! is counted and told with its offsets. No record stops a worker, and none is asked for without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};

use crate::kafka::{self, Stretch};

/// The searches under way, one for each partition that is held.
pub(super) struct Obstacles {
    client: ClientConfig,
    topic: Arc<str>,
    stop: Arc<AtomicBool>,
    searches: Vec<Search>,
}

struct Search {
    partition: i32,
    thread: JoinHandle<KafkaResult<Option<Stretch>>>,
}

impl Obstacles {
    /// `client` makes a consumer of the frames' group, which is only asked for offsets and never joins.
    pub(super) fn new(client: ClientConfig, topic: Arc<str>) -> Self {
        Self { client, topic, stop: Arc::default(), searches: Vec::new() }
    }

    /// Looks for the way past what stands at `from`; none: at the partition's committed offset.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn search(&mut self, partition: i32, from: Option<i64>) -> std::io::Result<()> {
        let (client, topic, stop) = (self.client.clone(), Arc::clone(&self.topic), Arc::clone(&self.stop));
        let look = move || kafka::unreadable(&client, &topic, partition, from, &stop);
        let thread = std::thread::Builder::new().name(format!("passage-{partition}")).spawn(look)?;
        self.searches.push(Search { partition, thread });
        Ok(())
    }

    /// The searches that have ended, by partition. None in the place of a stretch: it was stopped.
    pub(super) fn found(&mut self) -> Vec<(i32, KafkaResult<Option<Stretch>>)> {
        let ended = self.searches.extract_if(.., |search| search.thread.is_finished());
        let join = |search: Search| (search.partition, search.thread.join().unwrap_or(Err(KafkaError::Canceled)));
        ended.map(join).collect()
    }
}

impl Drop for Obstacles {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
