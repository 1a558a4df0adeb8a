//! What Kafka's errors mean for us, and which of them are worth a line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

/// Between two lines about the same outage.
const OUTAGE_LINES: Duration = Duration::from_secs(10);

/// What follows from a Kafka error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// librdkafka or the next attempt deals with it.
    GoOn,
    /// Waiting will not help: the worker stops with an error.
    Stop,
}

/// Sorts errors by consequence. What is not known to be permanent is taken as passing.
#[must_use]
pub fn consequence(error: &KafkaError) -> Consequence {
    use RDKafkaErrorCode as Code;
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Consequence::Stop;
    }
    match error.rdkafka_error_code() {
        Some(
            Code::Fatal
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::UnsupportedSASLMechanism
            | Code::FencedInstanceId,
        ) => Consequence::Stop,
        _ => Consequence::GoOn,
    }
}

/// A client context that writes librdkafka's log lines through `tracing`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error("client", &error, reason);
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Writes one of librdkafka's log lines.
pub fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // A commit that meets a rebalance is tried again and counted by its owner; a connection that fails comes as an
        // error too.
        _ if matches!(facility, "COMMITFAIL" | "FAIL") => tracing::debug!(facility, "{message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(facility, "{message}"),
        _ => tracing::debug!(facility, "{message}"),
    }
}

/// Writes an error that librdkafka reports outside any call. While a broker is away every client says so many times a
/// second: one line in ten seconds is enough for all.
pub fn log_error(client: &str, error: &KafkaError, reason: &str) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
        return; // Comes through poll as well, to whoever asked for it.
    }
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if is_outage(error) && told.is_some_and(|told| told.elapsed() < OUTAGE_LINES) {
        tracing::debug!(client, %error, reason, "kafka");
        return;
    }
    if is_outage(error) {
        *told = Some(Instant::now());
    }
    tracing::warn!(client, %error, reason, "kafka");
}

/// Writes an error that a poll gave and that waiting cures; an outage was told by [`log_error`].
pub fn log_polled(topic: &str, error: &KafkaError) {
    if is_outage(error) {
        tracing::debug!(topic, %error, "reading");
    } else {
        tracing::warn!(topic, %error, "reading");
    }
}

/// Whether an error says only that no broker can be reached.
fn is_outage(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve))
}
