//! `offramp replay`: what offramp would save on a recorded stream, and at what risk, without Kafka.
//!
//! The same engine, audits and learner as in the worker, in one thread and in order. A worker chooses its exits by measured
//! times, and so does a replay; with `--costs flops` a seed gives the same run again. The plain model runs on every frame
//! beside it, in turns, as the judge of disagreement and of time.

mod drift;
mod order;
mod played;
mod report;
mod risk;
mod series;
mod stream;
mod summary;
mod table;

use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::drift::{Drift, Shift};
use self::order::Order;
use self::played::Outcome;
use self::report::Scene;
use self::stream::{Rules, Stream};
use self::summary::Summary;
use super::arguments;
use crate::backbone::LoadOptions;
use crate::engine::Engine;
use crate::learn::LearnConfig;
use crate::observe::logging;
use crate::provider::Provider;
use crate::source::{self, Label, Picture, SourceOptions};

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
    /// Change the frames from --drift-from on, as a camera does that gets dirty, dark or turned.
    #[arg(long, value_enum, value_name = "KIND")]
    pub drift: Option<Drift>,
    /// Share of the stream after which frames drift.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = arguments::share)]
    pub drift_from: f64,
    /// Share of the stream after which the figures are taken.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = arguments::place)]
    pub measure_from: f64,
    /// Promise: the share of answers that differ from the full model's.
    #[arg(long, default_value_t = 0.01, value_parser = arguments::epsilon)]
    pub epsilon: f64,
    /// One minus the confidence in it.
    #[arg(long, default_value_t = 0.05, value_parser = arguments::delta)]
    pub delta: f64,
    /// Least share of frames audited.
    #[arg(long, default_value_t = 0.01, value_parser = arguments::audit_floor)]
    pub audit_floor: f64,
    /// What exits are chosen by.
    #[arg(long, value_enum, default_value_t = Costs::Time)]
    pub costs: Costs,
    /// Seed of order, audits and learning.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Frames in a batch.
    #[arg(long, default_value_t = 8, value_parser = arguments::some)]
    pub batch: usize,
    /// ONNX Runtime threads.
    #[arg(long, default_value_t = 1, value_parser = arguments::some)]
    pub threads: usize,
    /// What runs the model: cpu, cuda, tensorrt or openvino, ONNX Runtime's options behind it (`cuda,device_id=1`).
    #[arg(long, default_value_t, value_name = "NAME[,K=V]")]
    pub provider: Provider,
    /// Do not train on mirrored and shifted copies of audited frames.
    #[arg(long)]
    pub no_copies: bool,
    /// Play only the first N frames.
    #[arg(long, value_name = "N", value_parser = arguments::many)]
    pub limit: Option<usize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write a report with plots as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Log level.
    #[arg(long, default_value = "warn", value_parser = arguments::log_filter)]
    pub log: String,
}

/// What the parts of a model cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Costs {
    /// The time that they take on this machine, measured at the start: what a worker goes by.
    Time,
    /// Their FLOPs: nothing depends on a clock, and a seed gives the same run again.
    Flops,
}

/// Replays a stream and prints what came of it.
///
/// # Errors
/// When the model or the frames cannot be used.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    logging::init(logging::Format::Text, &args.log)?;
    if let Some(path) = &args.report {
        // Now rather than after the whole stream.
        let file = std::fs::File::options().append(true).create(true).open(path);
        file.with_context(|| format!("writing {}", path.display()))?;
    }
    let pictures = pictures(args)?;
    let engine = engine(args)?;
    let labels = classes(&pictures, &engine.backbone.plan().labels)?;
    let order = order::arrange(args.order, &labels, args.seed)?;
    let config = LearnConfig {
        epsilon: args.epsilon,
        delta: args.delta,
        audit_floor: args.audit_floor,
        seed: args.seed,
        copies: if args.no_copies { 0 } else { LearnConfig::default().copies },
        ..LearnConfig::default()
    };
    let place = |share: f64| ((order.len() as f64 * share) as usize).min(order.len() - 1);
    let measured_from = place(args.measure_from);
    let shift = args.drift.map(|kind| Shift { kind, from: place(args.drift_from), seed: args.seed });
    let rules = Rules { batch: args.batch, shift, opinions_from: args.report.is_some().then_some(measured_from) };
    let outcome = play(Stream::new(&engine, config, rules)?, &pictures, &order, args.batch)?;
    let truth: Vec<Option<usize>> = order.iter().map(|number| labels.get(*number).copied().flatten()).collect();
    let plan = engine.backbone.plan();
    let summary = Summary::new(plan, &outcome, &truth, measured_from, shift, args)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print!("{}", table::table(&summary));
    }
    if let Some(path) = &args.report {
        let scene = Scene { plan, pictures: &pictures, order: &order, truth: &truth, shift, outcome: &outcome };
        std::fs::write(path, report::html(&summary, &scene)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn engine(args: &ReplayArgs) -> anyhow::Result<Engine> {
    let options = LoadOptions::on(&args.provider, args.threads);
    let model = super::locate(&args.model);
    if args.costs == Costs::Flops {
        return Ok(Engine::load_unmeasured(&model, &options)?);
    }
    eprintln!("loading the model and measuring what its parts cost …");
    Ok(Engine::load(&model, &options)?)
}

fn play(mut stream: Stream<'_>, pictures: &[Picture], order: &[usize], batch: usize) -> anyhow::Result<Outcome> {
    let bar = ProgressBar::new(order.len() as u64);
    let style = ProgressStyle::with_template("{bar:40.cyan/dim} {pos}/{len} frames  {elapsed}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut first = 0;
    for numbers in order.chunks(batch) {
        let frames: Vec<&Picture> = numbers.iter().filter_map(|number| pictures.get(*number)).collect();
        stream.batch(&frames, first)?;
        first += numbers.len();
        bar.set_position(first as u64);
        bar.set_message(stream.note());
    }
    bar.finish_and_clear();
    stream.finish()
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

/// The true class of each picture, where it is known. Numbers must be classes of the model; a name that is none (a folder
/// named otherwise) says nothing.
fn classes(pictures: &[Picture], names: &[String]) -> anyhow::Result<Vec<Option<usize>>> {
    let mut foreign = None;
    let mut classes = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let class = picture.label.as_ref().and_then(|label| label.resolve(names));
        match (&picture.label, class) {
            (Some(Label::Index(index)), None) => {
                let (name, last) = (&picture.name, names.len().saturating_sub(1));
                bail!("label {index} of {name} is no class of the model, which has 0 to {last}; check --labels");
            }
            (Some(Label::Name(name)), None) => {
                let (_, count) = foreign.get_or_insert((name, 0_usize));
                *count += 1;
            }
            _ => {}
        }
        classes.push(class);
    }
    if let Some((name, count)) = foreign {
        eprintln!("{count} of {} frames have a label that the model does not know, such as {name:?}", pictures.len());
    }
    Ok(classes)
}
