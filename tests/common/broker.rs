//! A real Kafka for a test: where it is, topics and groups of the test's own, records in and out with a deadline.
//!
//! A test that needs a broker lives in a binary `tests/broker_*.rs` and begins with
//! `let Some(broker) = Broker::connect() else { return };`. `make test` starts a broker and names it in
//! `KAFKA_BOOTSTRAP`; without one the test says that it is skipped, and under `CI=true` it fails.

#![allow(unreachable_pub, reason = "the module is public to its test binary only")]
#![allow(dead_code, reason = "every test binary compiles this module and uses its own part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unused_self,
    reason = "a failing helper is a failing test"
)]

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long any single request to the broker may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Where a broker for tests answers.
#[derive(Debug, Clone)]
pub struct Broker {
    bootstrap: String,
}

/// A record to be produced.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Key bytes, if any.
    pub key: Option<Vec<u8>>,
    /// Value bytes; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// `None`: the partitioner decides by key.
    pub partition: Option<i32>,
    /// Milliseconds since the Unix epoch; `None`: now.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record with a key and a value.
    pub fn new(key: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self { key: Some(key.as_ref().to_vec()), payload: Some(payload.as_ref().to_vec()), ..Self::default() }
    }

    /// The same record with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The same record for a fixed partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

impl Broker {
    /// The broker named by `KAFKA_BOOTSTRAP`, or `None` with the reason on standard error.
    ///
    /// # Panics
    /// Under `CI=true` when there is no broker: a skipped broker test must not pass there.
    pub fn connect() -> Option<Self> {
        let bootstrap = std::env::var("KAFKA_BOOTSTRAP").unwrap_or_default();
        if !bootstrap.is_empty() {
            return Some(Self { bootstrap });
        }
        let reason = "KAFKA_BOOTSTRAP is not set; `make test` starts a broker and sets it";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "broker test cannot run: {reason}");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Not eprintln!: the test harness swallows that of tests that pass.
        writeln!(std::io::stderr(), "broker tests: SKIPPED {test} ({reason})").expect("standard error is open");
        None
    }

    /// `host:port[,host:port]`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A name for a topic, group or transactional id that no other test or earlier run has used.
    pub fn unique(&self, what: &str) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        format!("{what}.{:x}-{:x}-{number}", since_epoch.as_millis(), std::process::id())
    }

    /// Client configuration with nothing but the broker's address.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("broker.address.family", "v4");
        config
    }

    /// Creates a topic with one replica and the given settings, and waits until its leader is known.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().expect("an admin client");
        let topic =
            settings.iter().fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |topic, (key, value)| {
                topic.set(key, value)
            });
        let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT)).request_timeout(Some(REQUEST_LIMIT));
        let results = block_on(admin.create_topics([&topic], &options)).expect("the broker answers");
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => panic!("topic {topic} could not be created: {code}"),
            }
        }
        let consumer = self.reader();
        let limit = Instant::now() + REQUEST_LIMIT;
        while self.partitions(&consumer, name) != usize::try_from(partitions).expect("not negative") {
            assert!(Instant::now() < limit, "topic {name} has no leader after {REQUEST_LIMIT:?}");
        }
    }

    /// A topic of its own for this test: [`Self::unique`] and [`Self::create_topic`] in one.
    pub fn topic(&self, what: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let name = self.unique(what);
        self.create_topic(&name, partitions, settings);
        name
    }

    /// Produces all records, in order within each partition, and waits until the broker has them.
    ///
    /// Returns partition and offset of each.
    pub fn produce(&self, topic: &str, records: &[Record]) -> Vec<(i32, i64)> {
        let producer: FutureProducer = self
            .config()
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "8000000")
            .create()
            .expect("a producer");
        let placed = block_on(async {
            let mut pending = Vec::with_capacity(records.len());
            for record in records {
                let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                });
                let mut wire: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
                wire.key = record.key.as_deref();
                wire.payload = record.payload.as_deref();
                wire.partition = record.partition;
                wire.timestamp = record.timestamp_ms;
                pending.push(producer.send(wire, REQUEST_LIMIT));
            }
            let mut placed = Vec::with_capacity(pending.len());
            for delivery in pending {
                let delivery = delivery.await.map_err(|(error, _)| error).expect("the broker takes the record");
                placed.push((delivery.partition, delivery.offset));
            }
            placed
        });
        producer.flush(REQUEST_LIMIT).expect("nothing is left to send");
        placed
    }

    /// The first `count` committed records of a topic, partitions mixed, each partition in order.
    ///
    /// # Panics
    /// When fewer have come within `limit`; the message says how many.
    pub fn consume(&self, topic: &str, count: usize, limit: Duration) -> Vec<OwnedMessage> {
        let consumer = self.reader();
        self.assign_all(&consumer, topic);
        let end = Instant::now() + limit;
        let mut records = Vec::with_capacity(count);
        while records.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} records in {topic} after {limit:?}", records.len());
            if let Some(polled) = consumer.poll(left.min(Duration::from_millis(200))) {
                records.push(polled.expect("the broker serves the topic").detach());
            }
        }
        records
    }

    /// The end of each partition of a topic: the offset that the next record gets.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        let consumer = self.reader();
        let partitions = i32::try_from(self.partitions(&consumer, topic)).expect("few");
        let end = |partition| {
            settled(|| consumer.fetch_watermarks(topic, partition, REQUEST_LIMIT).map_err(|error| error.to_string())).1
        };
        (0..partitions).map(end).collect()
    }

    /// Every committed record that the topic holds now; not one that comes later.
    pub fn read_to_end(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer = self.reader();
        self.assign_all(&consumer, topic);
        let ends = self.ends(topic);
        let mut records = Vec::new();
        let limit = Instant::now() + REQUEST_LIMIT;
        // By position, not by the last record: transaction markers and compaction leave gaps at the end.
        while !self.has_reached(&consumer, topic, &ends) {
            assert!(Instant::now() < limit, "the end {ends:?} of {topic} was not reached after {REQUEST_LIMIT:?}");
            if let Some(polled) = consumer.poll(Duration::from_millis(100)) {
                let record = polled.expect("the broker serves the topic").detach();
                let partition = usize::try_from(record.partition()).expect("not negative");
                if record.offset() < ends[partition] {
                    records.push(record);
                }
            }
        }
        records
    }

    /// The group's committed offset in each partition of a topic; `None` where it has committed nothing.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().expect("a consumer");
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, i32::try_from(self.partitions(&consumer, topic)).expect("few") - 1);
        let committed = consumer.committed_offsets(wanted, REQUEST_LIMIT).expect("the coordinator answers");
        committed
            .elements()
            .iter()
            .map(|element| match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
            .collect()
    }

    fn reader(&self) -> BaseConsumer {
        self.config()
            .set("group.id", self.unique("reader"))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer")
    }

    /// Partitions that have a leader.
    fn partitions(&self, consumer: &BaseConsumer, topic: &str) -> usize {
        settled(|| {
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT).map_err(|error| error.to_string())?;
            let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
            let led = partitions.iter().all(|partition| partition.leader() >= 0);
            if led { Ok(partitions.len()) } else { Err(format!("a partition of {topic} has no leader")) }
        })
    }

    fn assign_all(&self, consumer: &BaseConsumer, topic: &str) {
        let partitions = i32::try_from(self.partitions(consumer, topic)).expect("few");
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&all).expect("an assignment");
    }

    fn has_reached(&self, consumer: &BaseConsumer, topic: &str, ends: &[i64]) -> bool {
        let positions = consumer.position().expect("an assignment has positions");
        (0i32..).zip(ends).all(|(partition, end)| {
            let position = positions.find_partition(topic, partition).map(|element| element.offset());
            *end == 0 || matches!(position, Some(Offset::Offset(position)) if position >= *end)
        })
    }
}

/// The value of the last header of that name.
pub fn header(record: &OwnedMessage, name: &str) -> Option<Vec<u8>> {
    let headers = record.headers()?;
    headers.iter().filter(|header| header.key == name).last().and_then(|header| header.value.map(<[u8]>::to_vec))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// What the broker says once it has an answer: for a moment after a topic was made or the broker came back, partitions
/// have no leader.
fn settled<T>(mut ask: impl FnMut() -> Result<T, String>) -> T {
    let limit = Instant::now() + REQUEST_LIMIT;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < limit, "{error}, and so for {REQUEST_LIMIT:?}"),
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
