//! `offramp feed`: puts frames from files into Kafka, as cameras would.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::source::feeder::{self, FeedOptions, FeedProgress, FeedReport, Pace, Rate};
use crate::source::{self, Encoding, FrameSource, Picture, SourceError, SourceOptions};

/// Put frames into Kafka: a folder of images, a video, an .npy or an IDX file.
#[derive(Debug, Clone, clap::Args)]
pub struct FeedArgs {
    /// Kafka's address.
    #[arg(long, value_name = "HOST:PORT", env = "KAFKA_BOOTSTRAP", default_value = "localhost:9092")]
    pub bootstrap: String,
    /// The topic for the frames; it must exist.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// A folder of JPEG, PNG or WebP files, a video, a Motion JPEG file, an .npy or an IDX file (.gz or not).
    #[arg(long, value_name = "PATH")]
    pub frames: PathBuf,
    /// How many cameras to play: frames go to camera-1, camera-2, … in turn.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub cameras: u32,
    /// Frames per second, of all cameras together; without it as fast as Kafka takes them.
    #[arg(long, value_name = "FPS")]
    pub rate: Option<Rate>,
    /// What arrays are encoded as; pictures in files stay as they are.
    #[arg(long, value_enum, default_value_t = Encoding::Png)]
    pub format: Encoding,
    /// Stop after so many frames.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Start again at the end, until stopped.
    #[arg(long = "loop")]
    pub again: bool,
    /// True classes (IDX, .npy or text): checked against the frames, never sent.
    #[arg(long, value_name = "PATH")]
    pub labels: Option<PathBuf>,
    /// Only these frames of an array: an .npy of indices.
    #[arg(long, value_name = "PATH")]
    pub pick: Option<PathBuf>,
    /// A librdkafka setting; may be repeated.
    #[arg(long = "set-kafka", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set_kafka: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Feeds until the frames end, the limit is reached or Ctrl-C is pressed.
///
/// # Errors
/// If the frames cannot be read, Kafka cannot be reached, or frames were not delivered.
pub fn run(args: FeedArgs) -> anyhow::Result<()> {
    let options = SourceOptions {
        encoding: args.format,
        labels: args.labels.clone(),
        pick: args.pick.clone(),
        ..SourceOptions::default()
    };
    let first = source::open(&args.frames, &options)?;
    let total = if args.again { args.limit } else { at_most(first.frames(), args.limit) };
    let pictures = Repeat { path: args.frames.clone(), options, again: args.again, current: first, yielded: false };
    let pictures = pictures.take(args.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
    let feed_options = FeedOptions {
        bootstrap: args.bootstrap,
        topic: args.topic.clone(),
        cameras: args.cameras,
        rate: args.rate,
        kafka: args.set_kafka,
    };
    let stop = stop_on_ctrl_c()?;
    let bar = bar(total)?;
    let report = feeder::feed(&feed_options, pictures, &stop, |progress| {
        show(&bar, progress);
        Pace::Go
    });
    bar.finish_and_clear();
    summarise(&report?, &args.topic, args.cameras)
}

fn at_most(frames: Option<u64>, limit: Option<u64>) -> Option<u64> {
    match (frames, limit) {
        (Some(frames), Some(limit)) => Some(frames.min(limit)),
        (frames, limit) => frames.or(limit),
    }
}

/// One line on stdout; frames that were not delivered are an error.
fn summarise(report: &FeedReport, topic: &str, cameras: u32) -> anyhow::Result<()> {
    let FeedProgress { delivered, failed, bytes, .. } = report.progress;
    let seconds = report.elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { delivered as f64 / seconds } else { 0.0 };
    let stopped = if report.stopped { ", stopped" } else { "" };
    let megabytes = bytes as f64 / 1e6;
    writeln!(
        std::io::stdout(),
        "fed {delivered} frames of {cameras} cameras into {topic} in {seconds:.1} s ({rate:.0}/s, {megabytes:.1} MB{stopped})"
    )
    .context("cannot write the summary")?;
    if failed > 0 {
        let reason = report.first_failure.as_deref().unwrap_or("no reason given");
        bail!("frames not delivered: {failed}; the first: {reason}");
    }
    Ok(())
}

fn bar(total: Option<u64>) -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:40.cyan} {pos}/{len} frames · {per_sec} · {msg} · {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} frames · {per_sec} · {msg}"),
    };
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}

fn show(bar: &ProgressBar, progress: &FeedProgress) {
    bar.set_position(progress.sent);
    if progress.sent.is_multiple_of(64) {
        bar.set_message(format!("{} delivered, {} failed", progress.delivered, progress.failed));
    }
}

/// A flag that Ctrl-C sets; what was handed over is still delivered. A second Ctrl-C ends the process.
fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the process at once; the first only sets the flag, hence this order.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("cannot wait for Ctrl-C")?;
        flag::register(signal, Arc::clone(&stop)).context("cannot wait for Ctrl-C")?;
    }
    Ok(stop)
}

/// A source that is opened again at its end.
struct Repeat {
    path: PathBuf,
    options: SourceOptions,
    again: bool,
    current: Box<dyn FrameSource>,
    /// Whether the current round gave a frame: a source that gives none would be opened for ever.
    yielded: bool,
}

impl Iterator for Repeat {
    type Item = Result<Picture, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(picture) = self.current.next() {
            self.yielded |= picture.is_ok();
            return Some(picture);
        }
        if !self.again || !self.yielded {
            return None;
        }
        self.yielded = false;
        match source::open(&self.path, &self.options) {
            Ok(source) => {
                self.current = source;
                self.next()
            }
            Err(error) => Some(Err(error)),
        }
    }
}
