//! Kafka clients: every librdkafka option that we rely on, set in one place, and what its errors mean for us.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

mod errors;
mod passage;
mod record;
mod settings;

pub use errors::{Consequence, Quiet, consequence, log_error, log_line, log_polled};
pub use passage::{Stretch, is_unreadable, unreadable};
pub use record::{HEADERS_MAX, Headers, headers};

use crate::config::{Kafka, Topics};

/// How long one question to the broker may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Frames of the demo and of cameras fit well; librdkafka needs some room above the largest fetch.
const FETCH_BYTES_MAX: usize = 16 << 20;
/// The least that one partition may have fetched ahead, so that the next fetch comes in time.
const PREFETCH_KBYTES_MIN: usize = 64;
/// The largest response of a broker that is taken: more than any topic lets a batch be.
const RESPONSE_BYTES_MAX: &str = "1073741824";
/// How much of one partition comes in a fetch; a larger record comes alone.
const PARTITION_FETCH_BYTES: &str = "1048576";
/// Largest sample or head: far above any that a plan of eight exits can make, below the heads topic's limit.
const RECORD_BYTES_MAX: &str = "4000000";

/// Makes client settings for one worker.
#[derive(Debug, Clone)]
pub struct Clients {
    settings: Kafka,
    frame_bytes_max: usize,
    name: String,
}

impl Clients {
    /// `name` is the client id; `frame_bytes_max` bounds what a fetch must be able to carry.
    #[must_use]
    pub fn new(settings: Kafka, frame_bytes_max: usize, name: &str) -> Self {
        Self { settings, frame_bytes_max, name: name.into() }
    }

    fn base(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.settings.bootstrap_servers)
            .set("client.id", format!("{}-{role}", self.name))
            .set("log.connection.close", "false")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// Lays the user's properties over ours; those that carry a promise were refused when the settings were read.
    fn tuned(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.settings.properties {
            config.set(key, value);
        }
        config
    }

    fn consumer(&self, role: &str) -> ClientConfig {
        let fetch = FETCH_BYTES_MAX.max(self.frame_bytes_max);
        let mut config = self.base(role);
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "50")
            .set("fetch.message.max.bytes", PARTITION_FETCH_BYTES)
            .set("fetch.max.bytes", fetch.to_string())
            // A response is as large as its first batch, whatever was asked for; refused, it would be asked for without end.
            .set("receive.message.max.bytes", RESPONSE_BYTES_MAX)
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", self.settings.prefetch_kbytes.to_string());
        config
    }

    /// Consumer of frames: cooperative group, statistics for lag. Each of the topic's `partitions` has a queue of its own, and
    /// its part of the prefetch.
    #[must_use]
    pub fn frames(&self, partitions: usize) -> ClientConfig {
        let mut config = self.consumer("frames");
        let share = self.settings.prefetch_kbytes as usize / partitions.max(1);
        config.set("queued.max.messages.kbytes", share.max(PREFETCH_KBYTES_MIN).to_string());
        self.member(&mut config, &self.settings.group);
        config.set("auto.offset.reset", self.settings.auto_offset_reset.as_str()).set("statistics.interval.ms", "2000");
        if !self.settings.instance_id.is_empty() {
            config.set("group.instance.id", &self.settings.instance_id);
        }
        self.tuned(config)
    }

    /// How many partitions a topic has now.
    ///
    /// # Errors
    /// When librdkafka refuses the settings or no broker answers.
    pub(crate) fn partitions(&self, topic: &str) -> KafkaResult<usize> {
        let probe: BaseConsumer = self.tuned(self.base("probe")).create()?;
        let metadata = probe.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len()))
    }

    /// Consumer whose group elects the learner of one backbone; it commits nothing and always reads from the start.
    #[must_use]
    pub fn learner(&self, backbone: &str) -> ClientConfig {
        let mut config = self.consumer("learner");
        self.member(&mut config, &format!("{}.learner.{backbone}", self.settings.group));
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        self.tuned(config)
    }

    fn member(&self, config: &mut ClientConfig, group: &str) {
        let session = self.settings.session_timeout_ms;
        config
            .set("group.id", group)
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 10).clamp(100, 3000).to_string())
            .set("max.poll.interval.ms", session.max(300_000).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky");
    }

    /// Consumer without a group, for reading a topic to its end and following it.
    #[must_use]
    pub fn follower(&self, role: &str) -> ClientConfig {
        let mut config = self.consumer(role);
        // librdkafka wants a group id for any consumer; nothing is ever committed under it.
        config.set("group.id", format!("{}.{role}", self.settings.group)).set("auto.offset.reset", "earliest");
        self.tuned(config)
    }

    fn producer(&self, role: &str) -> ClientConfig {
        let mut config = self.base(role);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            // The same camera goes to the same partition as with Java's clients.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", (self.frame_bytes_max + (64 << 10)).to_string())
            .set("delivery.timeout.ms", self.settings.delivery_timeout_ms.to_string())
            .set("queue.buffering.max.kbytes", self.settings.output_queue_kbytes.to_string());
        config
    }

    /// Producer of predictions and dead letters.
    #[must_use]
    pub fn answers(&self) -> ClientConfig {
        self.tuned(self.producer("answers"))
    }

    /// Producer of samples: its own small queue, so that samples never take the room of answers.
    #[must_use]
    pub fn samples(&self) -> ClientConfig {
        let mut config = self.producer("samples");
        config.set("queue.buffering.max.kbytes", "16384").set("compression.type", "lz4").set("linger.ms", "20");
        config.set("message.max.bytes", RECORD_BYTES_MAX);
        self.tuned(config)
    }

    /// Transactional producer of heads: a second learner of the same backbone fences the first.
    #[must_use]
    pub fn heads(&self, backbone: &str) -> ClientConfig {
        let mut config = self.producer("heads");
        config
            .set("transactional.id", format!("{}.heads.{backbone}", self.settings.group))
            .set("transaction.timeout.ms", "30000")
            .set("delivery.timeout.ms", "25000")
            .set("message.max.bytes", RECORD_BYTES_MAX);
        self.tuned(config)
    }
}

/// Offsets to be committed.
pub(crate) fn offsets_list(topic: &str, offsets: &[(i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        // Fails only for offsets that are no offset; the ledger holds real ones.
        if let Err(error) = list.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
            tracing::error!(%error, partition, offset, "offset cannot be committed");
        }
    }
    list
}

/// Headers under construction: one call a header.
#[must_use]
pub fn header(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// The topics could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No answer from any broker.
    #[error("no broker answers at {bootstrap}: {source}; check kafka.bootstrap_servers and that the broker is up")]
    Unreachable {
        /// The addresses tried.
        bootstrap: String,
        /// librdkafka's reason.
        source: KafkaError,
    },
    /// No client can be made: waiting does not help.
    #[error("librdkafka refuses the settings: {0}")]
    Refused(#[source] KafkaError),
    /// A topic is missing and may not or could not be created.
    #[error("topic {topic} {reason}")]
    Unusable {
        /// Topic name.
        topic: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// What was found of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicState {
    /// It exists and fits.
    Ready {
        /// Its partitions.
        partitions: usize,
    },
    /// It does not exist.
    Missing,
    /// It exists and cannot be used as it is.
    Wrong {
        /// Why, and what to do.
        reason: String,
    },
}

/// Looks at all topics without changing anything.
///
/// # Errors
/// When librdkafka refuses the settings or no broker answers.
pub fn inspect_topics(clients: &Clients, topics: &Topics) -> Result<Vec<(String, TopicState)>, TopicError> {
    let probe: BaseConsumer = clients.tuned(clients.base("probe")).create().map_err(TopicError::Refused)?;
    let metadata = probe.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|source| unreachable(clients, source))?;
    let state = |name: &str| {
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let partitions = found.map_or(0, |topic| topic.partitions().len());
        // Samples and heads are logs: their order is the learner's state.
        let single = name == topics.samples || name == topics.heads;
        match partitions {
            0 => TopicState::Missing,
            n if single && n > 1 => TopicState::Wrong {
                reason: format!("has {n} partitions and must have one; delete it and let offramp create it"),
            },
            partitions => TopicState::Ready { partitions },
        }
    };
    Ok(wanted(topics).iter().map(|topic| (topic.name.to_string(), state(topic.name))).collect())
}

/// Makes sure that all topics exist and fit, creating what is missing when the settings allow it.
///
/// # Errors
/// When no broker answers, or a topic is missing and cannot be created, or does not fit.
pub async fn ensure_topics(clients: &Clients, topics: &Topics) -> Result<(), TopicError> {
    let mut missing = Vec::new();
    let (asked, of) = (clients.clone(), topics.clone());
    // The question blocks; a signal must be heard meanwhile.
    let states = tokio::task::spawn_blocking(move || inspect_topics(&asked, &of)).await;
    let states = states.map_err(|_| unreachable(clients, KafkaError::Canceled))??;
    for (topic, state) in states {
        match state {
            TopicState::Ready { .. } if topic == topics.heads => check_compacted(clients, &topic).await?,
            TopicState::Ready { .. } => {}
            TopicState::Wrong { reason } => return Err(TopicError::Unusable { topic, reason }),
            TopicState::Missing => missing.push(topic),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !topics.create {
        let reason = "does not exist; create it, or set topics.create = true".to_string();
        return Err(TopicError::Unusable { topic: missing.join(", "), reason });
    }
    let failed = |source| unreachable(clients, source);
    let admin = admin(clients)?;
    let wanted = wanted(topics);
    let create: Vec<&NewTopic<'_>> = wanted.iter().filter(|topic| missing.iter().any(|m| m == topic.name)).collect();
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
    for result in admin.create_topics(create, &options).await.map_err(failed)? {
        match result {
            Ok(topic) => tracing::info!(topic, "created topic"),
            // Replicas start together: another one was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let reason = format!("could not be created: {code}; create it by hand, or let this principal do it");
                return Err(TopicError::Unusable { topic, reason });
            }
        }
    }
    Ok(())
}

fn admin(clients: &Clients) -> Result<AdminClient<DefaultClientContext>, TopicError> {
    clients.tuned(clients.base("admin")).create().map_err(TopicError::Refused)
}

/// A heads topic that deletes by age would forget what was learned.
async fn check_compacted(clients: &Clients, topic: &str) -> Result<(), TopicError> {
    let failed = |source| unreachable(clients, source);
    let admin = admin(clients)?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await.map_err(failed)?;
    // A broker that does not let us look is not thereby wrong.
    let Some(Ok(found)) = described.into_iter().next() else { return Ok(()) };
    let policy = found.get("cleanup.policy").and_then(|entry| entry.value.clone()).unwrap_or_default();
    if policy == "compact" || policy.is_empty() {
        return Ok(());
    }
    let reason = format!("has cleanup.policy={policy} and would forget what was learned; set it to compact");
    Err(TopicError::Unusable { topic: topic.into(), reason })
}

fn wanted(topics: &Topics) -> Vec<NewTopic<'_>> {
    let topic = |name, partitions| NewTopic::new(name, partitions, TopicReplication::Fixed(topics.replication));
    vec![
        topic(&topics.frames, 12),
        topic(&topics.predictions, 12),
        topic(&topics.dead_letters, 1),
        // Some 50,000 audits of 10 kB; a new learner reads them back.
        topic(&topics.samples, 1)
            .set("retention.bytes", "536870912")
            .set("segment.bytes", "67108864")
            .set("cleanup.policy", "delete"),
        topic(&topics.heads, 1)
            .set("cleanup.policy", "compact")
            .set("segment.ms", "600000")
            .set("min.cleanable.dirty.ratio", "0.1")
            .set("max.message.bytes", "4194304"),
    ]
}

fn unreachable(clients: &Clients, source: KafkaError) -> TopicError {
    TopicError::Unreachable { bootstrap: clients.settings.bootstrap_servers.clone(), source }
}
