//! `offramp run`: settings, model, topics, worker, HTTP; then until SIGTERM, SIGINT or a failure.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ConfigArgs;
use crate::backbone::BackboneError;
use crate::config::{Config, LogFormat, Problem, Topics};
use crate::engine::{Cache, Engine};
use crate::kafka::{Clients, TopicError, ensure_topics};
use crate::observe::health::{Health, STALE_AFTER};
use crate::observe::http::{self, HttpError, Shown, StatusProvider};
use crate::observe::logging;
use crate::observe::telemetry::Telemetry;
use crate::worker::Worker;

/// Longest pause between two attempts to reach the broker.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long open requests may take when the worker has ended.
const HTTP_GRACE: Duration = Duration::from_secs(2);
/// How much longer than measured a batch may take before its lane counts as stuck: the machine may be busy with other things.
const SLOWER: f64 = 5.0;

/// Arguments of `offramp run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Settings.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Runs a worker until it is told to stop or fails.
///
/// # Errors
/// A wrong configuration, or the first failure of a part.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = args.config.load_for_worker()?;
    let format = match config.log.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(format, &config.log.level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let served = runtime.block_on(serve(config));
    // A start that was interrupted may still be measuring: nobody waits for it.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = tokio::select! {
        running = start(config) => running?,
        // Nothing was taken yet: leaving at once loses nothing.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let Running { worker, telemetry, http, http_stop } = running;
    let stop = worker.stopper();
    let mut waiting = tokio::task::spawn_blocking(move || worker.wait());
    let ended = loop {
        tokio::select! {
            ended = &mut waiting => break ended,
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
        telemetry.draining();
        stop.store(true, Ordering::Release);
    };
    drop(http_stop);
    if let Some(http) = http {
        // A client that reads slowly must not hold the worker back.
        if let Ok(ended) = tokio::time::timeout(HTTP_GRACE, http).await {
            ended.context("the HTTP server panicked")??;
        }
    }
    ended.context("the supervisor panicked")??;
    tracing::info!("drained");
    Ok(())
}

/// What runs once everything has started.
struct Running {
    worker: Worker,
    telemetry: Arc<Telemetry>,
    http: Option<JoinHandle<Result<(), HttpError>>>,
    /// Dropped when the worker has ended: the endpoints live until then.
    http_stop: oneshot::Sender<()>,
}

/// Opens the endpoints, loads the model, makes the topics ready, starts the worker. Blocking work stays off the async threads.
async fn start(mut config: Config) -> anyhow::Result<Running> {
    // First: loading and measuring are for nothing where another worker has the port.
    let listener = match config.http {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let (health, shown) = (Health::new(Instant::now(), STALE_AFTER), Arc::new(OnceLock::new()));
    let (http_stop, stopped) = oneshot::channel::<()>();
    let http = listener.map(|listener| endpoints(listener, &health, &shown, stopped)).transpose()?;
    let model = super::locate(&config.model);
    let wanted = config.engine.clone();
    let load = move || {
        let cache = Cache::from_setting(&wanted.cache_dir);
        Engine::load_for(&model, wanted.lanes, wanted.threads_per_lane, &wanted.provider, cache.as_ref())
    };
    let loading = tokio::task::spawn_blocking(load).await;
    let (engine, lanes) = loading.context("loading panicked")?.map_err(unusable_model)?;
    config.engine.lanes = lanes;
    health.bear_with(slowest_batch(&engine, &config).mul_f64(SLOWER));
    let telemetry = Arc::new(Telemetry::with_health(&config.name, engine.backbone.plan(), health)?);
    shown.get_or_init(|| shown_of(&telemetry));
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, &config.name);
    topics_ready(&clients, &config.topics).await?;
    telemetry.broker(true);
    let shared = Arc::clone(&telemetry);
    let started = tokio::task::spawn_blocking(move || Worker::start(&config, &engine, shared)).await;
    Ok(Running { worker: started.context("starting panicked")??, telemetry, http, http_stop })
}

/// Waits for the broker, however long it takes (readiness is false meanwhile), then for nothing: topics that cannot be
/// used are an error.
async fn topics_ready(clients: &Clients, topics: &Topics) -> anyhow::Result<()> {
    let mut pause = Duration::from_secs(1);
    loop {
        match ensure_topics(clients, topics).await {
            Ok(()) => return Ok(()),
            Err(error @ TopicError::Unreachable { .. }) => {
                tracing::warn!(%error, retry_s = pause.as_secs(), "waiting for the broker");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
            Err(error @ TopicError::Refused(_)) => {
                return Err(Problem::found("kafka.properties", "librdkafka", error).into());
            }
            Err(error @ TopicError::Unusable { .. }) => return Err(Problem::found("topics", "broker", error).into()),
        }
    }
}

/// A model that can't be used is a wrong setting: starting again does not help. A missing runtime is not.
fn unusable_model(error: BackboneError) -> anyhow::Error {
    match error {
        BackboneError::Read { .. } | BackboneError::Manifest { .. } | BackboneError::Model { .. } => {
            Problem::found("model.path", "model", error).into()
        }
        BackboneError::Provider(_) => Problem::found("engine.provider", "runtime", error).into(),
        other => other.into(),
    }
}

/// The longest that a lane works without a sign of life: a batch that is all audited, run again for each copy, and the rows that
/// waited within the cascade.
fn slowest_batch(engine: &Engine, config: &Config) -> Duration {
    let runs = 2 + usize::from(config.learning.copies);
    let ms = engine.costs.whole_ms * (config.engine.max_batch * runs) as f64;
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}

fn shown_of(telemetry: &Arc<Telemetry>) -> Shown {
    let of_status = Arc::clone(telemetry);
    // A struct of numbers and strings: it always serialises.
    let status: StatusProvider = Arc::new(move || serde_json::to_value(of_status.status()).unwrap_or_default());
    Shown { metrics: Arc::clone(telemetry.metrics()), status }
}

fn endpoints(
    listener: TcpListener,
    health: &Arc<Health>,
    shown: &Arc<OnceLock<Shown>>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<JoinHandle<Result<(), HttpError>>> {
    tracing::info!(address = %listener.local_addr()?, "metrics and health");
    let shutdown = async move {
        // Either a word or the sender's end says the same.
        let _ended = stopped.await;
    };
    Ok(tokio::spawn(http::serve(listener, Arc::clone(health), Arc::clone(shown), shutdown)))
}
