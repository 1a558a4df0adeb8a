//! `offramp run`: settings, model, topics, worker, HTTP; then until SIGTERM, SIGINT or a failure.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::ConfigArgs;
use crate::backbone::{Backbone, LoadOptions};
use crate::config::Config;
use crate::kafka::{Clients, ensure_topics};
use crate::observe;
use crate::observe::telemetry::Telemetry;
use crate::worker::{Engine, Worker};

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
    let config = args.config.load()?;
    observe::logging::init(&config.log.level, config.log.format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let telemetry = Arc::new(Telemetry::install(&config.name)?);
    let (http_stop, http_stopped) = tokio::sync::oneshot::channel::<()>();
    let http = match config.http {
        Some(address) => Some(observe::http::spawn(address, Arc::clone(&telemetry), http_stopped).await?),
        None => None,
    };

    let starting = start(config, Arc::clone(&telemetry));
    let worker = tokio::select! {
        worker = starting => worker?,
        // Nothing was taken yet: leaving at once loses nothing.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
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
        http.await.context("the HTTP server panicked")?;
    }
    ended.context("the supervisor panicked")??;
    tracing::info!("drained");
    Ok(())
}

/// Loads the model and makes the topics ready, then starts the worker; blocking work stays off the async threads.
async fn start(config: Config, telemetry: Arc<Telemetry>) -> anyhow::Result<Worker> {
    let model = super::locate(&config.model);
    let options = LoadOptions { intra_threads: config.engine.threads_per_lane, ..LoadOptions::default() };
    let engine = tokio::task::spawn_blocking(move || Engine::load(&model, &options)).await.context("loading panicked")??;
    telemetry.model_loaded(engine.backbone.plan());
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, &config.name);
    ensure_topics(&clients, &config.topics).await?;
    let started = tokio::task::spawn_blocking(move || Worker::start(&config, &engine, telemetry)).await;
    Ok(started.context("starting panicked")??)
}

impl Engine {
    /// Loads a backbone and measures what its parts cost on this machine.
    ///
    /// # Errors
    /// When the model cannot be used; the error names the file and the fix.
    pub fn load(model: &std::path::Path, options: &LoadOptions) -> anyhow::Result<Self> {
        let backbone = Backbone::load(model, options)?;
        let costs = backbone.measure(crate::worker::LIVE_BATCH)?;
        Ok(Self { backbone: Arc::new(backbone), costs })
    }
}
