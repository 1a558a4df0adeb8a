//! What `offramp replay` is told.

use std::path::PathBuf;

use super::drift::Drift;
use super::order::Order;
use crate::cli::arguments;
use crate::provider::Provider;

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
