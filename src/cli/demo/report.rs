//! The demo's table while it runs, and its summary, picture and JSON at the end.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

use super::observer::Seen;
use super::plot;
use crate::heads::Certificate;
use crate::observe::status::Status;
use crate::observe::telemetry::Telemetry;
use crate::plan::Plan;

/// Frames over which the live table and the picture average.
pub(super) const WINDOW: usize = 500;

/// What a worker tells of itself at one moment.
pub(super) struct Report {
    status: Status,
    certificate: Option<Certificate>,
    flops: (u64, u64),
}

impl Report {
    pub(super) fn of(telemetry: &Telemetry) -> Self {
        Self {
            status: telemetry.status(),
            certificate: telemetry.heads().certificate().copied(),
            flops: telemetry.flops_totals(),
        }
    }

    pub(super) fn is_training(&self) -> bool {
        self.status.learner.state == "training"
    }
}

/// The live table on stderr; without a terminal nothing is drawn.
pub(super) struct Board {
    bar: ProgressBar,
    plan_exits: Vec<f64>,
}

impl Board {
    pub(super) fn new(plan: &Plan, total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        let style = ProgressStyle::with_template("{bar:48.cyan/dim} {pos}/{len} frames  {elapsed} elapsed\n{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, plan_exits: plan.candidates.iter().map(|point| point.flops_fraction).collect() }
    }

    pub(super) fn show(&self, newest: &[Seen], answered: usize, per_second: f64, reports: &[Report]) {
        self.bar.set_position(answered as u64);
        self.bar.set_message(self.text(newest, per_second, reports));
    }

    pub(super) fn close(&self) {
        self.bar.finish_and_clear();
    }

    fn text(&self, newest: &[Seen], per_second: f64, reports: &[Report]) -> String {
        let mut text = String::new();
        let count = newest.len().max(1) as f64;
        // Writing into a string cannot fail.
        writeln!(text, "\n  {per_second:.0} frames/s, last {} frames:", newest.len()).unwrap_or_default();
        for (index, share) in self.shares(newest).iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let name = self
                .plan_exits
                .get(index)
                .map_or("full model".into(), |f| format!("exit {} ({:.0} % of the model)", index + 1, f * 100.0));
            writeln!(text, "    {name:<26} {:>5.1} %  {}", share * 100.0, bar(*share, 30)).unwrap_or_default();
        }
        let hits = newest.iter().filter(|seen| seen.left_early()).count() as f64 / count;
        writeln!(text, "    {:<26} {:>5.1} %", "hit rate", hits * 100.0).unwrap_or_default();
        writeln!(text, "\n  {:<10} {:>8} {:>8} {:>7} {:>7}  learner", "worker", "frames", "hits", "policy", "audits")
            .unwrap_or_default();
        for Report { status, .. } in reports {
            writeln!(
                text,
                "  {:<10} {:>8} {:>6.1} % {:>7} {:>5.0} %  {}",
                status.worker,
                status.frames.total,
                status.hit_rate.unwrap_or_default() * 100.0,
                format!("v{}", status.policy.version),
                status.policy.audit_rate * 100.0,
                if status.learner.here { format!("● {}", status.policy.note) } else { String::new() },
            )
            .unwrap_or_default();
        }
        let certificate = reports.iter().find_map(|report| report.certificate.as_ref());
        writeln!(text, "\n  disagreement  {}", promise(certificate)).unwrap_or_default();
        let ratio = Flops::of(reports).ratio_since(Flops::default());
        write!(
            text,
            "  FLOPs         {:.0} % of the plain model's since the start, audits and their copies included",
            ratio * 100.0
        )
        .unwrap_or_default();
        text
    }

    /// Shares by exit, the full model last.
    fn shares(&self, newest: &[Seen]) -> Vec<f64> {
        let mut shares = vec![0.0; self.plan_exits.len() + 1];
        for seen in newest.iter().filter_map(|s| s.prediction.as_ref()) {
            let slot = seen.exit.map_or(self.plan_exits.len(), crate::plan::ExitId::index);
            if let Some(share) = shares.get_mut(slot) {
                *share += 1.0 / newest.len() as f64;
            }
        }
        shares
    }
}

fn bar(share: f64, width: usize) -> String {
    "█".repeat((share * width as f64).round() as usize)
}

fn promise(certificate: Option<&Certificate>) -> String {
    match certificate {
        None => "nothing certified yet: every frame goes all the way".into(),
        Some(c) => format!(
            "at most {:.2} % with {:.0} % confidence ({} of {} audits differed; promised {:.2} %)",
            c.bound * 100.0,
            (1.0 - c.delta) * 100.0,
            c.disagreements,
            c.n,
            c.epsilon * 100.0
        ),
    }
}

/// FLOPs of all workers together, up to some moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flops {
    spent: u64,
    plain: u64,
}

impl Flops {
    pub(super) fn of(reports: &[Report]) -> Self {
        reports
            .iter()
            .map(|report| report.flops)
            .fold(Self::default(), |sum, (spent, plain)| Self { spent: sum.spent + spent, plain: sum.plain + plain })
    }

    /// Spent over what the plain model would have spent, from `earlier` until now.
    fn ratio_since(self, earlier: Self) -> f64 {
        let plain = self.plain.saturating_sub(earlier.plain).max(1);
        self.spent.saturating_sub(earlier.spent) as f64 / plain as f64
    }
}

/// One worker's part.
#[derive(Debug, Serialize)]
pub(super) struct Replica {
    name: String,
    frames: usize,
    hit_rate: f64,
    policy: u64,
    learner: bool,
}

/// The result of a demo; its JSON is a contract.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    frames: usize,
    predictions: usize,
    dead_letters: usize,
    hit_rate: f64,
    disagreement: Option<f64>,
    certificate: Option<Certificate>,
    flops_ratio: f64,
    first_exit_frame: Option<usize>,
    seconds: f64,
    replicas: Vec<Replica>,
    #[serde(skip)]
    exact: bool,
    #[serde(skip)]
    curve: Vec<(f32, f32)>,
}

impl Summary {
    /// `frames` in feeding order. `exact` is the disagreement of the last half against the full model, if it was run.
    pub(super) fn new(frames: &[Seen], reports: &[Report], half: Flops, exact: Option<f64>, seconds: f64) -> Self {
        let last = &frames[frames.len() / 2..];
        let rate = |part: &[&Seen]| part.iter().filter(|s| s.left_early()).count() as f64 / part.len().max(1) as f64;
        let replicas = reports.iter().map(|Report { status, .. }| {
            let own: Vec<&Seen> = last.iter().filter(|s| s.worker == status.worker).collect();
            Replica {
                name: status.worker.clone(),
                frames: frames.iter().filter(|s| s.worker == status.worker).count(),
                hit_rate: rate(&own),
                policy: status.policy.version,
                learner: status.learner.here,
            }
        });
        let audits: Vec<bool> =
            last.iter().filter_map(|s| s.prediction.as_ref()?.audit.as_ref()).map(|note| note.agrees).collect();
        let audited =
            (!audits.is_empty()).then(|| audits.iter().filter(|agrees| !**agrees).count() as f64 / audits.len() as f64);
        Self {
            frames: frames.len(),
            predictions: frames.iter().filter(|s| s.prediction.is_some()).count(),
            dead_letters: frames.iter().filter(|s| s.prediction.is_none()).count(),
            hit_rate: rate(&last.iter().collect::<Vec<_>>()),
            disagreement: exact.or(audited),
            certificate: reports.iter().max_by_key(|r| r.status.policy.version).and_then(|r| r.certificate),
            flops_ratio: Flops::of(reports).ratio_since(half),
            first_exit_frame: frames.iter().position(Seen::left_early),
            seconds,
            replicas: replicas.collect(),
            exact: exact.is_some(),
            curve: curve(frames),
        }
    }

    /// Prints the result on stdout.
    pub(super) fn print(&self, json: bool, svg: Option<&Path>) -> anyhow::Result<()> {
        if let Some(path) = svg {
            std::fs::write(path, self.svg()).with_context(|| format!("writing {}", path.display()))?;
        }
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("hit rate over time (share of frames that left early, {WINDOW} frames each)\n");
        let shares: Vec<f32> = self.curve.iter().map(|(_, percent)| percent / 100.0).collect();
        println!("{}", plot::columns(&shares, &format!("frame {}", self.frames)));
        println!(
            "frames          {} in {:.0} s, {} predictions, {} dead letters",
            self.frames, self.seconds, self.predictions, self.dead_letters
        );
        match self.first_exit_frame {
            Some(frame) => println!("first exit      frame {frame}"),
            None => println!("first exit      none: nothing could be certified on so few frames"),
        }
        println!(
            "last half       hit rate {:.1} %, FLOPs {:.1} % of the plain model's (heads and audits included)",
            self.hit_rate * 100.0,
            self.flops_ratio * 100.0
        );
        if let Some(disagreement) = self.disagreement {
            let how = if self.exact {
                "exact: the full model ran on every frame"
            } else {
                "on audited frames; --verify gives the exact figure"
            };
            println!("disagreement    {:.2} % ({how})", disagreement * 100.0);
        }
        println!("promise         {}", promise(self.certificate.as_ref()));
        for replica in &self.replicas {
            let role = if replica.learner { ", learned for both" } else { "" };
            println!(
                "{:<15} {} frames, hit rate {:.1} % in the last half, policy v{}{role}",
                replica.name,
                replica.frames,
                replica.hit_rate * 100.0,
                replica.policy
            );
        }
        Ok(())
    }
}

impl Summary {
    fn svg(&self) -> String {
        let (width, height, left, top) = (720.0_f32, 260.0_f32, 50.0_f32, 30.0_f32);
        let end = self.curve.last().map_or(1.0, |(frame, _)| *frame).max(1.0);
        let point = |(frame, percent): &(f32, f32)| {
            format!("{:.1},{:.1}", left + frame / end * width, top + height - percent / 100.0 * height)
        };
        let line: Vec<String> = self.curve.iter().map(point).collect();
        let mut grid = String::new();
        for percent in [0_u8, 25, 50, 75, 100] {
            let y = top + height - f32::from(percent) / 100.0 * height;
            write!(
                grid,
                "<line x1='{left}' x2='{}' y1='{y}' y2='{y}' stroke='#ddd'/>\
                 <text x='{}' y='{}' text-anchor='end'>{percent} %</text>",
                left + width,
                left - 8.0,
                y + 4.0
            )
            .unwrap_or_default();
        }
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 800 330' font-family='sans-serif' font-size='12'>\
             <rect width='800' height='330' fill='white'/>{grid}\
             <text x='{left}' y='18' font-size='14'>offramp demo: share of frames that left early</text>\
             <text x='{}' y='{}' text-anchor='end'>frame {end:.0}</text>\
             <polyline fill='none' stroke='#0a7' stroke-width='2' points='{}'/></svg>\n",
            left + width,
            top + height + 20.0,
            line.join(" ")
        )
    }
}

/// Points of (frame, hit rate in percent), each over the last [`WINDOW`] frames.
fn curve(frames: &[Seen]) -> Vec<(f32, f32)> {
    let step = (frames.len() / 100).max(1);
    let ends = (step..=frames.len()).step_by(step);
    let rate = |end: usize| {
        let part = &frames[end.saturating_sub(WINDOW)..end];
        100.0 * part.iter().filter(|s| s.left_early()).count() as f32 / part.len().max(1) as f32
    };
    ends.map(|end| (end as f32, rate(end))).collect()
}
