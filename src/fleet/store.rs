//! The compacted topic of heads, read: to its end before the first frame, then followed.
//!
//! The reader has no group and commits nothing. "To its end" means to the position at which the topic ended when reading
//! began ([`LogEnd`]), or the end of what there is, whichever comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::log_end::LogEnd;
use crate::heads::{Accepted, HeadSet, Registry};
use crate::kafka::{Consequence, Quiet, REQUEST_TIMEOUT, consequence, log_polled};
use crate::observe::telemetry::Telemetry;

const POLL: Duration = Duration::from_millis(100);

/// The heads topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// librdkafka refused or failed for good.
    #[error("cannot read {topic}: {source}")]
    Kafka {
        /// The heads topic.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// The end was not reached in time.
    #[error("{topic} was not read to its end in {seconds} s; check the broker, or raise heads.catch_up_timeout_s")]
    Timeout {
        /// The heads topic.
        topic: String,
        /// The limit.
        seconds: u64,
    },
}

/// Something that the topic showed.
#[derive(Debug)]
enum Event<T> {
    Record(T),
    End,
    Nothing,
}

/// One record of the topic as it stands there, unchecked.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; none: a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its offset.
    pub offset: i64,
    /// When it was written, milliseconds since the Unix epoch.
    pub written_at_ms: Option<i64>,
}

/// Reads the one partition from its beginning.
struct Reader {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

impl Reader {
    fn open(client: &mut ClientConfig, topic: &str) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Kafka { topic: topic.into(), source };
        client.set("enable.partition.eof", "true");
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(failed)?;
        let mut start = TopicPartitionList::new();
        start.add_partition_offset(topic, 0, Offset::Beginning).map_err(failed)?;
        consumer.assign(&start).map_err(failed)?;
        Ok(Self { consumer, topic: topic.into() })
    }

    fn poll(&self) -> Result<Event<Record>, StoreError> {
        match self.consumer.poll(POLL) {
            None => Ok(Event::Nothing),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Event::End),
            Some(Err(source)) if consequence(&source) == Consequence::Stop => {
                Err(StoreError::Kafka { topic: self.topic.clone(), source })
            }
            Some(Err(error)) => {
                log_polled(&self.topic, &error);
                Ok(Event::Nothing)
            }
            Some(Ok(message)) => Ok(Event::Record(Record {
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().map(<[u8]>::to_vec),
                offset: message.offset(),
                written_at_ms: message.timestamp().to_millis(),
            })),
        }
    }

    /// Reads until the end of the partition, handing over each record.
    fn to_end(&self, limit: Duration, mut take: impl FnMut(Record)) -> Result<(), StoreError> {
        let failed = |source| StoreError::Kafka { topic: self.topic.clone(), source };
        let (began, mut end) = (Instant::now(), None);
        while began.elapsed() < limit {
            // Nobody may answer yet; polling goes on meanwhile, which tells what is for good.
            let asked =
                || LogEnd::of(&self.consumer, &self.topic, REQUEST_TIMEOUT.min(limit.saturating_sub(began.elapsed())));
            let known = end.get_or_insert_with(asked);
            match known {
                Ok(end) if end.is_reached(&self.consumer, &self.topic).map_err(failed)? => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    log_polled(&self.topic, error);
                    end = None;
                }
            }
            match self.poll()? {
                Event::Record(record) => take(record),
                Event::End => return Ok(()),
                Event::Nothing => {}
            }
        }
        Err(StoreError::Timeout { topic: self.topic.clone(), seconds: limit.as_secs() })
    }
}

/// Everything that the topic holds now, oldest first.
///
/// # Errors
/// When the end is not reached within `limit`, or reading fails for good.
pub fn read_all(client: &mut ClientConfig, topic: &str, limit: Duration) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    Reader::open(client, topic)?.to_end(limit, |record| records.push(record))?;
    Ok(records)
}

/// What this worker knows to be in force; shared with the learner, who goes on from it.
#[derive(Debug, Default)]
pub struct Learned {
    heads: ArcSwap<HeadSet>,
    high_water: AtomicU64,
}

impl Learned {
    /// Heads and policy in force.
    #[must_use]
    pub fn heads(&self) -> Arc<HeadSet> {
        self.heads.load_full()
    }

    /// The highest sequence number seen in any checked record.
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.high_water.load(Ordering::Acquire)
    }
}

/// The topic as a worker reads it: every record checked, complete policies handed over.
pub struct HeadStore {
    reader: Reader,
    registry: Registry,
    learned: Arc<Learned>,
    telemetry: Arc<Telemetry>,
}

impl std::fmt::Debug for HeadStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeadStore").field("topic", &self.reader.topic).finish_non_exhaustive()
    }
}

impl HeadStore {
    /// Starts reading `topic` at its beginning.
    ///
    /// # Errors
    /// When the consumer's settings are refused.
    pub fn open(
        client: &mut ClientConfig,
        topic: &str,
        registry: Registry,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, StoreError> {
        Ok(Self { reader: Reader::open(client, topic)?, registry, learned: Arc::default(), telemetry })
    }

    /// What is in force, kept up to date by [`HeadStore::follow`].
    #[must_use]
    pub fn learned(&self) -> Arc<Learned> {
        Arc::clone(&self.learned)
    }

    /// Reads to the end of the topic and returns the newest complete policy; an empty one where nothing was learned.
    ///
    /// # Errors
    /// When the end is not reached within `limit`, or reading fails for good.
    pub fn catch_up(&mut self, limit: Duration) -> Result<Arc<HeadSet>, StoreError> {
        let Self { reader, registry, telemetry, learned } = self;
        reader.to_end(limit, |record| {
            if let Some(heads) = accept(registry, telemetry, &record) {
                learned.heads.store(heads);
            }
        })?;
        learned.high_water.store(registry.high_water(), Ordering::Release);
        Ok(learned.heads())
    }

    /// Follows the topic until `stop`, handing over each newer complete policy; it is in force when `adopt` says so.
    ///
    /// # Errors
    /// When reading fails for good.
    pub fn follow(mut self, stop: &AtomicBool, mut adopt: impl FnMut(&Arc<HeadSet>) -> bool) -> Result<(), StoreError> {
        while !stop.load(Ordering::Acquire) {
            let Event::Record(record) = self.reader.poll()? else { continue };
            let newer = accept(&mut self.registry, &self.telemetry, &record);
            self.learned.high_water.store(self.registry.high_water(), Ordering::Release);
            if let Some(heads) = newer.filter(&mut adopt) {
                self.learned.heads.store(heads);
            }
        }
        Ok(())
    }
}

/// Checks one record and counts what became of it.
fn accept(registry: &mut Registry, telemetry: &Telemetry, record: &Record) -> Option<Arc<HeadSet>> {
    let (outcome, reason, adopted) = match registry.accept(&record.key, record.value.as_deref()) {
        Ok(Accepted::Adopt(heads)) => ("adopted", "", Some(heads)),
        Ok(Accepted::TooLoose(heads)) => {
            let policy = heads.version();
            tracing::warn!(
                policy,
                "certified for a looser promise than exits.epsilon and exits.delta: its exits stay off"
            );
            ("rejected", "promise", Some(heads))
        }
        Ok(Accepted::Stored) => ("stored", "", None),
        Ok(Accepted::Foreign) => ("foreign", "", None),
        Ok(Accepted::Newer) => ("newer", "", None),
        Err(rejection) => {
            let (offset, reason) = (record.offset, rejection.as_str());
            tracing::warn!(offset, reason, "snapshot ignored: {rejection}");
            ("rejected", reason, None)
        }
    };
    telemetry.snapshot(outcome, reason);
    adopted
}
