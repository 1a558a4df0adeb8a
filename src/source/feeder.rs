//! Plays the cameras: puts pictures into a Kafka topic, keyed by camera, at a rate or as fast as Kafka takes them.
//!
//! The producer's queue is small and a full queue is back-pressure. Runs on the caller's thread, which also serves the
//! delivery reports; sleeps nowhere but in the client's own poll.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::{Picture, SourceError};

/// How long one wait for delivery reports lasts before the stop flag is looked at again.
const SLICE: Duration = Duration::from_millis(50);
/// How long Kafka may take to answer at all.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long frames that were handed over may take to be acknowledged at the end.
const FLUSH_MAX: Duration = Duration::from_mins(1);

/// Frames per second that can be kept: from one in some minutes to more than any broker takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// Least and most.
    const RANGE: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

    /// How long after the start a frame is due that has so many before it.
    fn due(self, before: u64) -> Duration {
        Duration::try_from_secs_f64(before as f64 / self.0).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
        let (least, most) = (Self::RANGE.start(), Self::RANGE.end());
        if Self::RANGE.contains(&rate) { Ok(Self(rate)) } else { Err(format!("must be from {least} to {most}")) }
    }
}

/// Where and how to feed.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// Kafka's `host:port[,host:port]`.
    pub bootstrap: String,
    /// The topic for the frames; it must exist, unless the broker creates topics by itself.
    pub topic: String,
    /// How many cameras to play; frames go to `camera-1`, `camera-2`, … in turn. At least one.
    pub cameras: u32,
    /// Frames per second of all cameras together; `None`: as fast as Kafka takes them.
    pub rate: Option<Rate>,
    /// librdkafka settings over the feeder's own.
    pub kafka: Vec<(String, String)>,
}

/// How far the feeding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedProgress {
    /// Frames handed to the client.
    pub sent: u64,
    /// Frames that Kafka acknowledged.
    pub delivered: u64,
    /// Frames that Kafka refused, or that were too large to send.
    pub failed: u64,
    /// Bytes of the frames handed over.
    pub bytes: u64,
}

/// The caller's word before each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Send it.
    Go,
    /// Hold it back and ask again soon: whoever reads the topic is behind.
    Wait,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedReport {
    /// The final numbers.
    pub progress: FeedProgress,
    /// From the first frame to the last acknowledgement.
    pub elapsed: Duration,
    /// Why the first frame that failed did.
    pub first_failure: Option<String>,
    /// Whether the stop flag ended it.
    pub stopped: bool,
}

/// Feeding cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A setting is refused.
    #[error("Kafka settings are refused: {0}; check --set-kafka")]
    Config(#[source] KafkaError),
    /// Nobody answers.
    #[error("no Kafka broker answers at {bootstrap} ({reason}); start one or check --bootstrap")]
    Unreachable {
        /// As given.
        bootstrap: String,
        /// The client's words.
        reason: String,
    },
    /// The topic is not there.
    #[error(
        "topic {topic:?} does not exist at {bootstrap} ({reason}); create it, for example with `offramp topics create`"
    )]
    NoTopic {
        /// As given.
        topic: String,
        /// As given.
        bootstrap: String,
        /// Kafka's words.
        reason: String,
    },
    /// The client gave up for good.
    #[error("the Kafka client failed: {0}")]
    Client(#[source] KafkaError),
    /// The frames cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Counts delivery reports.
#[derive(Debug, Clone, Default)]
struct Deliveries(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: std::sync::OnceLock<String>,
    last_error: std::sync::Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        let mut last = self.0.last_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = Some(reason.to_owned());
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        match result {
            Ok(_) => {
                self.0.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => self.0.fail(error.to_string()),
        }
    }
}

impl Counts {
    fn fail(&self, reason: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        // Only the first reason is kept.
        drop(self.first_failure.set(reason));
    }
}

/// Feeds pictures until they end, the stop flag is set, or reading or Kafka fails for good. A frame that Kafka refuses is
/// counted and the others go on. `pace` is asked before each frame; what it holds back is not made up for afterwards.
///
/// # Errors
/// A [`FeedError`]; frames handed over before it may have been delivered.
pub fn feed(
    options: &FeedOptions,
    pictures: impl IntoIterator<Item = Result<Picture, SourceError>>,
    stop: &AtomicBool,
    mut pace: impl FnMut(&FeedProgress) -> Pace,
) -> Result<FeedReport, FeedError> {
    let feeder = Feeder::connect(options)?;
    let cameras = u64::from(options.cameras.max(1));
    let started = Instant::now();
    let mut held = Duration::ZERO;
    let (mut sent, mut bytes) = (0, 0);
    let mut outcome = Ok(());
    'frames: for picture in pictures {
        let picture = match picture {
            Ok(picture) => picture,
            Err(error) => {
                outcome = Err(error.into());
                break;
            }
        };
        let asked = Instant::now();
        while pace(&feeder.progress(sent, bytes)) == Pace::Wait {
            if stop.load(Ordering::Relaxed) {
                break 'frames;
            }
            feeder.producer.poll(SLICE / 10);
        }
        held += asked.elapsed();
        // A frame beyond the end of the clock is never due; no rate that is kept has one.
        let Some(due) = options.rate.map_or(Some(started), |rate| started.checked_add(rate.due(sent) + held)) else {
            break;
        };
        if !feeder.wait_until(due, stop) {
            break;
        }
        let camera = format!("camera-{}", sent % cameras + 1);
        outcome = feeder.send(&camera, &picture, stop);
        if outcome.is_err() {
            break;
        }
        sent += 1;
        bytes += picture.bytes.len() as u64;
    }
    // What was handed over is delivered even if reading failed: the report tells how far it got.
    feeder.flush();
    outcome?;
    pace(&feeder.progress(sent, bytes));
    Ok(FeedReport {
        progress: feeder.progress(sent, bytes),
        elapsed: started.elapsed(),
        first_failure: feeder.counts.first_failure.get().cloned(),
        stopped: stop.load(Ordering::Relaxed),
    })
}

struct Feeder<'a> {
    topic: &'a str,
    producer: BaseProducer<Deliveries>,
    counts: Arc<Counts>,
}

impl<'a> Feeder<'a> {
    fn connect(options: &'a FeedOptions) -> Result<Self, FeedError> {
        let context = Deliveries::default();
        let counts = Arc::clone(&context.0);
        let producer: BaseProducer<Deliveries> =
            config(options).create_with_context(context).map_err(FeedError::Config)?;
        let feeder = Self { topic: &options.topic, producer, counts };
        feeder.check_topic(options)?;
        Ok(feeder)
    }

    /// Asks for the topic until it has a leader; a broker that creates topics by itself needs a moment for it.
    fn check_topic(&self, options: &FeedOptions) -> Result<(), FeedError> {
        let deadline = Instant::now() + CONNECT_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(SLICE);
            let metadata = self.producer.client().fetch_metadata(Some(self.topic), left).map_err(|error| {
                let last = self.counts.last_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let reason = last.clone().unwrap_or_else(|| error.to_string());
                FeedError::Unreachable { bootstrap: options.bootstrap.clone(), reason }
            })?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
            let reason = match topic.map(|topic| (topic.error(), topic.partitions().len())) {
                Some((None, partitions)) if partitions > 0 => return Ok(()),
                Some((Some(error), _)) => RDKafkaErrorCode::from(error).to_string(),
                _ => "it has no partitions".to_owned(),
            };
            if Instant::now() >= deadline {
                let (topic, bootstrap) = (options.topic.clone(), options.bootstrap.clone());
                return Err(FeedError::NoTopic { topic, bootstrap, reason });
            }
            self.producer.poll(SLICE * 4);
        }
    }

    /// Hands one frame over; waits while the queue is full. `Ok` too if the frame itself is refused: then it is counted.
    fn send(&self, camera: &str, picture: &Picture, stop: &AtomicBool) -> Result<(), FeedError> {
        let captured_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let content_type = Header { key: "content-type", value: Some(&picture.content_type) };
        let mut record = BaseRecord::to(self.topic)
            .key(camera)
            .payload(&picture.bytes)
            .timestamp(i64::try_from(captured_ms).unwrap_or(i64::MAX))
            .headers(OwnedHeaders::new().insert(content_type));
        loop {
            match self.producer.send(record) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    record = back;
                    self.producer.poll(SLICE);
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    self.counts.fail(format!(
                        "{} has {} bytes, more than the client sends; raise --set-kafka message.max.bytes=… and the \
                         topic's max.message.bytes",
                        picture.name,
                        picture.bytes.len()
                    ));
                    return Ok(());
                }
                Err((error, _)) => return Err(FeedError::Client(error)),
            }
        }
    }

    /// Serves delivery reports until the frame is due; false if it should not be sent any more.
    fn wait_until(&self, due: Instant, stop: &AtomicBool) -> bool {
        while !stop.load(Ordering::Relaxed) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            self.producer.poll(left.min(SLICE));
        }
        false
    }

    /// Waits for the acknowledgements; what has none by then counts as failed.
    fn flush(&self) {
        let deadline = Instant::now() + FLUSH_MAX;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(SLICE);
        }
        for _ in 0..self.producer.in_flight_count() {
            self.counts.fail(format!("not acknowledged within {} s", FLUSH_MAX.as_secs()));
        }
    }

    fn progress(&self, sent: u64, bytes: u64) -> FeedProgress {
        FeedProgress {
            sent,
            delivered: self.counts.delivered.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            bytes,
        }
    }
}

/// Every setting that we rely on, said out loud.
fn config(options: &FeedOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap)
        .set("client.id", "offramp-feed")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // Frames are compressed pictures already.
        .set("compression.type", "none")
        // The same camera goes to the same partition as with Java's clients.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        // Small queues: a full one is the back-pressure.
        .set("queue.buffering.max.messages", "5000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("message.max.bytes", "10485760")
        .set("delivery.timeout.ms", "30000");
    for (key, value) in &options.kafka {
        config.set(key, value);
    }
    config
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Rate;

    proptest! {
        #[test]
        fn a_rate_can_be_kept_whatever_is_typed(bits in any::<u64>(), before in any::<u64>()) {
            let typed = f64::from_bits(bits).to_string();
            if let Ok(rate) = typed.parse::<Rate>() {
                prop_assert!(Rate::RANGE.contains(&rate.0));
                prop_assert!(rate.due(before) >= rate.due(before / 2));
            }
        }
    }

    #[test]
    fn rates_that_never_come_or_that_nothing_keeps_are_refused() {
        for wrong in ["0", "-3", "nan", "inf", "1e-300", "1e300", "fast"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        assert!("0.5".parse::<Rate>().is_ok());
    }
}
