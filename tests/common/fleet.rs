//! Workers for tests: the demo model, topics of the test's own, small limits, and a way to wait for what must come.

#![allow(unreachable_pub, reason = "a module of several test binaries, public to none")]
#![allow(dead_code, reason = "every test binary compiles this module and uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use offramp::backbone::LoadOptions;
use offramp::config::Config;
use offramp::engine::Engine;
use offramp::observe::telemetry::Telemetry;
use offramp::source::{self, SourceOptions};
use offramp::worker::{Worker, WorkerError};

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_mins(5);

/// The demo model's folder.
pub fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/fashion-resnet18")
}

/// The demo model, loaded once for all tests of a binary.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // Unoptimised heads are slow: by FLOPs exits are worth in a test what they are worth in a worker.
    ENGINE.get_or_init(|| Engine::load_unmeasured(&model(), &LoadOptions::default()).expect("the demo model loads"))
}

/// Encoded pictures of the demo's stream.
pub fn pictures(count: usize) -> Vec<Vec<u8>> {
    let path = model().join("data/t10k-images-idx3-ubyte.gz");
    let source = source::open(&path, &SourceOptions::default()).expect("the demo's pictures");
    source.take(count).map(|picture| picture.expect("a picture").bytes).collect()
}

/// Settings of a worker named `name` on the topics `<prefix>.frames` and so on, in the group `<prefix>`.
pub fn settings(bootstrap: &str, prefix: &str, name: &str) -> Vec<String> {
    let mut sets = vec![
        format!("worker.name={name}"),
        format!("model.path={}", model().display()),
        format!("kafka.bootstrap_servers={bootstrap}"),
        format!("kafka.group={prefix}"),
        "kafka.session_timeout_ms=6000".into(),
        "kafka.commit_interval_ms=100".into(),
        "engine.lanes=1".into(),
        "topics.replication=1".into(),
        "learning.cpu_share=1.0".into(),
        "http.listen=".into(),
    ];
    for topic in ["frames", "predictions", "dead_letters", "samples", "heads"] {
        sets.push(format!("topics.{topic}={prefix}.{topic}"));
    }
    sets
}

/// The settings above, proved, with more laid over them.
pub fn config(bootstrap: &str, prefix: &str, name: &str, more: &[&str]) -> Config {
    let mut sets = settings(bootstrap, prefix, name);
    sets.extend(more.iter().map(ToString::to_string));
    Config::load(None, Vec::new(), &sets).expect("valid settings")
}

/// A worker of a test; stopped and drained when the test ends it.
pub struct Member {
    worker: Worker,
    /// What it tells of itself.
    pub telemetry: Arc<Telemetry>,
}

impl Member {
    /// Starts a worker on topics that exist.
    pub fn start(config: &Config) -> Self {
        Self::try_start(config).expect("the worker starts")
    }

    /// Starts a worker, or says why it cannot.
    pub fn try_start(config: &Config) -> Result<Self, WorkerError> {
        let telemetry = Arc::new(Telemetry::new(&config.name, engine().backbone.plan()).expect("metrics"));
        let worker = Worker::start(config, engine(), Arc::clone(&telemetry))?;
        Ok(Self { worker, telemetry })
    }

    /// Stops it as SIGTERM would and waits until it has drained.
    pub fn stop(self) -> Result<(), WorkerError> {
        self.worker.stopper().store(true, Ordering::Release);
        self.worker.wait()
    }

    /// Waits for it to end by itself.
    pub fn wait(self) -> Result<(), WorkerError> {
        self.worker.wait()
    }
}

/// Polls until something holds; fails with its name after [`LIMIT`]. This waits for an event, it is no delay.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
