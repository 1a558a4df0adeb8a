//! The input thread of a worker by itself, with the test in the engine's place: it gets the frames and finishes them.

#![allow(unreachable_pub, reason = "a module of several test binaries, public to none")]
#![allow(dead_code, reason = "every test binary compiles this module and uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use offramp::config::Config;
use offramp::frame::{Channels, InputSpec, Layout, Resize};
use offramp::ingest::{Ingest, IngestError, Ledger, Limits, Queued, Taken};
use offramp::kafka::Clients;
use offramp::observe::telemetry::Telemetry;
use offramp::plan::{Fingerprint, Plan};

/// How long a frame may take to come before a test gives up.
pub const LIMIT: Duration = Duration::from_mins(2);

/// The topic `<prefix>.frames` and the group `<prefix>`, as a worker would consume them.
pub struct Input {
    thread: JoinHandle<Result<(), IngestError>>,
    stop: Arc<AtomicBool>,
    frames: Receiver<Queued>,
    /// Its ledger.
    pub ledger: Ledger,
    /// What it tells of itself.
    pub telemetry: Arc<Telemetry>,
}

impl Input {
    /// Starts to consume; `room` frames fit into the queue of the engine.
    pub fn start(bootstrap: &str, prefix: &str, limits: Limits, room: usize, more: &[&str]) -> Self {
        let mut sets = vec![
            format!("kafka.bootstrap_servers={bootstrap}"),
            format!("kafka.group={prefix}"),
            "kafka.session_timeout_ms=6000".into(),
            "kafka.commit_interval_ms=100".into(),
        ];
        sets.extend(more.iter().map(ToString::to_string));
        let config = Config::load(None, Vec::new(), &sets).expect("valid settings");
        let telemetry = Arc::new(Telemetry::new("input", &Arc::new(plan())).expect("metrics"));
        let ledger = Ledger::default();
        let ingest = Ingest {
            clients: Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "input"),
            topic: format!("{prefix}.frames"),
            limits,
            commit_interval: Duration::from_millis(config.kafka.commit_interval_ms.into()),
            drain_timeout: config.drain_timeout,
            ledger: ledger.clone(),
            telemetry: Arc::clone(&telemetry),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, frames) = crossbeam_channel::bounded(room);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || ingest.run(sender, &stopped));
        Self { thread, stop, frames, ledger, telemetry }
    }

    /// The next frame; its ticket is the test's.
    pub fn next(&self) -> Taken {
        self.frames.recv_timeout(LIMIT).expect("another frame").start()
    }

    /// A frame if one comes in time.
    pub fn within(&self, wait: Duration) -> Option<Taken> {
        self.frames.recv_timeout(wait).ok().map(Queued::start)
    }

    /// Stops it as SIGTERM would; what was not taken is dropped.
    pub fn stop(self) -> Result<(), IngestError> {
        self.stop.store(true, Ordering::Release);
        drop(self.frames);
        self.thread.join().expect("no panic")
    }
}

/// A plan that nobody runs.
fn plan() -> Plan {
    let input = InputSpec {
        width: 1,
        height: 1,
        channels: Channels::Gray,
        layout: Layout::Nchw,
        scale: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
        resize: Resize::Stretch,
        mirror: false,
    };
    Plan {
        backbone: Fingerprint([7; 32]),
        plan: Fingerprint([9; 32]),
        input,
        labels: vec!["only".into()],
        candidates: Vec::new(),
        flops: 1,
    }
}
