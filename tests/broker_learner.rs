//! Goal: a fleet goes on learning when its learner dies, however busy its samples are, and says what the learner does.
//! Method: two workers on a real Kafka, the first of them a process that is killed, and a topic of samples that this test
//! writes without a pause: audits of a small world, laid out as the demo model's. Before the first learner is killed all of
//! them are copies, which decide nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/broker.rs"]
mod broker;
#[path = "common/fleet.rs"]
mod fleet;
#[allow(dead_code, unreachable_pub, reason = "of what the chaos program knows of groups this test needs one part")]
#[path = "chaos/groups.rs"]
mod groups;
mod learn_support;
#[allow(dead_code, unreachable_pub, reason = "and of processes")]
#[path = "chaos/process.rs"]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use broker::Broker;
use fleet::{Member, config, settings, until};
use groups::Groups;
use learn_support::World;
use offramp::kafka::{Clients, ensure_topics};
use offramp::learn::Sample;
use process::Process;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};

/// Between two portions of samples.
const PACE: Duration = Duration::from_millis(20);
/// Samples in a portion.
const PORTION: usize = 4;
/// So long must a broker have nothing to send before a worker hears that the log has no more: longer than any pause here.
const FETCH_WAIT_MS: i64 = 20_000;

/// A stream of samples that ends when it is dropped.
struct Stream {
    stop: Arc<AtomicBool>,
    originals: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(broker: &Broker, topic: &str) -> Self {
        let (broker, topic) = (broker.clone(), topic.to_owned());
        let (stop, originals) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (ends, is_original) = (Arc::clone(&stop), Arc::clone(&originals));
        let thread = std::thread::spawn(move || {
            let plan = fleet::engine().backbone.plan();
            let mut world = World::new(1);
            world.widths = plan.candidates.iter().map(|point| point.feature_width).collect();
            world.noise = vec![0.3; plan.candidates.len()];
            (world.classes, world.hard) = (plan.classes(), 0.0);
            let mut sample = |copy| {
                let frame = world.frame(0.0);
                let made = Sample::from_audit(plan, &frame.rows(), &frame.probabilities, "cam", None, 1.0, copy);
                made.and_then(|sample| sample.encode(plan)).expect("a sound sample")
            };
            let producer: ThreadedProducer<DefaultProducerContext> =
                broker.config().set("linger.ms", "0").create().expect("a producer");
            while !ends.load(Ordering::Acquire) {
                let copy = !is_original.load(Ordering::Acquire);
                for value in (0..PORTION).map(|_| sample(copy)) {
                    producer
                        .send(BaseRecord::<(), _>::to(&topic).payload(&value))
                        .map_err(|(error, _)| error)
                        .expect("room");
                }
                std::thread::park_timeout(PACE);
            }
        });
        Self { stop, originals, thread: Some(thread) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the stream of samples failed");
    }
}

/// What the worker says it does for learning: the one series of that metric that is 1.
fn state_by_metric(worker: &Member) -> String {
    let page = worker.telemetry.metrics().render();
    let on = |line: &&str| line.starts_with("offramp_learner_state{") && line.ends_with(" 1");
    let states: Vec<&str> = page.lines().filter(on).filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(states.len(), 1, "{states:?}");
    states[0].to_owned()
}

#[test]
fn the_next_learner_decides_under_samples_that_never_pause() {
    let Some(broker) = Broker::connect() else { return };
    let prefix = broker.unique("learner");
    let wait = format!("kafka.properties.fetch.wait.max.ms={FETCH_WAIT_MS}");
    let config = config(broker.bootstrap(), &prefix, "second", &[&wait]);
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "setup");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ensure_topics(&clients, &config.topics)).expect("topics");
    let stream = Stream::start(&broker, &config.topics.samples);

    let mut set = settings(broker.bootstrap(), &prefix, "first");
    set.push(wait);
    let first = Process::start("first", &set, &prefix);
    let groups = Groups::of(&broker, &prefix);
    until("the first worker learns", || groups.learner().is_some_and(|(_, name)| name == "first"));
    let second = Member::start(&config);
    assert_eq!((state_by_metric(&second).as_str(), second.telemetry.status().learner.state), ("idle", "idle"));
    first.kill();
    until("the second worker learns", || second.telemetry.status().learner.here);
    stream.originals.store(true, Ordering::Release);
    until("its exits are on", || !second.telemetry.heads().exits().is_empty());
    let status = second.telemetry.status().learner;
    assert!(["training", "certifying", "watching"].contains(&status.state), "{status:?}");
    second.stop().expect("drained");
    drop(stream);

    let written: Vec<i64> =
        broker.read_to_end(&config.topics.samples).iter().filter_map(|record| record.timestamp().to_millis()).collect();
    let longest = written.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.is_some_and(|pause| pause < FETCH_WAIT_MS), "the samples paused for {longest:?} ms");
}
