//! What the consumer's group and its statistics tell, inside `poll`: whose partitions are whose, what is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionListElem;

use super::Ledger;
use crate::kafka::{self, offsets_list};
use crate::observe::metrics::Rebalance as Kind;
use crate::observe::telemetry::Telemetry;

/// Reacts to rebalances and statistics.
pub(super) struct Groups {
    ledger: Ledger,
    topic: String,
    telemetry: Arc<Telemetry>,
    /// The assignment changed since it was last asked.
    moved: AtomicBool,
}

impl Groups {
    pub(super) fn new(ledger: Ledger, topic: &str, telemetry: Arc<Telemetry>) -> Self {
        Self { ledger, topic: topic.into(), telemetry, moved: AtomicBool::new(false) }
    }

    /// Whether the assignment changed since this was last asked.
    pub(super) fn moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }
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
        self.moved.store(true, Ordering::Release);
        let assigned = self.ledger.assigned();
        tracing::info!(kind = kind.as_str(), ?assigned, "rebalanced");
        self.telemetry.rebalanced(kind, &self.topic, &assigned);
    }
}
