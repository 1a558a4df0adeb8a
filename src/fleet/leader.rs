//! Who learns, and with what: the worker that Kafka assigns the one partition of the samples topic.
//!
//! Two threads. One polls Kafka, so that membership never depends on how long a training takes; the other owns the
//! [`Learner`], a budget of CPU time, and the transactional producer whose start fences an earlier learner. The learner
//! begins with an empty window and reads the samples log back: its state is a function of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::budget::{Budget, Purse};
use super::cap::Cap;
use super::inbox::{Inbox, Input};
use super::store::{self, Learned, StoreError};
use crate::heads::{HmacKey, Registry};
use crate::kafka::{Consequence, Quiet, REQUEST_TIMEOUT, consequence};
use crate::learn::{EncodeError, LearnConfig, Learner, Publication, Sample};
use crate::observe::telemetry::Telemetry;
use crate::plan::{CostTable, Plan};

const POLL: Duration = Duration::from_millis(100);
/// Samples between the two threads, some 10 to 30 kB each; above it the partition is paused. A training takes seconds, and
/// what piles up meanwhile should not wait for another fetch.
const QUEUE: usize = 8192;
/// How long a failed term waits before it stands for election again.
const BACKOFF: Duration = Duration::from_secs(10);
/// Nice value of the learning thread: frames go first.
const NICE: i32 = 10;

/// A term as the learner ended badly. The stream goes on; the next term starts over from the log.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Reading samples failed.
    #[error("reading {topic}: {source}")]
    Samples {
        /// The samples topic.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// Heads could not be written; another learner may have taken over.
    #[error("writing {topic}: {source}")]
    Heads {
        /// The heads topic.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// What was learned before cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A publication does not fit into records.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The learning thread panicked.
    #[error("the learning thread panicked")]
    Panicked,
}

/// What standing for election needs.
#[derive(Debug, Clone)]
pub struct Leader {
    /// Consumer of samples, in the learners' group.
    pub samples_client: ClientConfig,
    /// Samples topic.
    pub samples_topic: String,
    /// Transactional producer of heads.
    pub heads_client: ClientConfig,
    /// Reader of heads.
    pub reader_client: ClientConfig,
    /// Heads topic.
    pub heads_topic: String,
    /// HMAC key of snapshots.
    pub hmac_key: Option<HmacKey>,
    /// The backbone's plan.
    pub plan: Arc<Plan>,
    /// Measured costs.
    pub costs: CostTable,
    /// The promise and the learner's settings.
    pub config: LearnConfig,
    /// CPU seconds that learning may use, in this term and all others.
    pub purse: Purse,
    /// Samples a second that the whole fleet may make.
    pub samples_per_s: f64,
    /// What is in force, as the store sees it.
    pub learned: Arc<Learned>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

impl Leader {
    /// Stands for election until `stop`. A term that fails is logged and followed by another.
    pub fn run(&self, stop: &Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.term(stop) {
                tracing::warn!(%error, "learning interrupted; the stream is not affected");
                let until = Instant::now() + BACKOFF;
                while Instant::now() < until && !stop.load(Ordering::Acquire) {
                    std::thread::sleep(POLL);
                }
            }
            self.telemetry.learner(false);
        }
    }

    /// What the heads topic holds at this moment. Read after the transactions of an earlier learner are fenced: what the
    /// worker itself has adopted may lag behind, and two policies of one number would divide the fleet.
    fn read_heads(&self) -> Result<Registry, LeaderError> {
        let mut registry = Registry::new(&self.plan, self.hmac_key.clone());
        let records = store::read_all(&mut self.reader_client.clone(), &self.heads_topic, REQUEST_TIMEOUT)?;
        for record in records {
            // Refusals are counted where the topic is followed.
            if let Err(rejection) = registry.accept(&record.key, record.value.as_deref()) {
                tracing::debug!(offset = record.offset, %rejection, "snapshot ignored");
            }
        }
        Ok(registry)
    }

    /// Membership from joining the group to leaving it.
    fn term(&self, stop: &Arc<AtomicBool>) -> Result<(), LeaderError> {
        let failed = |source| LeaderError::Samples { topic: self.samples_topic.clone(), source };
        let consumer: BaseConsumer<Quiet> = self.samples_client.create_with_context(Quiet).map_err(failed)?;
        consumer.subscribe(&[&self.samples_topic]).map_err(failed)?;
        let mut seat: Option<Seat> = None;
        while !stop.load(Ordering::Acquire) {
            let record = consumer.poll(POLL);
            let elected = consumer.assignment().map_err(failed)?.count() > 0;
            match (elected, seat.is_some()) {
                (true, false) => {
                    // A seat that was lost while paused comes back paused.
                    let held = consumer.assignment().map_err(failed)?;
                    consumer.resume(&held).map_err(failed)?;
                    let (_, end) =
                        consumer.fetch_watermarks(&self.samples_topic, 0, REQUEST_TIMEOUT).map_err(failed)?;
                    seat = Some(Seat::take(self.clone(), end));
                }
                (false, true) => {
                    tracing::info!("another worker learns now");
                    seat.take().map_or(Ok(()), Seat::leave)?;
                    self.telemetry.learner(false);
                }
                _ => {}
            }
            match record {
                Some(Ok(message)) => {
                    if let (Some(seat), Some(bytes)) = (&mut seat, message.payload()) {
                        self.pass(seat, &consumer, bytes, message.offset()).map_err(failed)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if let Some(seat) = &mut seat {
                        seat.offer(&consumer, Entry::End).map_err(failed)?;
                    }
                }
                Some(Err(source)) if consequence(&source) == Consequence::Stop => return Err(failed(source)),
                Some(Err(error)) => tracing::debug!(%error, "reading samples"),
                None => {}
            }
            if let Some(seat) = &mut seat {
                if seat.thread.is_finished() {
                    break;
                }
                seat.flush(&consumer).map_err(failed)?;
            }
        }
        seat.map_or(Ok(()), Seat::leave)
    }

    fn pass(
        &self,
        seat: &mut Seat,
        consumer: &BaseConsumer<Quiet>,
        bytes: &[u8],
        offset: i64,
    ) -> Result<(), KafkaError> {
        match self.purse.pay(|| Sample::decode(&self.plan, bytes)) {
            Ok(sample) => seat.offer(consumer, Entry::Sample(Box::new(sample), offset)),
            Err(rejection) => {
                tracing::debug!(offset, "sample ignored: {rejection}");
                self.telemetry.sample_rejected(&rejection);
                Ok(())
            }
        }
    }
}

/// What the samples log showed.
enum Entry {
    /// A sample and its place.
    Sample(Box<Sample>, i64),
    /// Its present end.
    End,
}

/// The learner's seat while this worker holds it: the thread and the way to it.
struct Seat {
    thread: JoinHandle<Result<(), LeaderError>>,
    samples: Inbox<Entry>,
    over: Arc<AtomicBool>,
}

impl Seat {
    #[allow(clippy::expect_used, reason = "a panic that the supervisor hears: without a thread there is no worker")]
    fn take(leader: Leader, log_end: i64) -> Self {
        tracing::info!("this worker learns for the fleet now");
        leader.telemetry.learner(true);
        let (samples, inbox) = Inbox::new(QUEUE);
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::Builder::new()
            .name("learner".into())
            .spawn(move || learn(&leader, &inbox, &ends, log_end))
            .expect("the system has room for one more thread, or the worker could not run at all");
        Self { thread, samples, over }
    }

    fn offer(&mut self, consumer: &BaseConsumer<Quiet>, entry: Entry) -> Result<(), KafkaError> {
        steer(consumer, self.samples.offer(entry))
    }

    fn flush(&mut self, consumer: &BaseConsumer<Quiet>) -> Result<(), KafkaError> {
        steer(consumer, self.samples.flush())
    }

    fn leave(self) -> Result<(), LeaderError> {
        self.over.store(true, Ordering::Release);
        drop(self.samples);
        self.thread.join().map_err(|_| LeaderError::Panicked)?
    }
}

fn steer(consumer: &BaseConsumer<Quiet>, input: Input) -> Result<(), KafkaError> {
    match input {
        Input::Stay => Ok(()),
        Input::Pause => consumer.pause(&consumer.assignment()?),
        Input::Resume => consumer.resume(&consumer.assignment()?),
    }
}

/// The learning thread: observes what came, works when there is something to do, publishes what is certified.
fn learn(leader: &Leader, inbox: &Receiver<Entry>, over: &AtomicBool, log_end: i64) -> Result<(), LeaderError> {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the learning thread keeps the normal priority");
    }
    let failed = |source| LeaderError::Heads { topic: leader.heads_topic.clone(), source };
    let producer: BaseProducer<Quiet> = leader.heads_client.create_with_context(Quiet).map_err(failed)?;
    producer.init_transactions(REQUEST_TIMEOUT).map_err(failed)?;
    let mut learner = Learner::new(&leader.plan, leader.costs.clone(), leader.config.clone());
    let registry = leader.read_heads()?;
    learner.resume(Arc::clone(registry.adopted()), registry.high_water(), log_end);
    let mut known = leader.learned.heads().version();
    let mut budget = Budget::new(&leader.purse, over);
    // Decisions wait until the log was read back: half of the past is no ground for an alarm.
    let mut caught_up = false;
    let (mut cap, started) = (Cap::new(leader.samples_per_s, learner.audit_limit()), Instant::now());
    while !over.load(Ordering::Acquire) {
        match inbox.recv_timeout(if learner.status().training && !budget.in_debt() { Duration::ZERO } else { POLL }) {
            Ok(first) => {
                for entry in std::iter::once(first).chain(inbox.try_iter().take(QUEUE)) {
                    if let Entry::Sample(sample, _) = &entry {
                        cap.note(sample.weight(), sample.is_copy());
                    }
                    caught_up |= observe(leader, &mut learner, entry);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if caught_up {
            if let Some(share) = cap.share(started.elapsed()) {
                learner.limit_audits(share);
            }
            budget.begin();
            while let Some(publication) = budget.work(&mut learner) {
                publish(leader, &producer, &publication)?;
            }
        }
        leader.telemetry.learning(learner.status(), leader.purse.spent());
        let version = leader.learned.heads().version();
        if version == 0 && known > 0 {
            tracing::info!("what was learned has been reset: starting anew");
            break;
        }
        known = version;
    }
    Ok(())
}

/// Hands an entry to the learner; true at the end of the log.
fn observe(leader: &Leader, learner: &mut Learner, entry: Entry) -> bool {
    let Entry::Sample(sample, offset) = entry else { return true };
    if let Err(rejection) = learner.observe(*sample, offset) {
        tracing::debug!(offset, "sample ignored: {rejection}");
        leader.telemetry.sample_rejected(&rejection);
    }
    false
}

/// All records of a publication in one transaction: a reader sees the policy only together with its heads.
fn publish(leader: &Leader, producer: &BaseProducer<Quiet>, publication: &Publication) -> Result<(), LeaderError> {
    let failed = |source| LeaderError::Heads { topic: leader.heads_topic.clone(), source };
    let records = publication.records(&leader.plan, leader.hmac_key.as_ref())?;
    producer.begin_transaction().map_err(failed)?;
    for (key, value) in &records {
        let record = BaseRecord::to(&leader.heads_topic).key(key).payload(value).partition(0);
        producer.send(record).map_err(|(source, _)| failed(source))?;
    }
    producer.commit_transaction(REQUEST_TIMEOUT).map_err(failed)?;
    let state = publication.policy().state.as_str();
    tracing::info!(policy = publication.sequence(), state, records = records.len(), "published");
    Ok(())
}
