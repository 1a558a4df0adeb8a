//! 5 · Answers into Kafka: predictions and dead letters, each holding the ticket of its frame until it is delivered.
//!
//! A ticket is finished by the delivery report and by nothing else. A report of failure drops it unfinished, raises the
//! alarm that stops the worker, and so leaves the offset uncommitted: the frame is answered after the restart.

mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

pub use samples::SampleSink;

use crate::frame::{RawFrame, Rejection};
use crate::ingest::Ticket;
use crate::kafka::{self, header};
use crate::observe::metrics::Stage;
use crate::observe::telemetry::Telemetry;
use crate::prediction::Prediction;

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
        let context = Deliveries { alarm: Arc::clone(&alarm), telemetry };
        let producer = ThreadedProducer::from_config_and_context(client, context)
            .map_err(|source| PublishError::Start { topic: outputs.predictions.clone(), source })?;
        Ok(Self { producer, outputs, alarm })
    }

    /// Sends the answer for `frame`; the ticket is finished when the broker has it.
    ///
    /// # Errors
    /// When answers cannot be published any more.
    pub fn prediction(&self, frame: &RawFrame, prediction: &Prediction, ticket: Ticket) -> Result<(), PublishError> {
        // A struct of strings and finite numbers: serialising it cannot fail.
        let json = serde_json::to_vec(prediction).unwrap_or_default();
        let mut headers = self.origin(frame);
        headers = header(headers, "content-type", b"application/json");
        for (key, value) in &frame.headers {
            if let (true, Some(value)) = (TRACE_HEADERS.contains(&key.as_str()), value) {
                headers = header(headers, key, value);
            }
        }
        self.send(&self.outputs.predictions, frame, &json, headers, ticket)
    }

    /// Sends a frame that cannot be decoded where people can look at it: the original bytes and headers, and the reason.
    ///
    /// # Errors
    /// When answers cannot be published any more.
    pub fn dead_letter(&self, frame: &RawFrame, why: &Rejection, ticket: Ticket) -> Result<(), PublishError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &frame.headers {
            headers = headers.insert(rdkafka::message::Header { key, value: value.as_deref() });
        }
        for (key, value) in [("reason", why.reason().as_str()), ("detail", why.detail())] {
            headers = header(headers, key, value.as_bytes());
        }
        headers = header(headers, "origin", frame.origin.to_string().as_bytes());
        headers = origin_headers(headers, frame, &self.outputs.worker);
        self.send(&self.outputs.dead_letters, frame, &frame.payload, headers, ticket)
    }

    fn origin(&self, frame: &RawFrame) -> OwnedHeaders {
        origin_headers(OwnedHeaders::new(), frame, &self.outputs.worker)
    }

    fn send(
        &self,
        topic: &str,
        frame: &RawFrame,
        payload: &[u8],
        headers: OwnedHeaders,
        ticket: Ticket,
    ) -> Result<(), PublishError> {
        let mut record = BaseRecord::<[u8], [u8], Box<Pending>>::with_opaque_to(
            topic,
            Box::new(Pending { ticket, sent: Instant::now() }),
        );
        record = record.payload(payload).headers(headers);
        if let Some(key) = &frame.key {
            record = record.key(key);
        }
        if let Some(time) = frame.captured_at_ms {
            record = record.timestamp(time);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                // Back-pressure, not a failure: frames pile up behind this lane until the consumer pauses. librdkafka
                // gives up on queued answers after its delivery timeout, so this wait is bounded.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) if !self.alarmed() => {
                    record = again;
                    std::thread::sleep(FULL_QUEUE_WAIT);
                }
                Err((source, _)) => {
                    self.alarm.store(true, Ordering::Release);
                    return Err(PublishError::Undelivered { topic: topic.into(), source });
                }
            }
        }
    }

    /// Answers that Kafka has not acknowledged.
    #[must_use]
    pub fn waiting(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    fn alarmed(&self) -> bool {
        self.alarm.load(Ordering::Acquire)
    }
}

fn origin_headers(headers: OwnedHeaders, frame: &RawFrame, worker: &str) -> OwnedHeaders {
    let origin = &frame.origin;
    let headers = header(headers, "origin-topic", origin.topic.as_bytes());
    let headers = header(headers, "origin-partition", origin.partition.to_string().as_bytes());
    let headers = header(headers, "origin-offset", origin.offset.to_string().as_bytes());
    header(headers, "worker", worker.as_bytes())
}

/// What travels with an answer until its delivery report.
struct Pending {
    ticket: Ticket,
    sent: Instant,
}

/// Receives delivery reports on the producer's thread.
struct Deliveries {
    alarm: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
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
                tracing::error!(%error, topic = message.topic(), "answer not delivered");
                self.telemetry.undelivered();
                self.alarm.store(true, Ordering::Release);
            }
        }
    }
}
