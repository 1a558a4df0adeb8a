//! `offramp replay`: what offramp would save on a recorded stream, and at what risk, without Kafka.
//!
//! The same engine, audits and learner as in the worker, in one thread and in order. A worker chooses its exits by measured
//! times, and so does a replay; with `--costs flops` a seed gives the same run again. The plain model runs on every frame
//! beside it, in turns, as the judge of disagreement and of time.

mod args;
mod drift;
mod figures;
mod order;
mod played;
mod record;
mod report;
mod risk;
mod series;
mod stream;
mod summary;
mod table;

use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::drift::Shift;
use self::played::Scene;
use self::summary::Summary;
use crate::backbone::LoadOptions;
use crate::decode::Decoder;
use crate::engine::Engine;
use crate::frame::{InputSpec, Origin, RawFrame};
use crate::learn::{LearnConfig, Learner};
use crate::observe::logging;
use crate::source::{self, Label, Picture, SourceOptions};

pub use self::args::{Costs, ReplayArgs};
pub use self::played::{Alarm, Opinion, Outcome, Played};
pub use self::stream::{Learning, Rules, Stream};

/// The topic, and the camera, that recorded frames seem to come from: draws hang on the topic's name.
const NAME: &str = "replay";

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
    let plan = engine.backbone.plan();
    let opinions_from = args.report.is_some().then_some(measured_from);
    let rules = Rules { batch: args.batch, seed: args.seed, copies: u8::try_from(config.copies)?, opinions_from };
    let stream = Stream::new(&engine, Learner::new(plan, engine.costs.clone(), config), rules)?;
    let recording = Recording { pictures: &pictures, order: &order, shift, topic: Arc::from(NAME) };
    let outcome = play(stream, &recording, plan.input.clone(), args.batch)?;
    let truth: Vec<Option<usize>> = order.iter().map(|number| labels.get(*number).copied().flatten()).collect();
    let scene = Scene { plan, pictures: &pictures, order: &order, truth: &truth, shift, outcome: &outcome };
    let summary = Summary::new(&scene, measured_from, args)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print!("{}", table::table(&summary));
    }
    if let Some(path) = &args.report {
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

/// Pictures as frames, in the order in which they are played.
struct Recording<'a> {
    pictures: &'a [Picture],
    order: &'a [usize],
    shift: Option<Shift>,
    topic: Arc<str>,
}

impl Recording<'_> {
    /// Frame `number` of the stream, drift included.
    fn frame(&self, number: usize, decoder: &mut Decoder) -> anyhow::Result<RawFrame> {
        let picture =
            self.order.get(number).and_then(|picture| self.pictures.get(*picture)).context("no such frame")?;
        let drifted = self.shift.map(|shift| shift.apply(decoder, picture, number)).transpose()?.flatten();
        let (payload, content_type) = drifted.unwrap_or_else(|| (picture.bytes.clone(), picture.content_type.clone()));
        Ok(RawFrame {
            origin: Origin { topic: Arc::clone(&self.topic), partition: 0, offset: number as i64 },
            key: Some(NAME.into()),
            payload,
            captured_at_ms: None,
            headers: vec![("content-type".to_owned(), Some(content_type.into_bytes()))],
            headers_left_out: 0,
        })
    }
}

fn play(
    mut stream: Stream<'_, Learner>,
    recording: &Recording<'_>,
    input: InputSpec,
    batch: usize,
) -> anyhow::Result<Outcome> {
    let frames = recording.order.len();
    let bar = ProgressBar::new(frames as u64);
    let style = ProgressStyle::with_template("{bar:40.cyan/dim} {pos}/{len} frames  {elapsed}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut decoder = Decoder::new(input, stream::LIMITS);
    for first in (0..frames).step_by(batch) {
        let end = frames.min(first + batch);
        let frame = |number| recording.frame(number, &mut decoder).map_err(|error| format!("{error:#}"));
        stream.batch((first..end).map(frame).collect())?;
        bar.set_position(end as u64);
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
