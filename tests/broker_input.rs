//! Goal: whatever lies in a topic, the input goes on: what can be read comes, what cannot is passed over, counted and told,
//! and memory stays bounded.
//! Method: the input thread alone on a real Kafka; records that no client would send are made by hand, and broken batches by
//! changing the files of the tests' own broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/broker.rs"]
mod broker;
#[path = "common/input.rs"]
mod input;
#[path = "common/raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use broker::{Broker, Record};
use input::Input;
use offramp::ingest::{Limits, Taken};
use raw::{LogFile, Raw, RawProducer};

const LIMITS: Limits = Limits { frames: 100, bytes: 1 << 24 };

fn fresh(broker: &Broker, what: &str, partitions: i32, settings: &[(&str, &str)]) -> (String, String) {
    let prefix = broker.unique(what);
    let topic = format!("{prefix}.frames");
    broker.create_topic(&topic, partitions, settings);
    (prefix, topic)
}

/// Takes and finishes so many frames.
fn take(input: &Input, count: usize) -> Vec<(i64, Vec<u8>)> {
    let finish = |Taken { frame, ticket, .. }: Taken| {
        ticket.finish();
        (frame.origin.offset, frame.payload)
    };
    (0..count).map(|_| finish(input.next())).collect()
}

fn committed(broker: &Broker, prefix: &str, topic: &str, expected: i64) {
    let limit = Instant::now() + Duration::from_mins(1);
    while broker.committed(prefix, topic) != [Some(expected)] {
        assert!(Instant::now() < limit, "committed {:?}, not {expected}", broker.committed(prefix, topic));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn lost(input: &Input) -> u64 {
    let page = input.telemetry.metrics().render();
    let line = page.lines().find(|line| line.starts_with("offramp_records_lost_total{reason=\"unreadable\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("the counter")
}

/// One test for a bug: a header's name that is not UTF-8 panicked while the record was read, and so in every worker in turn.
#[test]
fn a_header_whose_name_is_no_text_is_left_out() {
    let Some(broker) = Broker::connect() else { return };
    let (prefix, topic) = fresh(&broker, "header", 1, &[]);
    let odd = Raw::new("odd").header(b"a", b"1").header(b"bad\xff\xfe", b"2").header(b"", b"3").header(b"c", b"4");
    let many = (0..20_000_u32).fold(Raw::new("many"), |raw, n| raw.header(&n.to_be_bytes().map(|b| b | 1), b""));
    let mut producer = RawProducer::connect(broker.bootstrap());
    for records in [&[Raw::new("before"), odd, many][..], &[Raw::new("after")]] {
        producer.produce(&topic, 0, &raw::batch(records)).expect("Kafka asks for no UTF-8");
    }
    let input = Input::start(broker.bootstrap(), &prefix, LIMITS, 10, &[]);
    let frames: Vec<_> = (0..4).map(|_| input.next().frame).collect();
    let payloads: Vec<_> = frames.iter().map(|frame| frame.payload.as_slice()).collect();
    assert_eq!(payloads, [&b"before"[..], b"odd", b"many", b"after"]);
    let kept: Vec<_> = frames[1].headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(kept, [("a", Some(&b"1"[..])), ("", Some(b"3")), ("c", Some(b"4"))]);
    assert_eq!(frames[1].headers_left_out, 1);
    assert_eq!(frames[2].headers.len() + frames[2].headers_left_out, 20_000);
    assert!(frames[2].headers.len() <= offramp::kafka::HEADERS_MAX);
    input.stop().expect("no header stops it");
}

/// One test for a bug: after a checksum that is wrong librdkafka asks for the same batch for ever, or goes on at an offset that
/// it takes from the broken bytes.
///
/// Method: batches of three records; some are broken in the log's file: the bytes, or a compressed one that does not unpack
/// though its checksum is right. The last batch of all is broken too.
#[test]
fn a_broken_batch_is_passed_over_counted_and_never_asked_for_again() {
    let Some(broker) = Broker::connect() else { return };
    let (prefix, topic) = fresh(&broker, "broken", 1, &[]);
    let Some(log) = LogFile::open(broker.bootstrap(), &topic, 0) else { return };
    let mut producer = RawProducer::connect(broker.bootstrap());
    let three = |n: i64| [0, 1, 2].map(|k| Raw::new(vec![n as u8 * 3 + k; 700]));
    for n in 0..20 {
        assert_eq!(producer.produce(&topic, 0, &raw::batch(&three(n))), Ok(3 * n));
    }
    let flip = |at: usize| move |batch: &mut [u8]| batch[at] ^= 0x10;
    log.patch(6, flip(900));
    // Two in a row, the second one in the numbers before its records.
    log.patch(15, flip(2_000));
    log.patch(18, flip(45));
    // LZ4, says the attribute, and the bytes are none.
    log.patch(30, |batch| {
        batch[22] = 3;
        raw::seal(batch);
    });
    log.patch(57, flip(70));

    let input = Input::start(broker.bootstrap(), &prefix, LIMITS, 10, &[]);
    let good: Vec<i64> = (0..57).filter(|at| !matches!(at, 6..=8 | 15..=20 | 30..=32)).collect();
    let came = take(&input, good.len());
    assert_eq!(came.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), good);
    assert!(came.iter().all(|(offset, payload)| *payload == vec![*offset as u8; 700]));
    committed(&broker, &prefix, &topic, 60);
    assert_eq!(lost(&input), 3 + 6 + 3 + 3);
    producer.produce(&topic, 0, &raw::batch(&three(20))).expect("taken");
    assert_eq!(take(&input, 3).iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [60, 61, 62]);
    input.stop().expect("drained");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("resident memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Goal: a broker faster than the model with frames of 4 MiB fills no memory.
/// Method: 600 MiB of them; the test takes 40 a second and looks at the resident memory of its own process each time.
#[test]
fn large_frames_and_a_slow_model_fill_no_memory() {
    const FRAME: usize = 4 << 20;
    const FRAMES: usize = 150;
    let Some(broker) = Broker::connect() else { return };
    let (prefix, topic) = fresh(&broker, "large", 4, &[("max.message.bytes", "8388608")]);
    let records = |from: usize, to: usize| -> Vec<Record> {
        (from..to)
            .map(|n| Record { key: None, ..Record::new("", vec![n as u8; FRAME]) }.partition(n as i32 % 4))
            .collect()
    };
    (0..FRAMES).step_by(5).for_each(|n| drop(broker.produce(&topic, &records(n, n + 5))));
    let before = resident_kib();
    let limits = Limits { frames: 1_000, bytes: 32 << 20 };
    let input = Input::start(broker.bootstrap(), &prefix, limits, 64, &["kafka.prefetch_kbytes=16384"]);
    let mut most = 0;
    for _ in 0..FRAMES {
        let taken = input.next();
        // A slow model, not a wait for something.
        std::thread::park_timeout(Duration::from_millis(25));
        most = most.max(resident_kib());
        taken.ticket.finish();
    }
    // In flight 32 and one frame, fetched ahead 16 and a frame for each of four partitions, a response of up to 16 under way.
    let grown = most.saturating_sub(before) >> 10;
    assert!(grown < 160, "{grown} MiB more than before, at most");
    input.stop().expect("drained");
}
