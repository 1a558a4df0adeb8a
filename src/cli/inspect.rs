//! `offramp inspect`: where a model can be cut, what each part costs, and what cutting adds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::json;

use super::arguments;
use crate::backbone::{Backbone, CutView, LoadOptions, Timing};
use crate::engine::{self, Engine};
use crate::plan::{ExitId, ExitPoint, Plan};
use crate::provider::Provider;

/// Batch sizes that are timed.
const BATCHES: [usize; 3] = [1, 8, 32];
/// How many exits are cut for the timing unless told otherwise.
const CUTS: usize = 3;
/// Characters of the bar that shows a share of the FLOPs.
const BAR: usize = 24;

/// Arguments of `offramp inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A folder with a model.toml, such a file, or a bare .onnx.
    pub model: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Draw the backbone as a strip with its exits.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Time the backbone cut at these exits [default: three, spread evenly].
    #[arg(long, value_name = "K,K", value_delimiter = ',')]
    pub exits: Option<Vec<u8>>,
    /// Threads within one operator.
    #[arg(long, default_value_t = 1, value_parser = arguments::some)]
    pub threads: usize,
    /// What runs the model: cpu, cuda, tensorrt or openvino, ONNX Runtime's options behind it (`cuda,device_id=1`).
    #[arg(long, default_value_t, value_name = "NAME[,K=V]")]
    pub provider: Provider,
}

/// Prints what is found, and writes the drawing.
///
/// # Errors
/// When the model cannot be loaded, an exit is unknown, or the drawing cannot be written.
pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    let options = LoadOptions::on(&args.provider, args.threads);
    // Seen on a terminal only: a large model is timed for a minute.
    let progress = ProgressBar::new_spinner().with_message("loading the model");
    progress.enable_steady_tick(Duration::from_millis(250));
    let backbone = Engine::load(&args.model, &options)?.backbone;
    let points = backbone.cut_points();
    if let Some(file) = &args.svg {
        std::fs::write(file, svg(backbone.plan(), &points)).with_context(|| file.display().to_string())?;
    }
    let exits = match args.exits {
        Some(exits) => exits.into_iter().map(ExitId).collect(),
        None => spread(&backbone.plan().candidates),
    };
    let mut timings = BTreeMap::new();
    for batch in BATCHES {
        progress.set_message(format!("timing batches of {batch}"));
        timings.insert(batch, Times { model: backbone.time(&exits, batch)?, head_ms: head_ms(backbone.plan(), batch) });
    }
    progress.finish_and_clear();
    if args.json {
        println!("{}", as_json(&backbone, &points, &exits, &timings));
    } else {
        print!("{}", as_table(&backbone, &points, &exits, &timings));
    }
    Ok(())
}

/// Milliseconds per frame at one batch size.
struct Times {
    model: Timing,
    /// A head of the widest candidate; none without candidates.
    head_ms: Option<f64>,
}

fn head_ms(plan: &Plan, batch: usize) -> Option<f64> {
    let widest = plan.candidates.iter().map(|candidate| candidate.feature_width).max()?;
    Some(engine::head_ms(widest, plan.classes(), batch))
}

/// Three candidates, evenly over the list.
fn spread(candidates: &[ExitPoint]) -> Vec<ExitId> {
    let count = candidates.len();
    let pick = |k: usize| candidates.get(((2 * k + 1) * count) / (2 * CUTS)).map(|point| point.exit);
    if count <= CUTS {
        candidates.iter().map(|point| point.exit).collect()
    } else {
        (0..CUTS).filter_map(pick).collect()
    }
}

fn as_json(
    backbone: &Backbone,
    points: &[CutView],
    exits: &[ExitId],
    timings: &BTreeMap<usize, Times>,
) -> serde_json::Value {
    let candidates = backbone.plan().candidates.iter().map(|point| {
        json!({"exit": point.exit, "tensor": point.tensor, "flops_fraction": point.flops_fraction,
               "feature_width": point.feature_width, "head_flops": point.head_flops})
    });
    let rows = backbone.best_rows(exits);
    let by_batch = |figure: &dyn Fn(&Times) -> Option<f64>| -> BTreeMap<String, Option<f64>> {
        timings.iter().map(|(batch, times)| (batch.to_string(), figure(times))).collect()
    };
    let segments = (0..=exits.len()).map(|segment| {
        let ms = by_batch(&|times| times.model.segments_ms.get(segment).copied());
        json!({"ms": ms, "rows": rows.get(segment)})
    });
    json!({"model": backbone.view(), "cut_points": points, "candidates": candidates.collect::<Vec<_>>(),
           "segments": segments.collect::<Vec<_>>(), "split_over_whole": by_batch(&|times| Some(times.model.ratio)),
           "head_ms": by_batch(&|times| times.head_ms)})
}

fn as_table(backbone: &Backbone, points: &[CutView], exits: &[ExitId], timings: &BTreeMap<usize, Times>) -> String {
    let (view, plan) = (backbone.view(), backbone.plan());
    let mut out = String::new();
    // Borrows its text: rustc 1.95 and 1.96 drop equal constants that a closure takes by value twice
    // (rust-lang/rust#158830). Writing into a String cannot fail.
    let mut line = |text: &str| writeln!(out, "{text}").unwrap_or_default();
    line(&format!(
        "model {}  opset {}  {:.1} MFLOPs a frame  {:.2} M weights  {} classes",
        plan.backbone.short(),
        view.opset,
        plan.flops as f64 / 1e6,
        view.params as f64 / 1e6,
        plan.classes()
    ));
    for (what, tensors) in [("input", &view.inputs), ("output", &view.outputs)] {
        for tensor in tensors {
            line(&format!("{what:<7}{} {}", tensor.name, dims(&tensor.shape)));
        }
    }
    line(&format!("runs   {}", backbone.engine()));
    line("");
    if points.is_empty() {
        line("no tensor has everything passing through it: the model runs whole, without exits");
        return out;
    }
    let widest = |text: fn(&CutView) -> &str| points.iter().map(|point| text(point).chars().count()).max().unwrap_or(0);
    let (wide, op) = (widest(|point| &point.tensor).clamp(6, 44), widest(|point| &point.op).max(12) + 2);
    line(&format!(
        "exit  {:<wide$}  {:<op$}{:<20}{:>6}  {:<BAR$}  width",
        "tensor", "op", "shape", "FLOPs", "spent so far"
    ));
    for point in points {
        let candidate = plan.candidates.iter().find(|candidate| candidate.tensor == point.tensor);
        let exit = candidate.map_or_else(String::new, |candidate| candidate.exit.to_string());
        let width = candidate.map_or_else(String::new, |candidate| candidate.feature_width.to_string());
        line(&format!(
            "{exit:>4}  {:<wide$}  {:<op$}{:<20}{:>5.1}%  {}  {width}",
            shorten(&point.tensor, wide),
            point.op,
            dims(&point.shape),
            100.0 * point.flops_fraction,
            bar(point.flops_fraction)
        ));
    }
    line("");
    let cut = exits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    line(&format!("milliseconds per frame, cut at [{cut}]: medians, in turns with the uncut model"));
    line("batch   whole   split/whole    head   segments");
    for (batch, Times { model: timing, head_ms }) in timings {
        let head = head_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.4}"));
        let segments = timing.segments_ms.iter().map(|ms| format!("{ms:.3}")).collect::<Vec<_>>().join("  ");
        line(&format!("{batch:>5}{:>8.3}{:>14.3}{head:>8}   {segments}", timing.whole_ms, timing.ratio));
    }
    let rows: Vec<String> = backbone.best_rows(exits).iter().map(ToString::to_string).collect();
    line("head: one of the widest candidate, beside the model; the pooling of its features is in the segments");
    line(&format!("each segment runs so many frames at a time, or fewer: {}", rows.join(", ")));
    out
}

fn dims(shape: &[i64]) -> String {
    let dims = shape.iter().map(|&dim| if dim < 0 { "N".to_owned() } else { dim.to_string() });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

/// The end of a long name: exporters put what tells tensors apart last.
fn shorten(name: &str, wide: usize) -> String {
    let length = name.chars().count();
    if length <= wide {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(length - wide + 1).collect::<String>())
    }
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

/// The backbone from left to right, lengths in FLOPs, its candidate exits going off below.
fn svg(plan: &Plan, points: &[CutView]) -> String {
    const LEFT: f64 = 20.0;
    const WIDE: f64 = 920.0;
    let at = |share: f64| LEFT + WIDE * share;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 220\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"960\" height=\"220\" fill=\"#fff\"/>\n",
    );
    let mut add = |text: String| out.push_str(&(text + "\n"));
    add(format!(
        "<text x=\"20\" y=\"30\" font-size=\"16\">backbone {} · {:.1} MFLOPs · {} classes</text>",
        plan.backbone.short(),
        plan.flops as f64 / 1e6,
        plan.classes()
    ));
    add(format!("<rect x=\"{LEFT}\" y=\"60\" width=\"{WIDE}\" height=\"44\" rx=\"4\" fill=\"#dbe4ee\"/>"));
    for point in points {
        let x = at(point.flops_fraction);
        add(format!("<line x1=\"{x:.1}\" y1=\"60\" x2=\"{x:.1}\" y2=\"104\" stroke=\"#8da2b8\"/>"));
    }
    for candidate in &plan.candidates {
        let x = at(candidate.flops_fraction);
        let (exit, share) = (candidate.exit, 100.0 * candidate.flops_fraction);
        let tensor = escape(&candidate.tensor);
        add(format!(
            "<path d=\"M{x:.1} 60V140l-5-8m5 8l5-8\" fill=\"none\" stroke=\"#c2410c\" stroke-width=\"2\">\
             <title>{tensor}</title></path>"
        ));
        add(format!("<text x=\"{x:.1}\" y=\"158\" text-anchor=\"middle\" fill=\"#c2410c\">exit {exit}</text>"));
        add(format!("<text x=\"{x:.1}\" y=\"174\" text-anchor=\"middle\">{share:.0} %</text>"));
    }
    out + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
