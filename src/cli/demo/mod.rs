//! `offramp demo`: everything in one process. An embedded broker (librdkafka's mock cluster), a feeder that replays
//! pictures as cameras, two workers that learn from nothing, and an observer that reads what they publish.
//!
//! The figures come out of the predictions topic and the workers' own counters, as they would anywhere else.

mod observer;
mod plot;
mod report;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use self::observer::Observer;
use self::report::{Board, Flops, Report, Summary};
use super::arguments;
use crate::backbone::LoadOptions;
use crate::config::Config;
use crate::engine::Engine;
use crate::kafka::{Clients, ensure_topics};
use crate::observe;
use crate::observe::telemetry::Telemetry;
use crate::source::feeder::{self, FeedError, FeedOptions, FeedReport, Pace, Rate};
use crate::source::{self, Picture, SourceOptions};
use crate::worker::Worker;

/// Frames that may be on their way at once: the embedded broker keeps only the newest 5 MiB of a partition.
const AHEAD_MAX: u64 = 1_000;
/// Without an answer for this long something is broken.
const STALLED: Duration = Duration::from_mins(1);
const REFRESH: Duration = Duration::from_millis(200);
/// A training that takes longer is held up by something else on this machine, and the cameras wait for it: a minute of stream
/// has to show what days would. On an idle core the longest training takes about as long.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longest that the cameras wait in all.
const HELD_MAX: Duration = Duration::from_mins(4);

/// Arguments of `offramp demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Use this broker instead of the embedded one; the demo makes topics of its own there.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: Option<String>,
    /// How many frames to play.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = arguments::many)]
    frames: usize,
    /// Pictures to play, in this order: a folder, a video, a .npy or IDX file.
    #[arg(long, value_name = "PATH", default_value = "models/fashion-resnet18/data/t10k-images-idx3-ubyte.gz")]
    pictures: PathBuf,
    /// The model: a folder with a model.toml, such a file, or a bare .onnx.
    #[arg(long, value_name = "PATH", default_value = "models/fashion-resnet18")]
    model: PathBuf,
    /// Cameras that the pictures are dealt to in turn.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = arguments::some)]
    cameras: usize,
    /// Frames per second of all cameras together.
    #[arg(long, value_name = "FPS", default_value = "150")]
    rate: Rate,
    /// Workers in the consumer group.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = arguments::some)]
    workers: usize,
    /// Seed of audits and learning.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Afterwards run the full model on every frame and report the exact disagreement.
    #[arg(long)]
    verify: bool,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the hit rate over time as an SVG picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Log level of the workers while they run.
    #[arg(long, default_value = "error", value_parser = arguments::log_filter)]
    log: String,
}

/// Runs the demo.
///
/// # Errors
/// When the model, the pictures or a part of the pipeline fails.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    observe::logging::init(observe::logging::Format::Text, &args.log)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;

    let pictures = load_pictures(args)?;
    eprintln!("loading the model and measuring what its parts cost …");
    let engine = Engine::load(&super::locate(&args.model), &LoadOptions::default())?;

    // The mock cluster lives in this client and ends with it.
    let embedded: Option<MockCluster<'_, DefaultProducerContext>> = match args.bootstrap {
        None => Some(MockCluster::new(1).context("starting the embedded broker")?),
        Some(_) => None,
    };
    let bootstrap = match (&args.bootstrap, &embedded) {
        (Some(given), _) => given.clone(),
        (None, Some(mock)) => mock.bootstrap_servers(),
        (None, None) => bail!("no broker"),
    };
    let configs: Vec<Config> = (1..=args.workers).map(|n| config(args, &bootstrap, n)).collect::<Result<_, _>>()?;
    let first = configs.first().context("at least one worker")?;
    make_topics(first, embedded.as_ref(), args.cameras)?;

    let stage = Stage { args, engine: &engine, configs: &configs, interrupted };
    let summary = stage.play(pictures)?;
    summary.print(args.json, args.svg.as_deref())
}

fn load_pictures(args: &DemoArgs) -> anyhow::Result<Vec<Picture>> {
    let path = super::locate(&args.pictures);
    let source = source::open(&path, &SourceOptions::default())?;
    let pictures = source.take(args.frames).collect::<Result<Vec<_>, _>>()?;
    if pictures.len() < args.frames {
        eprintln!("{} holds {} pictures; each is played once", path.display(), pictures.len());
    }
    if pictures.is_empty() {
        bail!("{} holds no picture", path.display());
    }
    Ok(pictures)
}

/// Settings of one worker: the defaults but for what a small demo on one machine needs.
fn config(args: &DemoArgs, bootstrap: &str, number: usize) -> anyhow::Result<Config> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let run = std::process::id();
    let mut sets = vec![
        format!("worker.name=worker-{number}"),
        format!("kafka.bootstrap_servers={bootstrap}"),
        format!("kafka.group=offramp-demo-{run}"),
        "kafka.session_timeout_ms=6000".into(),
        "kafka.commit_interval_ms=200".into(),
        format!("engine.lanes={}", (cores / args.workers).max(1)),
        format!("exits.seed={}", args.seed),
        // A minute of stream has to show what days would: learning may use one core.
        format!("learning.cpu_share={}", 1.0 / cores as f64),
        "http.listen=".into(),
    ];
    for topic in ["frames", "predictions", "dead_letters", "samples", "heads"] {
        sets.push(format!("topics.{topic}=offramp-demo-{run}.{topic}"));
    }
    Ok(Config::load(None, Vec::new(), &sets)?)
}

fn make_topics(
    config: &Config,
    embedded: Option<&MockCluster<'_, DefaultProducerContext>>,
    cameras: usize,
) -> anyhow::Result<()> {
    let topics = &config.topics;
    let Some(mock) = embedded else {
        let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "demo");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return Ok(runtime.block_on(ensure_topics(&clients, topics))?);
    };
    // The mock cluster has no admin API.
    let cameras = i32::try_from(cameras)?;
    for (topic, partitions) in [
        (&topics.frames, cameras),
        (&topics.predictions, cameras),
        (&topics.dead_letters, 1),
        (&topics.samples, 1),
        (&topics.heads, 1),
    ] {
        mock.create_topic(topic, partitions, 1)?;
    }
    Ok(())
}

/// The demo while it runs.
struct Stage<'a> {
    args: &'a DemoArgs,
    engine: &'a Engine,
    configs: &'a [Config],
    interrupted: Arc<AtomicBool>,
}

impl Stage<'_> {
    fn play(&self, pictures: Vec<Picture>) -> anyhow::Result<Summary> {
        let first = self.configs.first().context("at least one worker")?;
        let total = pictures.len();
        let kept = if self.args.verify { pictures.clone() } else { Vec::new() };
        let observer = Observer::start(first, self.args.cameras, total)?;
        let mut workers = Vec::new();
        for config in self.configs {
            let telemetry = Arc::new(Telemetry::new(&config.name, self.engine.backbone.plan())?);
            workers.push(Worker::start(config, self.engine, telemetry)?);
        }
        let started = Instant::now();
        let feeding = Feeding::start(self.args, first, pictures, observer.progress())?;
        let outcome = self.watch(&observer, &workers, &feeding, started, total);
        let seconds = started.elapsed().as_secs_f64();
        feeding.stop.store(true, Ordering::Release);
        let reports: Vec<Report> = workers.iter().map(|worker| Report::of(worker.telemetry())).collect();
        for worker in &workers {
            worker.stopper().store(true, Ordering::Release);
        }
        let ended: Vec<_> = workers.into_iter().map(Worker::wait).collect();
        let half = outcome?;
        for result in ended {
            result?;
        }
        feeding.join()?;
        let frames = observer.finish();
        let exact = if self.args.verify { Some(verify::verify(self.engine, &frames, &kept)?) } else { None };
        Ok(Summary::new(&frames, &reports, half, exact, seconds))
    }
}

impl Stage<'_> {
    /// Draws the table until every frame is answered. Returns the FLOPs as they stood after the first half.
    fn watch(
        &self,
        observer: &Observer,
        workers: &[Worker],
        feeding: &Feeding,
        started: Instant,
        total: usize,
    ) -> anyhow::Result<Flops> {
        let board = Board::new(self.engine.backbone.plan(), total);
        let mut half = None;
        let mut learner = Patience::default();
        let (mut last, mut progressed) = (0, Instant::now());
        loop {
            std::thread::sleep(REFRESH);
            let answered = observer.answered();
            let reports: Vec<Report> = workers.iter().map(|worker| Report::of(worker.telemetry())).collect();
            if half.is_none() && answered >= total / 2 {
                half = Some(Flops::of(&reports));
            }
            let hold = learner.is_behind(reports.iter().any(Report::is_training));
            feeding.hold.store(hold, Ordering::Release);
            if answered > last || hold {
                (last, progressed) = (answered, Instant::now());
            }
            let per_second = answered as f64 / started.elapsed().as_secs_f64();
            observer.newest(report::WINDOW, |newest| board.show(newest, answered, per_second, &reports));
            if answered >= total {
                board.close();
                return Ok(half.unwrap_or_default());
            }
            let reason = if self.interrupted.load(Ordering::Acquire) {
                "interrupted"
            } else if workers.iter().any(|worker| worker.stopper().load(Ordering::Acquire)) {
                "a worker stopped early"
            } else if progressed.elapsed() > STALLED {
                "no frame was answered for a minute"
            } else {
                continue;
            };
            board.close();
            bail!("{reason} after {answered} of {total} frames");
        }
    }
}

/// How long the learner has been at one training.
#[derive(Default)]
struct Patience {
    training_since: Option<Instant>,
    held: Duration,
}

impl Patience {
    /// To be asked every [`REFRESH`].
    fn is_behind(&mut self, training: bool) -> bool {
        if !training {
            self.training_since = None;
            return false;
        }
        let since = self.training_since.get_or_insert_with(Instant::now);
        let behind = since.elapsed() > PATIENCE && self.held < HELD_MAX;
        if behind {
            self.held += REFRESH;
        }
        behind
    }
}

/// The feeding thread.
struct Feeding {
    thread: std::thread::JoinHandle<Result<FeedReport, FeedError>>,
    stop: Arc<AtomicBool>,
    /// While true the cameras wait.
    hold: Arc<AtomicBool>,
}

impl Feeding {
    /// Feeds at the asked rate, and slower when the workers are behind, because the embedded broker forgets what is too old,
    /// or when the learner is.
    fn start(
        args: &DemoArgs,
        config: &Config,
        pictures: Vec<Picture>,
        answered: impl Fn() -> usize + Send + 'static,
    ) -> anyhow::Result<Self> {
        let options = FeedOptions {
            bootstrap: config.kafka.bootstrap_servers.clone(),
            topic: config.topics.frames.clone(),
            cameras: u32::try_from(args.cameras)?,
            rate: Some(args.rate),
            kafka: Vec::new(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let hold = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&hold);
        let thread = std::thread::Builder::new().name("feeder".into()).spawn(move || {
            feeder::feed(&options, pictures.into_iter().map(Ok), &ended, |progress| {
                let ahead = progress.sent.saturating_sub(answered() as u64);
                if ahead < AHEAD_MAX && !held.load(Ordering::Acquire) { Pace::Go } else { Pace::Wait }
            })
        })?;
        Ok(Self { thread, stop, hold })
    }

    fn join(self) -> anyhow::Result<()> {
        let report = self.thread.join().map_err(|_| anyhow::anyhow!("the feeder panicked"))??;
        match report.first_failure {
            Some(reason) => bail!("{} frames could not be fed: {reason}", report.progress.failed),
            None => Ok(()),
        }
    }
}
