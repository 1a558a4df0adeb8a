//! 1 · Frames from Kafka: one thread polls, keeps the ledger of offsets, pauses when the worker is full.
//!
//! A `BaseConsumer` is polled by its own thread (a `StreamConsumer` can lose a wake-up for minutes), and polling never
//! stops, not even when paused: a member that does not poll loses its partitions.

mod offsets;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

pub use offsets::{Ledger, Ticket};

use crate::frame::{Origin, RawFrame};
use crate::kafka::{self, Consequence};
use crate::observe::depth::Depth;
use crate::observe::health::Heartbeat;
use crate::observe::metrics::{Queue, Rebalance as Kind, TICK};
use crate::observe::telemetry::Telemetry;

const POLL: Duration = Duration::from_millis(50);
/// Resumed only when this share of the limit is left: `pause` throws the prefetch away, so it must not flap.
const RESUME_SHARE: f64 = 0.5;

/// A frame taken from Kafka with the right to finish it.
#[derive(Debug)]
pub struct Taken {
    /// The record.
    pub frame: RawFrame,
    /// The right to finish its offset.
    pub ticket: Ticket,
    /// When it arrived in this worker.
    pub arrived: Instant,
}

/// A frame that waits for a lane.
#[derive(Debug)]
pub struct Queued {
    taken: Taken,
    waits: Depth,
}

impl Queued {
    /// From now on it waits.
    #[must_use]
    pub fn new(taken: Taken, telemetry: &Telemetry) -> Self {
        Self { taken, waits: telemetry.waits(Queue::Lanes) }
    }

    /// Its batch begins.
    #[must_use]
    pub fn start(self) -> Taken {
        drop(self.waits);
        self.taken
    }
}

/// Input failed for good.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The consumer could not be made or subscribed.
    #[error("cannot consume {topic}: {source}")]
    Start {
        /// The frames topic.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// An error that waiting does not cure.
    #[error("consuming {topic} failed for good: {source}")]
    Fatal {
        /// The frames topic.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
}

/// What the consumer thread needs.
#[derive(Debug)]
pub struct Ingest {
    /// Client settings.
    pub client: ClientConfig,
    /// The frames topic.
    pub topic: String,
    /// Frames in flight at which partitions are paused.
    pub in_flight_max: usize,
    /// Between two commits.
    pub commit_interval: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// The ledger, shared with nobody but the tickets and the status.
    pub ledger: Ledger,
    /// Counters and gauges.
    pub telemetry: Arc<Telemetry>,
}

impl Ingest {
    /// Consumes until `stop`, then drains: no more frames are taken, and what was taken is committed as it finishes.
    ///
    /// Returns when everything is committed or the drain timeout has passed; dropping `frames` then ends the lanes.
    ///
    /// # Errors
    /// When the consumer cannot be made, or Kafka says what cannot be cured by waiting.
    pub fn run(self, frames: Sender<Queued>, stop: &AtomicBool) -> Result<(), IngestError> {
        let context =
            Groups { ledger: self.ledger.clone(), topic: self.topic.clone(), telemetry: Arc::clone(&self.telemetry) };
        let start = |source| IngestError::Start { topic: self.topic.clone(), source };
        let consumer: BaseConsumer<Groups> = self.client.create_with_context(context).map_err(start)?;
        consumer.subscribe(&[&self.topic]).map_err(start)?;
        let mut state = Loop {
            ingest: &self,
            consumer,
            topic: Arc::from(self.topic.as_str()),
            paused: None,
            committed: Instant::now(),
            heartbeat: self.telemetry.heartbeat("ingest"),
            ticked: Instant::now(),
        };
        while !stop.load(Ordering::Acquire) {
            state.heartbeat.beat(Instant::now());
            state.throttle();
            state.keep_house();
            state.commit_if_due();
            if let Some(taken) = state.poll()? {
                // Lanes end only after this thread, unless one failed; then the worker stops and so do we.
                if frames.send(Queued::new(taken, &self.telemetry)).is_err() {
                    break;
                }
            }
        }
        drop(frames);
        state.drain();
        Ok(())
    }
}

struct Loop<'a> {
    ingest: &'a Ingest,
    consumer: BaseConsumer<Groups>,
    topic: Arc<str>,
    /// The partitions that were paused, if any.
    paused: Option<Vec<i32>>,
    committed: Instant,
    heartbeat: Heartbeat,
    ticked: Instant,
}

impl Loop<'_> {
    fn poll(&mut self) -> Result<Option<Taken>, IngestError> {
        match self.consumer.poll(POLL) {
            None => Ok(None),
            Some(Ok(message)) => Ok(self.take(&message)),
            Some(Err(source)) if kafka::consequence(&source) == Consequence::Stop => {
                Err(IngestError::Fatal { topic: self.topic.to_string(), source })
            }
            Some(Err(error)) => {
                kafka::log_polled(&self.topic, &error);
                Ok(None)
            }
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>) -> Option<Taken> {
        let ticket = self.ingest.ledger.take(message.partition(), message.offset())?;
        self.ingest.telemetry.received();
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
        });
        let origin =
            Origin { topic: Arc::clone(&self.topic), partition: message.partition(), offset: message.offset() };
        let frame = RawFrame {
            origin,
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            captured_at_ms: message.timestamp().to_millis(),
            headers,
        };
        Some(Taken { frame, ticket, arrived: Instant::now() })
    }

    fn keep_house(&mut self) {
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.ingest.telemetry.tick();
        }
    }

    /// Pauses all partitions when the worker is full and resumes them when half of the room is free again.
    fn throttle(&mut self) {
        let in_flight = self.ingest.ledger.in_flight();
        self.ingest.telemetry.in_flight(in_flight);
        let full = in_flight >= self.ingest.in_flight_max;
        let room = in_flight as f64 <= self.ingest.in_flight_max as f64 * RESUME_SHARE;
        let assigned = self.ingest.ledger.assigned();
        match &self.paused {
            None if full => self.pause(assigned),
            // Partitions that came while we were full start unpaused.
            Some(paused) if !room && *paused != assigned => self.pause(assigned),
            Some(_) if room => {
                self.paused = None;
                self.report(self.consumer.resume(&self.list(&assigned)));
            }
            _ => {}
        }
        self.ingest.telemetry.paused_partitions(self.paused.as_ref().map_or(0, Vec::len));
    }

    fn pause(&mut self, partitions: Vec<i32>) {
        self.report(self.consumer.pause(&self.list(&partitions)));
        self.paused = Some(partitions);
    }

    fn report(&self, result: KafkaResult<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, topic = %self.topic, "pausing or resuming");
        }
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    fn commit_if_due(&mut self) {
        if self.committed.elapsed() >= self.ingest.commit_interval {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.committed = Instant::now();
        let due = self.ingest.ledger.committable();
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.commit(&offsets_list(&self.topic, &due), CommitMode::Async) {
            // A rebalance is under way or the broker is away: the next round commits the same prefix or more.
            tracing::debug!(%error, "commit postponed");
            self.ingest.telemetry.commit_failed();
            self.ingest.ledger.uncommitted(&due);
        }
    }

    /// Polls without taking frames until all tickets are gone, committing on the way; then leaves the group.
    fn drain(mut self) {
        let began = Instant::now();
        let assigned = self.ingest.ledger.assigned();
        self.pause(assigned);
        while self.ingest.ledger.in_flight() > 0 && began.elapsed() < self.ingest.drain_timeout {
            self.heartbeat.beat(Instant::now());
            // Rebalances and statistics still have to be served. A frame that slips through is not taken.
            if let Some(Err(error)) = self.consumer.poll(Duration::from_millis(5)) {
                tracing::debug!(%error, "draining");
            }
            self.commit_if_due();
        }
        let left = self.ingest.ledger.in_flight();
        if left > 0 {
            tracing::warn!(left, "drain timeout: these frames will be read again by their next owner");
        }
        self.last_commit(began);
        self.consumer.unsubscribe();
        self.heartbeat.retire();
    }
}

impl Loop<'_> {
    /// Commits everything that was finished, and waits for the broker's word; what passes (a rebalance, a coordinator
    /// that moves) is tried again until the drain timeout.
    fn last_commit(&self, began: Instant) {
        loop {
            // Asked anew each time: partitions that are lost meanwhile are no longer ours to commit.
            let finished = self.ingest.ledger.finished();
            if finished.is_empty() {
                return;
            }
            let Err(error) = self.consumer.commit(&offsets_list(&self.topic, &finished), CommitMode::Sync) else {
                return;
            };
            self.ingest.telemetry.commit_failed();
            if began.elapsed() >= self.ingest.drain_timeout {
                tracing::warn!(%error, "last commit failed: some frames will be answered twice");
                return;
            }
            if let Some(Err(error)) = self.consumer.poll(POLL) {
                tracing::debug!(%error, "draining");
            }
        }
    }
}

fn offsets_list(topic: &str, offsets: &[(i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        // Fails only for offsets that are no offset; the ledger holds real ones.
        if let Err(error) = list.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
            tracing::error!(%error, partition, offset, "offset cannot be committed");
        }
    }
    list
}

/// Reacts to rebalances and statistics inside `poll`.
struct Groups {
    ledger: Ledger,
    topic: String,
    telemetry: Arc<Telemetry>,
}

impl ClientContext for Groups {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.telemetry.broker(false);
        }
        kafka::log_error("frames", &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.telemetry.broker(true);
        }
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (id, partition) in &topic.partitions {
            // An asynchronous commit that fails tells nobody (rdkafka sets no callback of librdkafka's for it), so what
            // librdkafka saw acknowledged is the only witness.
            if self.ledger.confirm(*id, partition.committed_offset) {
                tracing::warn!(topic = self.topic, partition = *id, "a commit did not arrive and is made again");
                self.telemetry.commit_failed();
            }
            if *id >= 0 && partition.consumer_lag >= 0 {
                self.telemetry.lag(&self.topic, *id, partition.consumer_lag);
            }
        }
    }
}

impl ConsumerContext for Groups {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // Cooperative events carry only what comes or goes.
            Rebalance::Assign(list) => {
                for element in list.elements() {
                    self.ledger.assign(element.partition());
                }
            }
            Rebalance::Revoke(list) => {
                // librdkafka remembers a pause across assignments: it would come back paused, and nobody would know.
                if let Err(error) = consumer.resume(list) {
                    tracing::debug!(%error, "resuming what is revoked");
                }
                let revoked: Vec<i32> = list.elements().iter().map(TopicPartitionListElem::partition).collect();
                let due: Vec<(i32, i64)> =
                    revoked.iter().filter_map(|id| Some((*id, self.ledger.revoke(*id)?))).collect();
                if due.is_empty() || consumer.assignment_lost() {
                    return;
                }
                if let Err(error) = consumer.commit(&offsets_list(&self.topic, &due), CommitMode::Sync) {
                    tracing::warn!(%error, "last commit of revoked partitions failed: some frames will be answered twice");
                    self.telemetry.commit_failed();
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let kind = match rebalance {
            Rebalance::Assign(_) => Kind::Assign,
            Rebalance::Revoke(_) => Kind::Revoke,
            Rebalance::Error(_) => Kind::Error,
        };
        let assigned = self.ledger.assigned();
        tracing::info!(kind = kind.as_str(), ?assigned, "rebalanced");
        self.telemetry.rebalanced(kind, &self.topic, &assigned);
    }
}
