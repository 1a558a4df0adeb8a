//! The composition root: wires the parts from the downstream end, watches them, drains them.
//!
//! Nothing else in the library knows more than its neighbours. A part that ends with an error, or panics, stops the
//! worker: what it held stays uncommitted and is read again by the next owner of its partitions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::backbone::{Audited, BackboneError, Chain};
use crate::config::Config;
use crate::decode::{DecodeLimits, Decoder};
use crate::engine::Engine;
use crate::files;
use crate::fleet::Leader;
use crate::fleet::budget::CpuBudget;
use crate::fleet::store::{HeadStore, Learned, StoreError};
use crate::flow::{FlowOptions, Parts};
use crate::heads::{HeadSet, HmacKey, Registry};
use crate::ingest::{Ingest, IngestError, Ledger, Limits, Queued};
use crate::kafka::Clients;
use crate::lane::{Handover, Lane, LaneError, Links, hand_over};
use crate::learn::LearnConfig;
use crate::observe::telemetry::Telemetry;
use crate::publish::{Outputs, PublishError, Publisher, SampleSink};

/// A secret is short; what is longer is some other file.
const KEY_BYTES_MAX: u64 = 64 << 10;
/// Full batches that wait for each lane.
const BATCHES_WAITING: usize = 4;
/// How often the supervisor looks at what no thread tells it.
const WATCH: Duration = Duration::from_millis(50);

/// Why a worker could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The backbone cannot be loaded or cut.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// Input.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// A lane.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// Output.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The heads topic.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The shared secret.
    #[error("heads.hmac_key_file {path}: {reason}")]
    Key {
        /// The file.
        path: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// An answer was given up by librdkafka.
    #[error("the broker did not take an answer in time; its frame stays uncommitted and is read again")]
    Undelivered,
    /// A bug.
    #[error("{part} panicked; see the log")]
    Panicked {
        /// The thread's name.
        part: String,
    },
    /// The system refused a thread.
    #[error("cannot start thread {part}: {reason}")]
    Thread {
        /// The thread's name.
        part: String,
        /// The system's reason.
        reason: std::io::Error,
    },
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<AtomicBool>,
    alarm: Arc<AtomicBool>,
    ended: Receiver<Ended>,
    running: usize,
    telemetry: Arc<Telemetry>,
}

#[derive(Debug)]
struct Ended {
    part: String,
    result: Result<(), WorkerError>,
}

/// What parts need while they are wired.
struct Wiring<'a> {
    config: &'a Config,
    engine: &'a Engine,
    clients: Clients,
    telemetry: Arc<Telemetry>,
    stop: Arc<AtomicBool>,
    alarm: Arc<AtomicBool>,
    ended: Sender<Ended>,
    running: usize,
    /// Raised when the input has ended and its last commit was made, or there is no input.
    drained: Arc<AtomicBool>,
}

/// Raises a flag when it goes, however that comes about.
struct Raise(Arc<AtomicBool>);

impl Drop for Raise {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Worker {
    /// Starts all parts. The topics must exist. Returns once the heads topic was read to its end and frames may come.
    ///
    /// # Errors
    /// When a part cannot be made; nothing keeps running then.
    pub fn start(config: &Config, engine: &Engine, telemetry: Arc<Telemetry>) -> Result<Self, WorkerError> {
        // One message a thread, sent as its last act.
        let (sender, ended) = crossbeam_channel::bounded(config.engine.lanes + 8);
        let mut wiring = Wiring {
            config,
            engine,
            clients: Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, &config.name),
            telemetry: Arc::clone(&telemetry),
            stop: Arc::new(AtomicBool::new(false)),
            alarm: Arc::new(AtomicBool::new(false)),
            ended: sender,
            running: 0,
            drained: Arc::default(),
        };
        let wired = wiring.wire();
        let worker = Self { stop: wiring.stop, alarm: wiring.alarm, ended, running: wiring.running, telemetry };
        match wired {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.stop.store(true, Ordering::Release);
                wiring.drained.store(true, Ordering::Release);
                let _stopped = worker.wait();
                Err(error)
            }
        }
    }

    /// A handle that stops the worker when it is set: no more frames are taken, what was taken is finished.
    #[must_use]
    pub fn stopper(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Counters and status.
    #[must_use]
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Waits until every part has ended: after a stop was asked for, or after a failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn wait(mut self) -> Result<(), WorkerError> {
        let mut first = Ok(());
        while self.running > 0 {
            let failed = match self.ended.recv_timeout(WATCH) {
                Ok(Ended { part, result }) => {
                    self.running -= 1;
                    tracing::debug!(part, "ended");
                    result
                }
                Err(RecvTimeoutError::Timeout) => self.undelivered(first.is_ok()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = failed {
                tracing::error!(%error, "stopping");
                self.stop.store(true, Ordering::Release);
                first = first.and(Err(error));
            }
        }
        let asked = first.is_ok();
        first.and(self.undelivered(asked))
    }

    /// The alarm of the output, unless a failure is known already.
    fn undelivered(&self, asked: bool) -> Result<(), WorkerError> {
        if asked && self.alarm.load(Ordering::Acquire) { Err(WorkerError::Undelivered) } else { Ok(()) }
    }
}

impl Wiring<'_> {
    /// Downstream first: outputs, heads, lanes, learner, and at last the input.
    fn wire(&mut self) -> Result<(), WorkerError> {
        let config = self.config;
        let plan = Arc::clone(self.engine.backbone.plan());
        let publisher = Arc::new(self.publisher()?);
        let key = hmac_key(&config.heads.hmac_key_file)?;
        let exits = config.exits.enabled && !plan.candidates.is_empty();
        let mut store = None;
        let mut heads = Arc::new(HeadSet::empty());
        if exits {
            let mut opened = self.store(key.clone())?;
            heads = opened.catch_up(Duration::from_secs(config.heads.catch_up_timeout_s))?;
            tracing::info!(policy = heads.version(), exits = heads.exits().len(), "read what was learned");
            store = Some(opened);
        }
        self.telemetry.policy(&heads);
        self.telemetry.heads_read();

        // Enough that no lane waits for the input; what is beyond it waits in Kafka, and is nobody's yet.
        let room = (config.engine.lanes * config.engine.max_batch * BATCHES_WAITING).min(config.engine.max_in_flight);
        let (frames, inbox) = crossbeam_channel::bounded(room);
        let samples = if exits { Some(Arc::new(self.samples()?)) } else { None };
        let handovers = self.lanes(&inbox, &heads, &publisher, samples.as_ref())?;
        if let Some(store) = store {
            let learned = store.learned();
            self.follow(store, handovers)?;
            if config.learning.enabled {
                self.leader(key, learned)?;
            }
        }
        let over = Arc::clone(&self.drained);
        self.spawn("answers".into(), move || Ok(publisher.attend(&over)?))?;
        self.ingest(frames)
    }

    fn publisher(&self) -> Result<Publisher, WorkerError> {
        let topics = &self.config.topics;
        let outputs = Outputs {
            predictions: topics.predictions.clone(),
            dead_letters: topics.dead_letters.clone(),
            worker: self.config.name.clone(),
        };
        let (alarm, telemetry) = (Arc::clone(&self.alarm), Arc::clone(&self.telemetry));
        Ok(Publisher::new(&self.clients.answers(), outputs, alarm, telemetry)?)
    }

    fn samples(&self) -> Result<SampleSink, WorkerError> {
        let telemetry = Arc::clone(&self.telemetry);
        Ok(SampleSink::new(&self.clients.samples(), &self.config.topics.samples, telemetry)?)
    }

    fn store(&self, key: Option<HmacKey>) -> Result<HeadStore, WorkerError> {
        let exits = &self.config.exits;
        let registry = Registry::new(self.engine.backbone.plan(), key).promising(exits.epsilon, exits.delta);
        let telemetry = Arc::clone(&self.telemetry);
        Ok(HeadStore::open(&mut self.clients.follower("heads"), &self.config.topics.heads, registry, telemetry)?)
    }

    fn lanes(
        &mut self,
        inbox: &Receiver<Queued>,
        heads: &Arc<HeadSet>,
        publisher: &Arc<Publisher>,
        samples: Option<&Arc<SampleSink>>,
    ) -> Result<Vec<Arc<Handover<Chain>>>, WorkerError> {
        let (settings, backbone) = (&self.config.engine, &self.engine.backbone);
        let limits = DecodeLimits { max_bytes: settings.max_frame_bytes, max_pixels: settings.max_frame_pixels };
        let options = FlowOptions {
            max_batch: settings.max_batch,
            overtaken_max: settings.overtaken_max,
            seed: self.config.exits.seed,
            copies: self.config.learning.copies,
        };
        let mut handovers = Vec::new();
        for index in 0..settings.lanes {
            let handover = Arc::new(Handover::default());
            handovers.push(Arc::clone(&handover));
            let parts: Parts<Chain, Audited> = Parts {
                plan: Arc::clone(backbone.plan()),
                decoder: Decoder::new(backbone.plan().input.clone(), limits).oriented(self.config.input.orientation),
                segments: backbone.chain(heads.exits())?,
                auditor: samples.map(|_| backbone.auditor()).transpose()?,
                heads: Arc::clone(heads),
            };
            let links = Links {
                inbox: inbox.clone(),
                handover,
                publisher: Arc::clone(publisher),
                samples: samples.cloned(),
                telemetry: Arc::clone(&self.telemetry),
                heartbeat: self.telemetry.heartbeat(&format!("lane-{index}")),
            };
            let lane = Lane::new(parts, links, options.clone());
            let telemetry = Arc::clone(&self.telemetry);
            self.spawn(format!("lane-{index}"), move || Ok(lane.run().inspect_err(|_| telemetry.lane_failed())?))?;
        }
        Ok(handovers)
    }

    /// The follower of the heads topic: cuts the backbone anew in the background and leaves the result with the lanes.
    fn follow(&mut self, store: HeadStore, lanes: Vec<Arc<Handover<Chain>>>) -> Result<(), WorkerError> {
        let (stop, telemetry) = (Arc::clone(&self.stop), Arc::clone(&self.telemetry));
        let backbone = Arc::clone(&self.engine.backbone);
        self.spawn("heads".into(), move || {
            let mut cut = store.learned().heads().exits().to_vec();
            Ok(store.follow(&stop, |heads| {
                let handed = hand_over(&lanes, heads, &cut, |exits| backbone.chain(exits));
                // Exits that are off are off, whatever became of the cut.
                let in_force = handed.is_ok() || heads.exits().is_empty();
                match handed {
                    Ok(()) => cut = heads.exits().to_vec(),
                    Err(error) => {
                        tracing::error!(%error, policy = heads.version(), in_force, "the backbone cannot be cut so");
                    }
                }
                if in_force {
                    let exits = heads.exits();
                    tracing::info!(policy = heads.version(), ?exits, audit_rate = heads.audit_rate(), "adopted");
                    telemetry.policy(heads);
                }
                in_force
            })?)
        })
    }

    fn leader(&mut self, hmac_key: Option<HmacKey>, learned: Arc<Learned>) -> Result<(), WorkerError> {
        let (config, plan) = (self.config, self.engine.backbone.plan());
        let backbone = plan.backbone.short();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let leader = Leader {
            samples_client: self.clients.learner(&backbone),
            samples_topic: config.topics.samples.clone(),
            heads_client: self.clients.heads(&backbone),
            reader_client: self.clients.follower("learner-heads"),
            heads_topic: config.topics.heads.clone(),
            hmac_key,
            plan: Arc::clone(plan),
            costs: self.engine.costs.clone(),
            config: learn_config(config),
            budget: CpuBudget::new(config.learning.cpu_share * cores as f64, config.learning.cpu_credit_s),
            samples_per_s: config.learning.samples_per_s,
            learned,
            telemetry: Arc::clone(&self.telemetry),
        };
        let stop = Arc::clone(&self.stop);
        self.spawn("leader".into(), move || {
            leader.run(&stop);
            Ok(())
        })
    }

    fn ingest(&mut self, frames: Sender<Queued>) -> Result<(), WorkerError> {
        let config = self.config;
        let ingest = Ingest {
            clients: self.clients.clone(),
            topic: config.topics.frames.clone(),
            limits: Limits { frames: config.engine.max_in_flight, bytes: config.engine.in_flight_kbytes << 10 },
            commit_interval: Duration::from_millis(config.kafka.commit_interval_ms.into()),
            drain_timeout: config.drain_timeout,
            ledger: Ledger::default(),
            telemetry: Arc::clone(&self.telemetry),
        };
        let (stop, ended) = (Arc::clone(&self.stop), Arc::clone(&self.drained));
        self.spawn("ingest".into(), move || {
            // The end of the input is the end of the worker; only then may the producer of answers go.
            let _raised = (Raise(Arc::clone(&stop)), Raise(ended));
            Ok(ingest.run(frames, &stop)?)
        })
    }

    fn spawn<F>(&mut self, part: String, body: F) -> Result<(), WorkerError>
    where
        F: FnOnce() -> Result<(), WorkerError> + Send + 'static,
    {
        let (ended, name) = (self.ended.clone(), part.clone());
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(body))
                .unwrap_or_else(|_| Err(WorkerError::Panicked { part: name.clone() }));
            // The supervisor may be gone when a start failed half way.
            ended.send(Ended { part: name, result }).unwrap_or_default();
        };
        let started = std::thread::Builder::new().name(part.clone()).spawn(run);
        started.map_err(|reason| WorkerError::Thread { part, reason })?;
        self.running += 1;
        Ok(())
    }
}

/// The learner's settings out of the worker's.
#[must_use]
pub fn learn_config(config: &Config) -> LearnConfig {
    LearnConfig {
        epsilon: config.exits.epsilon,
        delta: config.exits.delta,
        audit_floor: config.exits.audit_floor,
        seed: config.exits.seed,
        copies: usize::from(config.learning.copies),
        window_samples: config.learning.window_samples,
        camera_interval_ms: config.learning.camera_interval_ms,
        ..LearnConfig::default()
    }
}

/// The fleet's shared secret, if one is configured.
///
/// # Errors
/// When the file cannot be read or holds too little.
pub fn hmac_key(path: &Path) -> Result<Option<HmacKey>, WorkerError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let refuse = |reason: String| WorkerError::Key { path: path.display().to_string(), reason };
    let key = files::read(path, KEY_BYTES_MAX).map_err(|e| refuse(e.to_string()))?;
    let key = key.trim_ascii().to_vec();
    if key.len() < 16 {
        return Err(refuse(format!("holds {} bytes; a secret needs at least 16", key.len())));
    }
    Ok(Some(HmacKey::new(key)))
}
