//! The load: cameras that send numbered frames at a fixed rate, whatever happens to broker and workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::broker::Broker;
use crate::fleet::{LIMIT, pictures};

/// Of all cameras together.
const FRAMES_PER_S: f64 = 120.0;
/// Eight cameras share twelve partitions unequally.
const CAMERAS: u64 = 8;
/// One frame in so many is no picture.
const BAD_EVERY: u64 = 50;
const PICTURES: usize = 2000;

/// The header that holds a frame's number.
pub const NUMBER: &str = "number";

/// Whether the frame of that number is a picture.
pub fn is_picture(number: u64) -> bool {
    number % BAD_EVERY != BAD_EVERY - 1
}

/// Running cameras.
pub struct Cameras {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Cameras {
    /// Starts them.
    pub fn start(broker: &Broker, topic: &str) -> Self {
        let mut config = broker.config();
        // The broker is away for seconds at a time: what is sent meanwhile waits for it, in order and once.
        config.set("enable.idempotence", "true").set("delivery.timeout.ms", LIMIT.as_millis().to_string());
        config.set("reconnect.backoff.max.ms", "1000");
        let producer: BaseProducer = config.create().expect("a producer");
        let (stop, topic) = (Arc::new(AtomicBool::new(false)), topic.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send(&producer, &topic, &stopped));
        Self { stop, thread }
    }

    /// Stops them and waits until the broker has all that they sent; gives how many that is.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("cameras do not panic")
    }
}

fn send(producer: &BaseProducer, topic: &str, stop: &AtomicBool) -> u64 {
    let pictures = pictures(PICTURES);
    let began = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let due = began + Duration::from_secs_f64(number as f64 / FRAMES_PER_S);
        producer.poll(due.saturating_duration_since(Instant::now()));
        if Instant::now() < due {
            continue;
        }
        let (camera, text) = (format!("cam-{}", number % CAMERAS), number.to_string());
        let bytes = if is_picture(number) { &pictures[number as usize % PICTURES] } else { &b"no picture"[..] };
        let headers = OwnedHeaders::new().insert(Header { key: NUMBER, value: Some(&text) });
        let record = BaseRecord::to(topic).key(&camera).payload(bytes).headers(headers);
        match producer.send(record) {
            Ok(()) => number += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {}
            Err((error, _)) => panic!("frame {number} cannot be sent: {error}"),
        }
    }
    producer.flush(LIMIT).expect("the broker takes all frames");
    number
}
