//! `offramp replay`: what offramp would save on a recorded stream, and at what risk, without Kafka.
//!
//! The same engine, audits and learner as in the worker, in one thread and in order, so that a seed gives the same run
//! (but for measured times, on which the choice of exits depends). The plain model runs on every frame beside it, in
//! turns, as the judge of disagreement and of time.

mod order;
mod report;
mod stream;

use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::order::Order;
use self::report::Summary;
use self::stream::Stream;
use crate::backbone::LoadOptions;
use crate::learn::LearnConfig;
use crate::observe::logging;
use crate::source::{self, Picture, SourceOptions};
use crate::worker::Engine;

/// Arguments of `offramp replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// A folder with a model.toml, such a file, or a bare .onnx.
    #[arg(long, value_name = "M")]
    pub model: PathBuf,
    /// Frames: a folder of pictures (a sub-folder's name is the class), a video, a .npy or IDX file.
    #[arg(long, value_name = "PATH")]
    pub frames: PathBuf,
    /// True classes, for accuracy: IDX, .npy, or text with one class a line.
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Order of the frames.
    #[arg(long, value_enum, default_value_t = Order::File)]
    pub order: Order,
    /// Share of the stream after which the figures are taken.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub measure_from: f64,
    /// Promise: the share of answers that differ from the full model's.
    #[arg(long, default_value_t = 0.01)]
    pub epsilon: f64,
    /// One minus the confidence in it.
    #[arg(long, default_value_t = 0.05)]
    pub delta: f64,
    /// Least share of frames audited.
    #[arg(long, default_value_t = 0.01)]
    pub audit_floor: f64,
    /// Seed of order, audits and learning.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Frames in a batch.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// ONNX Runtime threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Do not train on mirrored and shifted copies of audited frames.
    #[arg(long)]
    pub no_copies: bool,
    /// Play only the first N frames.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write a report with plots as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Log level.
    #[arg(long, default_value = "warn")]
    pub log: String,
}

/// Replays a stream and prints what came of it.
///
/// # Errors
/// When the model or the frames cannot be used.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    logging::init(logging::Format::Text, &args.log)?;
    if args.batch == 0 || args.threads == 0 || !(0.0..1.0).contains(&args.measure_from) {
        bail!("--batch and --threads must be above zero, --measure-from in [0, 1)");
    }
    let pictures = pictures(args)?;
    eprintln!("loading the model and measuring what its parts cost …");
    let options = LoadOptions { intra_threads: args.threads, ..LoadOptions::default() };
    let engine = Engine::load(&super::locate(&args.model), &options)?;
    let labels: Vec<Option<usize>> = pictures
        .iter()
        .map(|picture| picture.label.as_ref().and_then(|label| label.resolve(&engine.backbone.plan().labels)))
        .collect();
    let order = order::arrange(args.order, &labels, args.seed)?;
    let config = LearnConfig {
        epsilon: args.epsilon,
        delta: args.delta,
        audit_floor: args.audit_floor,
        seed: args.seed,
        copies: if args.no_copies { 0 } else { LearnConfig::default().copies },
        ..LearnConfig::default()
    };
    let bar = ProgressBar::new(order.len() as u64);
    let style = ProgressStyle::with_template("{bar:40.cyan/dim} {pos}/{len} frames  {elapsed}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut stream = Stream::new(&engine, config, args.batch)?;
    for (batch, numbers) in order.chunks(args.batch).enumerate() {
        let frames: Vec<&Picture> = numbers.iter().filter_map(|number| pictures.get(*number)).collect();
        stream.batch(&frames, batch * args.batch)?;
        bar.set_position(((batch + 1) * args.batch) as u64);
        bar.set_message(stream.note());
    }
    bar.finish_and_clear();
    let truth: Vec<Option<usize>> = order.iter().map(|number| labels.get(*number).copied().flatten()).collect();
    let summary = Summary::new(&engine, stream.finish(), &truth, args);
    summary.print(args.json)?;
    if let Some(path) = &args.report {
        std::fs::write(path, summary.html()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn pictures(args: &ReplayArgs) -> anyhow::Result<Vec<Picture>> {
    let options = SourceOptions { labels: args.labels.clone(), ..SourceOptions::default() };
    let source = source::open(&args.frames, &options)?;
    let pictures = source.take(args.limit.unwrap_or(usize::MAX)).collect::<Result<Vec<_>, _>>()?;
    if pictures.is_empty() {
        bail!("{} holds no frame", args.frames.display());
    }
    Ok(pictures)
}
