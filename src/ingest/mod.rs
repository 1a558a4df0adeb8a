//! 1 · Frames from Kafka: one thread polls, keeps the ledger of offsets, and hands over what there is room for.
//!
//! A `BaseConsumer` is polled by its own thread (a `StreamConsumer` can lose a wake-up for minutes), and polling never
//! stops: a member that does not poll loses its partitions. Frames come through queues of their own, which are polled only
//! while the worker has room for another; what is not polled waits in librdkafka's bounded prefetch, or in Kafka.

mod groups;
mod obstacles;
mod offsets;
mod queues;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use groups::Groups;
use obstacles::Obstacles;
pub use offsets::{Ledger, Limits, Ticket};
use queues::Queues;

use crate::frame::{Origin, RawFrame};
use crate::kafka::{self, Clients, Consequence, Stretch, offsets_list};
use crate::observe::depth::Depth;
use crate::observe::health::Heartbeat;
use crate::observe::metrics::{Loss, Queue, TICK};
use crate::observe::telemetry::Telemetry;

/// How long rebalances, commits and the end may wait while nothing comes or nothing goes.
const POLL: Duration = Duration::from_millis(50);
/// Frames handed over between two looks at them while all goes well.
const ROUND: usize = 64;

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
    /// Makes the consumer.
    pub clients: Clients,
    /// The frames topic.
    pub topic: String,
    /// What may be in flight.
    pub limits: Limits,
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
        let heartbeat = self.telemetry.heartbeat("ingest");
        let Some(partitions) = self.partitions(stop, &heartbeat)? else { return Ok(()) };
        let consumer = Arc::new(self.consumer(partitions).map_err(|source| self.start(source))?);
        let mut state = Loop {
            ingest: &self,
            obstacles: Obstacles::new(self.clients.frames(partitions), Arc::from(self.topic.as_str())),
            topic: Arc::from(self.topic.as_str()),
            queues: Queues::new(Arc::clone(&consumer), &self.topic),
            consumer,
            early: VecDeque::new(),
            waiting: None,
            committed: Instant::now(),
            heartbeat,
            ticked: Instant::now(),
        };
        while !stop.load(Ordering::Acquire) {
            state.keep_house();
            state.serve()?;
            state.pass_obstacles()?;
            state.commit_if_due();
            // Lanes end only after this thread, unless one failed; then the worker stops and so do we.
            if !state.hand_over(&frames)? {
                break;
            }
        }
        drop(frames);
        state.drain();
        Ok(())
    }

    /// How many partitions the topic has, as soon as a broker says so: without that there is nothing to consume. None when
    /// the worker was stopped before.
    fn partitions(&self, stop: &AtomicBool, heartbeat: &Heartbeat) -> Result<Option<usize>, IngestError> {
        while !stop.load(Ordering::Acquire) {
            heartbeat.beat(Instant::now());
            match self.clients.partitions(&self.topic) {
                Ok(partitions) => return Ok(Some(partitions)),
                Err(source) if kafka::consequence(&source) == Consequence::Stop => return Err(self.start(source)),
                Err(error) => kafka::log_polled(&self.topic, &error),
            }
        }
        Ok(None)
    }

    fn consumer(&self, partitions: usize) -> KafkaResult<BaseConsumer<Groups>> {
        let context = Groups::new(self.ledger.clone(), &self.topic, Arc::clone(&self.telemetry));
        let mut consumer: BaseConsumer<Groups> = self.clients.frames(partitions).create_with_context(context)?;
        let waits = std::thread::current();
        consumer.set_nonempty_callback(move || waits.unpark());
        consumer.subscribe(&[&self.topic])?;
        Ok(consumer)
    }

    fn start(&self, source: KafkaError) -> IngestError {
        IngestError::Start { topic: self.topic.clone(), source }
    }
}

struct Loop<'a> {
    ingest: &'a Ingest,
    topic: Arc<str>,
    obstacles: Obstacles,
    queues: Queues,
    /// Goes after the queues, so that it is closed here and not in one of them.
    consumer: Arc<BaseConsumer<Groups>>,
    /// Frames that came before their partition had a queue of its own; none are polled while there are any.
    early: VecDeque<Queued>,
    /// A frame that found the lanes' queue full.
    waiting: Option<Queued>,
    committed: Instant,
    heartbeat: Heartbeat,
    ticked: Instant,
}

/// What the queues of the partitions gave.
enum Next {
    Frame(Queued),
    /// A record that is not ours any more, or an error that passes.
    Skip,
    /// No room, or nothing there.
    Nothing,
}

impl Loop<'_> {
    /// Serves what comes beside the frames: rebalances, statistics, errors of the client. Never waits.
    fn serve(&mut self) -> Result<(), IngestError> {
        while let Some(polled) = self.consumer.poll(Duration::ZERO) {
            match polled {
                Ok(message) => self.early.extend(self.queued(&message)),
                Err(error) => self.report(error)?,
            }
        }
        if self.consumer.context().moved() {
            self.queues.follow(&self.ingest.ledger.assigned());
        }
        Ok(())
    }

    /// Hands frames to the lanes, a round of them or as many as there are. Where none is or there is no room it waits for a
    /// change, at most [`POLL`]. False when the lanes are gone.
    fn hand_over(&mut self, frames: &Sender<Queued>) -> Result<bool, IngestError> {
        for _ in 0..ROUND {
            let queued = match self.next()? {
                Next::Frame(queued) => queued,
                Next::Skip => continue,
                Next::Nothing => break,
            };
            match frames.send_timeout(queued, POLL) {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(queued)) => {
                    self.waiting = Some(queued);
                    break;
                }
                Err(SendTimeoutError::Disconnected(_)) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn next(&mut self) -> Result<Next, IngestError> {
        if let Some(queued) = self.waiting.take() {
            return Ok(Next::Frame(queued));
        }
        if !self.ingest.ledger.wait_for_room(&self.ingest.limits, POLL) {
            return Ok(Next::Nothing);
        }
        if let Some(queued) = self.early.pop_front() {
            return Ok(Next::Frame(queued));
        }
        let Some((partition, polled)) = self.queues.poll() else {
            std::thread::park_timeout(POLL);
            return Ok(Next::Nothing);
        };
        match polled {
            Ok(message) => return Ok(self.queued(&message).map_or(Next::Skip, Next::Frame)),
            Err(error) if kafka::is_unreadable(&error) => self.hold(partition, &error),
            Err(error) => self.report(error)?,
        }
        Ok(Next::Skip)
    }

    /// Stops a worker for an error that waiting does not cure, writes any other.
    fn report(&self, error: KafkaError) -> Result<(), IngestError> {
        if kafka::consequence(&error) == Consequence::Stop {
            return Err(IngestError::Fatal { topic: self.topic.to_string(), source: error });
        }
        kafka::log_polled(&self.topic, &error);
        Ok(())
    }

    /// What stands next in a partition cannot be read: it is not asked for any more until there is a way past it.
    fn hold(&mut self, partition: i32, error: &KafkaError) {
        tracing::warn!(topic = %self.topic, partition, %error, "records cannot be read; looking for those behind them");
        self.queues.hold(partition, true);
        let held = self.consumer.pause(&self.list(partition));
        let held = held.map_err(|error| error.to_string());
        let next = self.ingest.ledger.next(partition);
        if let Err(error) = held.and_then(|()| self.obstacles.search(partition, next).map_err(|e| e.to_string())) {
            tracing::warn!(error, partition, "cannot look now");
            self.release(partition, None);
        }
    }

    /// Goes on behind what cannot be read, where the way past it was found.
    fn pass_obstacles(&mut self) -> Result<(), IngestError> {
        for (partition, found) in self.obstacles.found() {
            match found {
                Ok(stretch) => self.release(partition, stretch),
                Err(error) => {
                    self.report(error)?;
                    self.release(partition, None);
                }
            }
        }
        Ok(())
    }

    /// Serves a partition again, behind `stretch`. Without one it meets the same error once more, and looks again.
    fn release(&mut self, partition: i32, stretch: Option<Stretch>) {
        // A partition that was revoked meanwhile, and perhaps came back, is read as if nothing had been.
        if !self.queues.hold(partition, false) {
            return;
        }
        let passed = stretch.map_or(Ok(()), |Stretch { to, .. }| {
            self.consumer.seek(&self.topic, partition, Offset::Offset(to), Duration::ZERO)
        });
        if let Err(error) = passed.clone().and(self.consumer.resume(&self.list(partition))) {
            tracing::warn!(%error, partition, "going on behind what cannot be read");
        }
        if let (Ok(()), Some(Stretch { from, to })) = (passed, stretch)
            && from < to
        {
            tracing::error!(topic = %self.topic, partition, from, to = to - 1, "records passed over: their batch is broken");
            self.ingest.telemetry.lost(Loss::Unreadable, (to - from).unsigned_abs());
            self.ingest.ledger.pass_over(partition, to);
        }
    }

    fn list(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }

    fn queued(&self, message: &BorrowedMessage<'_>) -> Option<Queued> {
        self.frame(message).map(|taken| Queued::new(taken, &self.ingest.telemetry))
    }

    fn frame(&self, message: &BorrowedMessage<'_>) -> Option<Taken> {
        let kafka::Headers { kept: headers, left_out: headers_left_out } = kafka::headers(message);
        let origin =
            Origin { topic: Arc::clone(&self.topic), partition: message.partition(), offset: message.offset() };
        let frame = RawFrame {
            origin,
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            captured_at_ms: message.timestamp().to_millis(),
            headers,
            headers_left_out,
        };
        let ticket = self.ingest.ledger.take(message.partition(), message.offset(), frame.bytes())?;
        self.ingest.telemetry.received();
        Some(Taken { frame, ticket, arrived: Instant::now() })
    }

    fn keep_house(&mut self) {
        self.heartbeat.beat(Instant::now());
        let (frames, bytes) = self.ingest.ledger.in_flight();
        self.ingest.telemetry.in_flight(frames, bytes);
        let full = self.waiting.is_some() || !self.ingest.limits.admit(frames, bytes);
        self.ingest.telemetry.paused_partitions(if full { self.queues.len() } else { 0 });
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.ingest.telemetry.tick();
        }
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

    /// Takes no more frames and waits until all tickets are gone, committing on the way; then leaves the group.
    fn drain(mut self) {
        let began = Instant::now();
        // What no lane has seen is read again by the next owner.
        self.waiting = None;
        self.early.clear();
        while self.ingest.ledger.in_flight().0 > 0 && began.elapsed() < self.ingest.drain_timeout {
            self.heartbeat.beat(Instant::now());
            // Rebalances and statistics still have to be served. A frame that slips through is not taken.
            if let Some(Err(error)) = self.consumer.poll(Duration::from_millis(5)) {
                tracing::debug!(%error, "draining");
            }
            self.commit_if_due();
        }
        let left = self.ingest.ledger.in_flight().0;
        if left > 0 {
            tracing::warn!(left, "drain timeout: these frames will be read again by their next owner");
        }
        self.last_commit(began);
        self.queues.follow(&[]);
        self.consumer.unsubscribe();
        self.heartbeat.retire();
    }

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
