//! Goal: the input of a worker is bounded, as fast as what takes its frames, and gives partitions up at once, however full
//! it is.
//! Method: librdkafka's mock cluster, in process; the test stands in the engine's place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/input.rs"]
mod input;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use input::{Input, LIMIT};
use offramp::ingest::Limits;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

const PARTITIONS: i32 = 4;

fn cluster(prefix: &str) -> MockCluster<'static, DefaultProducerContext> {
    // Three brokers: every partition has a leader of its own, or nearly.
    let mock = MockCluster::new(3).expect("a mock cluster");
    mock.create_topic(&format!("{prefix}.frames"), PARTITIONS, 1).expect("a topic");
    mock
}

/// Puts records of these sizes into the partitions in turn.
fn produce(mock: &MockCluster<'static, DefaultProducerContext>, prefix: &str, sizes: &[usize]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    let topic = format!("{prefix}.frames");
    for (partition, size) in (0..PARTITIONS).cycle().zip(sizes) {
        let payload = vec![7_u8; *size];
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(LIMIT).expect("sent");
}

/// One test for a bug: a full worker paused its partitions, and librdkafka noticed the resume up to a second later, so that
/// no more than the limit came in a second: 250 s for these frames.
#[test]
fn a_low_limit_costs_no_speed_and_every_frame_comes_once_in_order() {
    const FRAMES: usize = 2_000;
    let mock = cluster("speed");
    produce(&mock, "speed", &[600; FRAMES]);
    let input = Input::start(&mock.bootstrap_servers(), "speed", Limits { frames: 8, bytes: 1 << 20 }, 4, &[]);
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let first = input.next();
    let began = Instant::now();
    for taken in std::iter::once(first).chain((1..FRAMES).map(|_| input.next())) {
        let expected = next.entry(taken.frame.origin.partition).or_default();
        assert_eq!(taken.frame.origin.offset, *expected);
        *expected += 1;
        taken.ticket.finish();
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?} for {FRAMES} frames");
    assert_eq!(next.len(), 4, "from all partitions");
    input.stop().expect("drained");
}

/// Method: the test takes frames of sizes from 1 to 20,000 bytes, holds up to so many that the limits bind, and looks at
/// what is in flight each time one comes.
#[test]
fn no_more_is_in_flight_than_the_limits_admit() {
    const LARGEST: usize = 20_000;
    let sizes: Vec<usize> = (0..300_usize).map(|n| 1 + n.wrapping_mul(2_654_435_761) % LARGEST).collect();
    for limits in [Limits { frames: 5, bytes: 1 << 30 }, Limits { frames: 1000, bytes: 60_000 }] {
        let mock = cluster("bounds");
        produce(&mock, "bounds", &sizes);
        let input = Input::start(&mock.bootstrap_servers(), "bounds", limits, 100, &[]);
        let (mut held, mut seen) = (std::collections::VecDeque::new(), 0);
        let mut reached = false;
        while seen < sizes.len() {
            let (frames, bytes) = input.ledger.in_flight();
            assert!(frames <= limits.frames && bytes < limits.bytes + LARGEST, "{frames} frames, {bytes} bytes");
            reached |= !limits.admit(frames, bytes);
            match input.within(if held.is_empty() { LIMIT } else { Duration::from_millis(20) }) {
                Some(taken) => {
                    seen += 1;
                    held.push_back(taken);
                }
                // It waits for room.
                None => held.pop_front().expect("a frame that is held").ticket.finish(),
            }
        }
        assert!(reached, "the limits were never reached");
        held.into_iter().for_each(|taken| taken.ticket.finish());
        input.stop().expect("drained");
    }
}

/// Rebalances must not wait behind frames for which there is no room.
#[test]
fn a_full_worker_gives_partitions_up_at_once() {
    let mock = cluster("full");
    produce(&mock, "full", &vec![600; 4_000]);
    let limits = Limits { frames: 4, bytes: 1 << 20 };
    let full = Input::start(&mock.bootstrap_servers(), "full", limits, 4, &[]);
    let held: Vec<_> = (0..4).map(|_| full.next()).collect();
    assert_eq!(full.ledger.assigned().len(), 4);
    let other = Input::start(&mock.bootstrap_servers(), "full", Limits { frames: 4_000, ..limits }, 4_000, &[]);
    let taken = other.next();
    assert!(full.ledger.assigned().len() < 4, "the other one has a partition that this one gave up");
    assert!(!full.ledger.assigned().contains(&taken.frame.origin.partition));
    drop((held, taken));
    for input in [full, other] {
        input.stop().expect("drained");
    }
}
