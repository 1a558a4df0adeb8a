//! What a term as the learner needs, and how it may end.

use std::sync::Arc;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use super::budget::CpuBudget;
use super::store::{Learned, StoreError};
use crate::heads::HmacKey;
use crate::learn::{EncodeError, LearnConfig};
use crate::observe::telemetry::Telemetry;
use crate::plan::{CostTable, Plan};

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
    /// No thread for work of low priority.
    #[error("the system refused a thread: {0}")]
    Thread(#[source] std::io::Error),
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
    pub budget: CpuBudget,
    /// Samples a second that the whole fleet may make.
    pub samples_per_s: f64,
    /// What is in force, as the store sees it.
    pub learned: Arc<Learned>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}
