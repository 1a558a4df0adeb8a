//! `offramp run`: settings, model, topics, worker, HTTP; then until SIGTERM, SIGINT or a failure.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ConfigArgs;
use crate::backbone::BackboneError;
use crate::config::{Config, LogFormat, Problem, Topics};
use crate::engine::Engine;
use crate::kafka::{Clients, TopicError, ensure_topics};
use crate::observe::http::{self, HttpError, StatusProvider};
use crate::observe::logging;
use crate::observe::telemetry::Telemetry;
use crate::worker::Worker;

/// Longest pause between two attempts to reach the broker.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long open requests may take when the worker has ended.
const HTTP_GRACE: Duration = Duration::from_secs(2);

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

/// Takes the port, loads the model, opens the endpoints, makes the topics ready, starts the worker. Blocking work stays off
/// the async threads.
async fn start(mut config: Config) -> anyhow::Result<Running> {
    // First: loading and measuring are for nothing where another worker has the port.
    let listener = match config.http {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let model = super::locate(&config.model);
    let wanted = config.engine.clone();
    let load = move || Engine::load_for(&model, wanted.lanes, wanted.threads_per_lane, &wanted.provider);
    let loading = tokio::task::spawn_blocking(load).await;
    let (engine, lanes) = loading.context("loading panicked")?.map_err(unusable_model)?;
    config.engine.lanes = lanes;
    let telemetry = Arc::new(Telemetry::new(&config.name, engine.backbone.plan())?);
    let (http_stop, stopped) = oneshot::channel::<()>();
    let http = listener.map(|listener| endpoints(listener, &telemetry, stopped)).transpose()?;
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

fn endpoints(
    listener: TcpListener,
    telemetry: &Arc<Telemetry>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<JoinHandle<Result<(), HttpError>>> {
    tracing::info!(address = %listener.local_addr()?, "metrics and health");
    let shown = Arc::clone(telemetry);
    // A struct of numbers and strings: it always serialises.
    let status: StatusProvider = Arc::new(move || serde_json::to_value(shown.status()).unwrap_or_default());
    let (metrics, health) = (Arc::clone(telemetry.metrics()), Arc::clone(telemetry.health()));
    let shutdown = async move {
        // Either a word or the sender's end says the same.
        let _ended = stopped.await;
    };
    Ok(tokio::spawn(http::serve(listener, metrics, health, status, shutdown)))
}
