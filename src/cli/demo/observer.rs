//! Reads what the workers publish, as any consumer would: the demo's figures come from here.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::Config;
use crate::kafka::{Clients, REQUEST_TIMEOUT};
use crate::prediction::Prediction;

/// One answered frame.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// What was published; none: a dead letter.
    pub(super) prediction: Option<Prediction>,
    /// The camera of the frame.
    pub(super) camera: String,
    /// Where the frame stood in its topic.
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The worker that answered.
    pub(super) worker: String,
}

impl Seen {
    pub(super) fn left_early(&self) -> bool {
        self.prediction.as_ref().is_some_and(|p| p.exit.is_some())
    }
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    answered: AtomicUsize,
    stop: AtomicBool,
}

/// The observing thread.
#[derive(Debug)]
pub(super) struct Observer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    cameras: usize,
}

impl Observer {
    /// Starts reading predictions and dead letters from their beginning.
    pub(super) fn start(config: &Config, cameras: usize, expected: usize) -> anyhow::Result<Self> {
        let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "observer");
        let consumer: BaseConsumer = clients.follower("observer").create()?;
        let mut all = TopicPartitionList::new();
        for topic in [&config.topics.predictions, &config.topics.dead_letters] {
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
            let found = metadata.topics().first().context("the broker forgot a topic")?;
            for partition in found.partitions() {
                all.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            }
        }
        consumer.assign(&all)?;
        let shared = Arc::new(Shared::default());
        shared.lock().reserve(expected);
        let (mine, dead_letters) = (Arc::clone(&shared), config.topics.dead_letters.clone());
        let thread = std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || observe(&consumer, &dead_letters, &mine))?;
        Ok(Self { shared, thread, cameras })
    }

    /// How many frames are answered: grows while the demo runs.
    pub(super) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Acquire)
    }

    /// A handle on [`Observer::answered`] for the feeder.
    pub(super) fn progress(&self) -> impl Fn() -> usize + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.answered.load(Ordering::Acquire)
    }

    /// Looks at the newest `count` answers.
    pub(super) fn newest<T>(&self, count: usize, look: impl FnOnce(&[Seen]) -> T) -> T {
        let seen = self.shared.lock();
        look(&seen[seen.len().saturating_sub(count)..])
    }

    /// Ends, and returns all answers in the order in which the frames were fed.
    ///
    /// A camera's frames keep their order within its partition and cameras are fed in turn, so the k-th frame of the
    /// c-th camera is frame `k * cameras + c` of the stream.
    pub(super) fn finish(self) -> Vec<Seen> {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| tracing::error!("the observer panicked"));
        let mut by_camera: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for seen in self.shared.lock().drain(..) {
            by_camera.entry(seen.camera.clone()).or_default().push(seen);
        }
        let mut ordered: Vec<(usize, Seen)> = Vec::new();
        for (camera, mut seen) in by_camera {
            seen.sort_by_key(|s| (s.partition, s.offset));
            let number = camera.rsplit('-').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
            let place = |k: usize| k * self.cameras + number.saturating_sub(1);
            ordered.extend(seen.into_iter().enumerate().map(|(k, seen)| (place(k), seen)));
        }
        ordered.sort_by_key(|(place, _)| *place);
        ordered.into_iter().map(|(_, seen)| seen).collect()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn observe(consumer: &BaseConsumer, dead_letters: &str, shared: &Shared) {
    // Delivery is at least once: a frame answered twice counts once.
    let mut known: HashSet<(i32, i64)> = HashSet::new();
    while !shared.stop.load(Ordering::Acquire) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        let text = |name: &str| {
            let headers = message.headers()?;
            let header = headers.iter().find(|h| h.key == name)?;
            Some(String::from_utf8_lossy(header.value?).into_owned())
        };
        let number = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(-1);
        let partition = i32::try_from(number("origin-partition")).unwrap_or(-1);
        let offset = number("origin-offset");
        if !known.insert((partition, offset)) {
            continue;
        }
        let camera = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let prediction = if message.topic() == dead_letters {
            None
        } else {
            match serde_json::from_slice(message.payload().unwrap_or_default()) {
                Ok(prediction) => Some(prediction),
                Err(error) => {
                    tracing::error!(%error, "a prediction that is no prediction");
                    continue;
                }
            }
        };
        let worker = text("worker").unwrap_or_default();
        shared.lock().push(Seen { prediction, camera, partition, offset, worker });
        shared.answered.fetch_add(1, Ordering::AcqRel);
    }
}
