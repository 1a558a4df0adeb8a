//! Goal: what a cluster can do to a worker ends well: nothing is lost, nothing is committed too early, what cannot be
//! cured stops the worker with its reason.
//! Method: librdkafka's mock cluster, in process, with faults injected; never a proof of delivery (`broker_*` is that).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/fleet.rs"]
mod fleet;

use std::sync::atomic::AtomicBool;

use fleet::{Member, config, engine, pictures, until};
use offramp::source::feeder::{FeedOptions, Pace, feed};
use offramp::source::{Picture, SourceError};
use offramp::worker::{Worker, WorkerError};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

type Mock = MockCluster<'static, DefaultProducerContext>;

const PREFIX: &str = "faults";

fn cluster() -> Mock {
    let mock = MockCluster::new(1).expect("a mock cluster");
    for (topic, partitions) in [("frames", 2), ("predictions", 2), ("dead_letters", 1), ("samples", 1), ("heads", 1)] {
        mock.create_topic(&format!("{PREFIX}.{topic}"), partitions, 1).expect("a topic");
    }
    mock
}

fn feed_frames(mock: &Mock, count: usize) {
    let options = FeedOptions {
        bootstrap: mock.bootstrap_servers(),
        topic: format!("{PREFIX}.frames"),
        cameras: 4,
        rate: None,
        kafka: Vec::new(),
    };
    let picture = |bytes| {
        let name = "a frame".to_owned();
        Ok::<_, SourceError>(Picture { name, bytes, content_type: "image/png".into(), label: None })
    };
    let frames = pictures(count).into_iter().map(picture);
    let report = feed(&options, frames, &AtomicBool::new(false), |_| Pace::Go).expect("fed");
    assert_eq!(report.progress.delivered as usize, count);
}

/// The group's committed offsets of the frames, summed over partitions.
fn committed(mock: &Mock) -> i64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", PREFIX)
        .create()
        .expect("a consumer");
    let mut frames = TopicPartitionList::new();
    frames.add_partition_range(&format!("{PREFIX}.frames"), 0, 1);
    let found = consumer.committed_offsets(frames, fleet::LIMIT).expect("the coordinator answers");
    let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
    found.elements().iter().map(|element| offset(element.offset())).sum()
}

fn answered(member: &Member) -> u64 {
    member.telemetry.status().frames.total
}

#[test]
fn a_broker_that_comes_back_finds_the_worker_working() {
    let mock = cluster();
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &[]));
    feed_frames(&mock, 50);
    until("the first frames are answered", || answered(&member) >= 50);
    mock.broker_down(1).expect("down");
    mock.broker_up(1).expect("up");
    feed_frames(&mock, 50);
    until("the later frames are answered", || answered(&member) >= 100);
    member.stop().expect("drained");
    assert_eq!(committed(&mock), 100);
}

#[test]
fn produce_errors_that_pass_are_outlasted() {
    let mock = cluster();
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 3];
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &[]));
    feed_frames(&mock, 30);
    mock.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &errors);
    feed_frames(&mock, 30);
    until("every frame is answered", || answered(&member) >= 60);
    member.stop().expect("drained");
    assert_eq!(committed(&mock), 60);
}

#[test]
fn an_answer_that_kafka_refuses_stops_the_worker_and_is_not_committed() {
    let mock = cluster();
    let predictions = format!("{PREFIX}.predictions");
    mock.topic_error(&predictions, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).expect("set");
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &["delivery.drain_timeout_s=1"]));
    feed_frames(&mock, 20);
    let error = member.wait().expect_err("answers cannot be delivered");
    assert!(matches!(error, WorkerError::Undelivered | WorkerError::Lane(_)), "{error}");
    assert_eq!(committed(&mock), 0, "an unanswered frame was committed");
}

#[test]
fn a_commit_that_fails_is_made_good_by_a_later_one() {
    let mock = cluster();
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &[]));
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 2];
    mock.request_errors(rdkafka::types::RDKafkaApiKey::OffsetCommit, &errors);
    feed_frames(&mock, 40);
    until("every frame is answered", || answered(&member) >= 40);
    member.stop().expect("drained");
    assert_eq!(committed(&mock), 40);
}

/// One test for a bug: an asynchronous commit failed without a word, and where no frame followed nothing was committed.
#[test]
fn a_commit_that_fails_is_made_again_though_no_frame_follows() {
    let mock = cluster();
    feed_frames(&mock, 40);
    mock.request_errors(
        rdkafka::types::RDKafkaApiKey::OffsetCommit,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS],
    );
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &["kafka.commit_interval_ms=2000"]));
    until("every frame is committed", || committed(&mock) == 40);
    member.stop().expect("drained");
}

#[test]
fn a_full_worker_pauses_and_loses_nothing() {
    let mock = cluster();
    let tight = ["engine.max_in_flight=4", "engine.max_batch=2"];
    feed_frames(&mock, 400);
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &tight));
    until("every frame is answered", || answered(&member) >= 400);
    member.stop().expect("drained");
    assert_eq!(committed(&mock), 400);
}

/// Goal: a learner that is dead (nobody reads the samples) or starved (a thousandth of a core, no credit) holds no frame up:
/// every frame is answered and committed, and the audits that nobody learns from lie in the log or are dropped.
#[test]
fn a_stopped_learner_holds_no_frame_up() {
    for stopped in [&["learning.enabled=false"][..], &["learning.cpu_share=0.001", "learning.cpu_credit_s=0"][..]] {
        let mock = cluster();
        let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", stopped));
        feed_frames(&mock, 1000);
        until("every frame is answered", || answered(&member) >= 1000);
        member.stop().expect("drained");
        assert_eq!(committed(&mock), 1000);
    }
}

#[test]
fn a_drain_waits_for_the_answers_that_are_under_way() {
    let mock = cluster();
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &[]));
    feed_frames(&mock, 200);
    mock.broker_round_trip_time(1, std::time::Duration::from_millis(200)).expect("a slow broker");
    until("some frames are answered", || answered(&member) >= 20);
    let answers = std::sync::Arc::clone(&member.telemetry);
    member.stop().expect("a drain is no failure");
    assert_eq!(committed(&mock), i64::try_from(answers.status().frames.total).unwrap(), "answered and not committed");
}

#[test]
fn a_frame_too_large_for_its_dead_letter_stops_nothing() {
    let mock = cluster();
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &["engine.max_frame_bytes=2000"]));
    let producer: rdkafka::producer::BaseProducer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().expect("a producer");
    let large = vec![7_u8; 100_000];
    let record = rdkafka::producer::BaseRecord::<str, [u8]>::to("faults.frames").key("camera-1").payload(&large);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    rdkafka::producer::Producer::flush(&producer, fleet::LIMIT).expect("sent");
    feed_frames(&mock, 20);
    until("every frame is settled", || answered(&member) >= 21);
    member.stop().expect("drained");
    assert_eq!(committed(&mock), 21);
}

#[test]
fn a_heads_topic_that_cannot_be_read_stops_the_start_and_says_why() {
    let mock = cluster();
    let heads = format!("{PREFIX}.heads");
    mock.topic_error(&heads, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).expect("set");
    let config = config(&mock.bootstrap_servers(), PREFIX, "one", &["heads.catch_up_timeout_s=5"]);
    let telemetry = offramp::observe::telemetry::Telemetry::new("one", engine().backbone.plan()).expect("metrics");
    let error = Worker::start(&config, engine(), telemetry.into()).expect_err("cannot start");
    assert!(error.to_string().contains(&heads), "{error}");
}
