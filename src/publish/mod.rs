//! 5 · Answers into Kafka: predictions and dead letters, each holding the ticket of its frame until it is delivered.
//!
//! A ticket is finished by the delivery report and by nothing else. A report of failure drops it unfinished, raises the
//! alarm that stops the worker, and so leaves the offset uncommitted: the frame is answered after the restart.

mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

pub use samples::SampleSink;

use crate::frame::{Origin, RawFrame, RejectReason, Rejection};
use crate::ingest::Ticket;
use crate::kafka::{self, header};
use crate::observe::depth::Depth;
use crate::observe::metrics::{Queue, Stage};
use crate::observe::telemetry::Telemetry;
use crate::prediction::Prediction;

/// How long one wait for a refused answer lasts.
const ATTEND: Duration = Duration::from_millis(50);
/// A camera's id longer than this is shortened in the JSON; the record's key keeps it whole.
pub const CAMERA_CHARS_MAX: usize = 256;
/// A key longer than this is left out where even the dead letter was too large.
const KEY_BYTES_MAX: usize = 1024;
/// Answers whose refusal for size waits to be dealt with.
const REFUSED_MAX: usize = 4096;
/// Headers that we write: foreign ones of these names (a dead letter that was fed again) are not passed on.
const OWN_HEADERS: [&str; 9] = [
    "reason",
    "detail",
    "origin",
    "origin-topic",
    "origin-partition",
    "origin-offset",
    "worker",
    "payload-bytes",
    "headers-left-out",
];
/// While the producer's queue is full, how long to wait before the next try.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(2);
/// Headers that tie a prediction to the trace of its frame (W3C Trace Context).
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Answers cannot be published any more: the worker must stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The producer could not be made.
    #[error("cannot produce to {topic}: {source}")]
    Start {
        /// Topic name.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// The broker refused or did not take an answer within `kafka.delivery_timeout_ms`.
    #[error("an answer for {topic} was not delivered: {source}; its frame stays uncommitted and is read again")]
    Undelivered {
        /// Topic name.
        topic: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
}

/// Where answers go.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// Topic of predictions.
    pub predictions: String,
    /// Topic of dead letters.
    pub dead_letters: String,
    /// Name of this worker, in headers.
    pub worker: String,
}

/// Publishes answers; shared by all lanes.
pub struct Publisher {
    producer: ThreadedProducer<Deliveries>,
    outputs: Outputs,
    alarm: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
    refused: Receiver<Box<Pending>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("outputs", &self.outputs).finish_non_exhaustive()
    }
}

impl Publisher {
    /// `alarm` is raised when an answer cannot be delivered.
    ///
    /// # Errors
    /// When the producer's settings are refused.
    pub fn new(
        client: &ClientConfig,
        outputs: Outputs,
        alarm: Arc<AtomicBool>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, PublishError> {
        let (returned, refused) = crossbeam_channel::bounded(REFUSED_MAX);
        let context = Deliveries { alarm: Arc::clone(&alarm), telemetry: Arc::clone(&telemetry), returned };
        let producer = ThreadedProducer::from_config_and_context(client, context)
            .map_err(|source| PublishError::Start { topic: outputs.predictions.clone(), source })?;
        Ok(Self { producer, outputs, alarm, telemetry, refused })
    }

    /// Sends the answer for `frame`; the ticket is finished when the broker has it. While there is no room in the queue it
    /// waits, and calls `alive` again and again: a broker that is away is no thread that is stuck.
    ///
    /// # Errors
    /// When answers cannot be published any more.
    pub fn prediction(
        &self,
        frame: &RawFrame,
        prediction: &Prediction,
        ticket: Ticket,
        alive: &dyn Fn(),
    ) -> Result<(), PublishError> {
        // A struct of strings and finite numbers: serialising it cannot fail.
        let json = serde_json::to_vec(prediction).unwrap_or_default();
        let mut headers = self.origin(frame);
        headers = header(headers, "content-type", b"application/json");
        for (key, value) in &frame.headers {
            if let (true, Some(value)) = (TRACE_HEADERS.contains(&key.as_str()), value) {
                headers = header(headers, key, value);
            }
        }
        let letter = Letter::about(frame, &self.outputs.predictions, &json, headers);
        self.hand_over(letter, self.pending(frame, ticket), alive)
    }

    /// Deals with answers that Kafka refuses for their size until `over`: what it is and where it stood goes to the dead
    /// letters, without its bytes, so that no frame can stop the stream by being large.
    ///
    /// Whoever runs this keeps the producer alive: dropped earlier, it would throw its last answers away.
    ///
    /// # Errors
    /// When answers cannot be published any more.
    pub fn attend(&self, over: &AtomicBool) -> Result<(), PublishError> {
        while !over.load(Ordering::Acquire) {
            if let Ok(pending) = self.refused.recv_timeout(ATTEND) {
                self.without_bytes(*pending, &|| ())?;
            }
        }
        Ok(())
    }

    fn without_bytes(&self, pending: Pending, alive: &dyn Fn()) -> Result<(), PublishError> {
        let Pending { ticket, origin, key, bytes, waits, .. } = pending;
        let why = "larger than the topic takes (max.message.bytes); read it at its origin";
        let mut headers = header(OwnedHeaders::new(), "reason", RejectReason::TooLarge.as_str().as_bytes());
        headers = header(headers, "detail", why.as_bytes());
        headers = header(headers, "payload-bytes", bytes.to_string().as_bytes());
        headers = header(headers, "origin", origin.to_string().as_bytes());
        headers = origin_headers(headers, &origin, &self.outputs.worker);
        let key = key.filter(|key| key.len() <= KEY_BYTES_MAX);
        let last = Pending { ticket, origin, key: None, bytes: 0, last: true, sent: Instant::now(), waits };
        let topic = &self.outputs.dead_letters;
        let letter = Letter { topic, key: key.as_deref(), payload: &[], time: None, headers };
        self.hand_over(letter, last, alive)
    }

    /// Sends a frame that cannot be decoded where people can look at it: the original bytes and headers, and the reason.
    /// Waits as [`Publisher::prediction`] does.
    ///
    /// # Errors
    /// When answers cannot be published any more.
    pub fn dead_letter(
        &self,
        frame: &RawFrame,
        why: &Rejection,
        ticket: Ticket,
        alive: &dyn Fn(),
    ) -> Result<(), PublishError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in frame.headers.iter().filter(|(key, _)| !OWN_HEADERS.contains(&key.as_str())) {
            headers = headers.insert(rdkafka::message::Header { key, value: value.as_deref() });
        }
        for (key, value) in [("reason", why.reason().as_str()), ("detail", why.detail())] {
            headers = header(headers, key, value.as_bytes());
        }
        if frame.headers_left_out > 0 {
            headers = header(headers, "headers-left-out", frame.headers_left_out.to_string().as_bytes());
        }
        headers = header(headers, "origin", frame.origin.to_string().as_bytes());
        headers = origin_headers(headers, &frame.origin, &self.outputs.worker);
        let letter = Letter::about(frame, &self.outputs.dead_letters, &frame.payload, headers);
        self.hand_over(letter, self.pending(frame, ticket), alive)
    }

    fn origin(&self, frame: &RawFrame) -> OwnedHeaders {
        origin_headers(OwnedHeaders::new(), &frame.origin, &self.outputs.worker)
    }

    fn pending(&self, frame: &RawFrame, ticket: Ticket) -> Pending {
        Pending {
            ticket,
            origin: frame.origin.clone(),
            key: frame.key.clone(),
            bytes: frame.payload.len(),
            last: false,
            sent: Instant::now(),
            waits: self.telemetry.waits(Queue::Answers),
        }
    }

    fn hand_over(&self, letter: Letter<'_>, pending: Pending, alive: &dyn Fn()) -> Result<(), PublishError> {
        let Letter { topic, key, payload, time, headers } = letter;
        let mut record = BaseRecord::<[u8], [u8], Box<Pending>>::with_opaque_to(topic, Box::new(pending));
        record = record.payload(payload).headers(headers);
        record.key = key;
        record.timestamp = time;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                // Back-pressure, not a failure: frames pile up behind this lane until the consumer pauses. librdkafka
                // gives up on queued answers after its delivery timeout, so this wait is bounded.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) if !self.alarmed() => {
                    record = again;
                    alive();
                    std::thread::sleep(FULL_QUEUE_WAIT);
                }
                // The client knows the limit as well as the broker; the rest is as if the broker had refused.
                Err((error, again)) if too_large(&error) && !again.delivery_opaque.last => {
                    return self.without_bytes(*again.delivery_opaque, alive);
                }
                Err((source, _)) => {
                    self.alarm.store(true, Ordering::Release);
                    return Err(PublishError::Undelivered { topic: topic.into(), source });
                }
            }
        }
    }

    fn alarmed(&self) -> bool {
        self.alarm.load(Ordering::Acquire)
    }
}

fn origin_headers(headers: OwnedHeaders, origin: &Origin, worker: &str) -> OwnedHeaders {
    let headers = header(headers, "origin-topic", origin.topic.as_bytes());
    let headers = header(headers, "origin-partition", origin.partition.to_string().as_bytes());
    let headers = header(headers, "origin-offset", origin.offset.to_string().as_bytes());
    header(headers, "worker", worker.as_bytes())
}

/// What goes into a record.
struct Letter<'a> {
    topic: &'a str,
    key: Option<&'a [u8]>,
    payload: &'a [u8],
    time: Option<i64>,
    headers: OwnedHeaders,
}

impl<'a> Letter<'a> {
    fn about(frame: &'a RawFrame, topic: &'a str, payload: &'a [u8], headers: OwnedHeaders) -> Self {
        Self { topic, key: frame.key.as_deref(), payload, time: frame.captured_at_ms, headers }
    }
}

/// What travels with an answer until its delivery report.
struct Pending {
    ticket: Ticket,
    origin: Origin,
    key: Option<Vec<u8>>,
    /// Size of the frame.
    bytes: usize,
    /// It is already what is sent where something was too large.
    last: bool,
    sent: Instant,
    /// It waits for its acknowledgement.
    waits: Depth,
}

fn too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Receives delivery reports on the producer's thread.
struct Deliveries {
    alarm: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
    returned: Sender<Box<Pending>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("answers", &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        self.telemetry.stage(Stage::Publish, pending.sent.elapsed());
        match result {
            Ok(_) => pending.ticket.finish(),
            Err((error, message)) => {
                use rdkafka::Message as _;
                // When so many are refused that there is no room, the worker stops as for any other reason.
                if too_large(error) && !pending.last && self.returned.try_send(pending).is_ok() {
                    return;
                }
                tracing::error!(%error, topic = message.topic(), "answer not delivered");
                self.telemetry.undelivered();
                self.alarm.store(true, Ordering::Release);
            }
        }
    }
}
