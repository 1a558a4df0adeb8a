//! Audits on their way to the learner. They may be dropped, frames may not: a full queue costs a sample and is counted.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use super::PublishError;
use crate::kafka;
use crate::learn::SampleRejection;
use crate::observe::depth::Depth;
use crate::observe::metrics::{Queue, SampleOutcome};
use crate::observe::telemetry::Telemetry;

/// Sends encoded samples; shared by all lanes.
pub struct SampleSink {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    telemetry: Arc<Telemetry>,
}

impl std::fmt::Debug for SampleSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleSink").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl SampleSink {
    /// A sink for the samples topic.
    ///
    /// # Errors
    /// When the producer's settings are refused.
    pub fn new(client: &ClientConfig, topic: &str, telemetry: Arc<Telemetry>) -> Result<Self, PublishError> {
        let context = Deliveries { telemetry: Arc::clone(&telemetry) };
        let producer = ThreadedProducer::from_config_and_context(client, context)
            .map_err(|source| PublishError::Start { topic: topic.into(), source })?;
        Ok(Self { producer, topic: topic.into(), telemetry })
    }

    /// Hands an encoded sample over, or drops it when the queue is full. Never waits. What could not become a sample
    /// (features too large for 16 bits) is counted as refused.
    pub fn offer(&self, sample: Result<Vec<u8>, SampleRejection>) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(rejection) => {
                tracing::debug!(%rejection, "no sample");
                return self.telemetry.sample_rejected(&rejection);
            }
        };
        let waits = Box::new(self.telemetry.waits(Queue::Samples));
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&self.topic, waits).payload(&sample).partition(0);
        if self.producer.send(record).is_err() {
            self.telemetry.sample(SampleOutcome::Dropped);
        }
    }
}

struct Deliveries {
    telemetry: Arc<Telemetry>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("samples", &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Depth>;

    fn delivery(&self, result: &DeliveryResult<'_>, _waits: Box<Depth>) {
        self.telemetry.sample(if result.is_ok() { SampleOutcome::Sent } else { SampleOutcome::Dropped });
    }
}
