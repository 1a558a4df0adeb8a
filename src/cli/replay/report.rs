//! What a replay found: the contract's JSON, a table for the terminal, and one HTML file with plots.

use std::fmt::Write as _;

use serde::Serialize;

use super::ReplayArgs;
use super::stream::{Outcome, Played};
use crate::heads::Certificate;
use crate::plan::{ExitId, ExitPoint};
use crate::worker::Engine;

/// Points of a curve.
const POINTS: usize = 100;

#[derive(Debug, Serialize)]
struct ExitRow {
    exit: ExitId,
    flops_fraction: f64,
    /// Confidence needed at the end; null: off by then.
    threshold: Option<f64>,
    share: f64,
}

#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the contract's names")]
struct Bound {
    n: u64,
    disagreements: u64,
    bound: f64,
}

#[derive(Debug, Serialize)]
struct Accuracy {
    backbone: f64,
    served: f64,
}

#[derive(Debug, Serialize)]
struct Throughput {
    plain: f64,
    offramp: f64,
}

#[derive(Debug, Serialize)]
struct AlarmRow {
    frame: usize,
    audits: u64,
    disagreements: u64,
    exits_back_at: Option<usize>,
}

/// The result of a replay; its JSON is a contract. All figures are of the measured part but `alarms`,
/// `first_exit_frame` and `learn_cpu_share`, which are of the whole stream.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    frames: usize,
    measured: usize,
    epsilon: f64,
    delta: f64,
    exits: Vec<ExitRow>,
    hit_rate: f64,
    disagreement: f64,
    certificate: Option<Bound>,
    accuracy: Option<Accuracy>,
    flops_ratio: f64,
    time_ratio: f64,
    throughput: Throughput,
    audit_share: f64,
    learn_cpu_share: f64,
    first_exit_frame: Option<usize>,
    alarms: Vec<AlarmRow>,
    #[serde(skip)]
    curves: Curves,
    #[serde(skip)]
    title: String,
    #[serde(skip)]
    why: String,
}

/// Curves over the stream, each value over one part of it.
#[derive(Debug, Default)]
struct Curves {
    hits: Vec<f64>,
    disagreement: Vec<f64>,
    cost: Vec<f64>,
    audits: Vec<f64>,
}

impl Summary {
    /// `truth` holds the true classes in playing order, as far as they are known.
    pub(super) fn new(engine: &Engine, outcome: Outcome, truth: &[Option<usize>], args: &ReplayArgs) -> Self {
        let plan = engine.backbone.plan();
        let all = &outcome.played;
        let from = ((all.len() as f64 * args.measure_from) as usize).min(all.len().saturating_sub(1));
        let part = &all[from..];
        let measured = part.len().max(1) as f64;
        let share =
            |holds: &dyn Fn(&Played) -> bool| part.iter().filter(|frame| holds(frame)).count() as f64 / measured;
        let sum = |value: &dyn Fn(&Played) -> f64| part.iter().map(value).sum::<f64>();
        let heads = &outcome.heads;
        // Whatever answered in the measured part, and what is in force at its end.
        let threshold = |exit: ExitId| {
            let position = heads.exits().iter().position(|other| *other == exit)?;
            Some(f64::from(heads.threshold(position).get()))
        };
        let row = |point: &ExitPoint| ExitRow {
            exit: point.exit,
            flops_fraction: point.flops_fraction,
            threshold: threshold(point.exit),
            share: share(&|frame| frame.exit == Some(point.exit)),
        };
        let exits = plan.candidates.iter().map(row).filter(|row| row.threshold.is_some() || row.share > 0.0);
        let (seconds, plain) = (sum(&|frame| frame.seconds), sum(&|frame| frame.plain_seconds));
        let engine_seconds: f64 = all.iter().map(|frame| frame.seconds).sum();
        Self {
            frames: all.len(),
            measured: part.len(),
            epsilon: args.epsilon,
            delta: args.delta,
            exits: exits.collect(),
            hit_rate: share(&|frame| frame.exit.is_some()),
            disagreement: share(&|frame| frame.served != frame.full),
            certificate: heads.certificate().map(bound),
            accuracy: accuracy(part, &truth[from..]),
            flops_ratio: sum(&|frame| frame.flops as f64) / (plan.flops as f64 * measured),
            time_ratio: seconds / plain.max(f64::MIN_POSITIVE),
            throughput: Throughput { plain: measured / plain, offramp: measured / seconds },
            audit_share: share(&|frame| frame.audited),
            learn_cpu_share: outcome.learn_seconds / (outcome.learn_seconds + engine_seconds),
            first_exit_frame: all.iter().position(|frame| frame.exit.is_some()),
            alarms: outcome
                .alarms
                .iter()
                .map(|alarm| AlarmRow {
                    frame: alarm.frame,
                    audits: alarm.audits,
                    disagreements: alarm.disagreements,
                    exits_back_at: alarm.exits_back_at,
                })
                .collect(),
            curves: curves(all, plan.flops),
            title: format!("{} · {} frames", args.frames.display(), all.len()),
            why: outcome.why,
        }
    }

    /// Prints the result on stdout.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("{}, the last {} measured\n", self.title, self.measured);
        println!("  exit   after FLOPs   threshold   leave here");
        for row in &self.exits {
            let bar = "█".repeat((row.share * 40.0).round() as usize);
            println!(
                "  {:<6} {:>9.1} %   {:>9}   {:>8.1} %  {bar}",
                row.exit.to_string(),
                row.flops_fraction * 100.0,
                row.threshold.map_or("off".into(), |threshold| format!("{threshold:.4}")),
                row.share * 100.0
            );
        }
        let rest = 1.0 - self.hit_rate;
        println!(
            "  {:<6} {:>9.1} %   {:>9}   {:>8.1} %  {}\n",
            "full",
            100.0,
            "",
            rest * 100.0,
            "█".repeat((rest * 40.0).round() as usize)
        );
        println!(
            "FLOPs         {:.1} % of the plain model's (heads, audits and copies included)",
            self.flops_ratio * 100.0
        );
        println!(
            "time          {:.1} % of the plain model's, {:.0} against {:.0} frames/s",
            self.time_ratio * 100.0,
            self.throughput.offramp,
            self.throughput.plain
        );
        println!("disagreement  {:.2} % (every answer compared with the full model's)", self.disagreement * 100.0);
        match &self.certificate {
            Some(c) => println!(
                "certificate   at most {:.2} % with {:.0} % confidence ({} of {} audits differed)",
                c.bound * 100.0,
                (1.0 - self.delta) * 100.0,
                c.disagreements,
                c.n
            ),
            None => println!("certificate   none: {}", self.why),
        }
        if let Some(accuracy) = &self.accuracy {
            println!(
                "accuracy      {:.2} % served, {:.2} % by the full model",
                accuracy.served * 100.0,
                accuracy.backbone * 100.0
            );
        }
        match self.first_exit_frame {
            Some(frame) => println!("first exit    frame {frame}"),
            None => println!("first exit    none"),
        }
        println!(
            "audits        {:.1} % of frames; learning took {:.1} % of the CPU time",
            self.audit_share * 100.0,
            self.learn_cpu_share * 100.0
        );
        for alarm in &self.alarms {
            let back = alarm.exits_back_at.map_or("not back since".into(), |frame| format!("back at frame {frame}"));
            println!(
                "alarm         frame {}: {} of {} audits differed; exits off, {back}",
                alarm.frame, alarm.disagreements, alarm.audits
            );
        }
        Ok(())
    }

    /// One file with plots; nothing is loaded from anywhere.
    pub(super) fn html(&self) -> String {
        let mut body = String::new();
        let plots = [
            ("Share of frames that left early", &self.curves.hits, 100.0),
            ("FLOPs against the plain model's", &self.curves.cost, 100.0),
            ("Answers that differ from the full model's", &self.curves.disagreement, 5.0),
            ("Share of frames audited", &self.curves.audits, 100.0),
        ];
        for (title, values, top) in plots {
            body.push_str(&plot(title, values, top, self.frames));
        }
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        format!(
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>offramp replay</title><style>\
             body{{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2rem auto;color:#222}}\
             svg{{width:100%;margin:0 0 1.5rem}}pre{{background:#f5f5f5;padding:1rem;overflow:auto}}</style>\
             <h1>offramp replay</h1><p>{}</p>{body}<h2>Figures</h2><pre>{}</pre></html>\n",
            escape(&self.title),
            escape(&json)
        )
    }
}

fn bound(certificate: &Certificate) -> Bound {
    Bound { n: certificate.n, disagreements: certificate.disagreements, bound: certificate.bound }
}

fn accuracy(part: &[Played], truth: &[Option<usize>]) -> Option<Accuracy> {
    let known: Vec<(&Played, usize)> = part.iter().zip(truth).filter_map(|(f, class)| Some((f, (*class)?))).collect();
    let right = |of: &dyn Fn(&Played) -> usize| {
        known.iter().filter(|(frame, class)| of(frame) == *class).count() as f64 / known.len() as f64
    };
    (!known.is_empty()).then(|| Accuracy { backbone: right(&|f| f.full), served: right(&|f| f.served) })
}

fn curves(all: &[Played], flops: u64) -> Curves {
    let part = all.len().div_ceil(POINTS).max(1);
    let curve = |value: &dyn Fn(&Played) -> f64| {
        all.chunks(part).map(|chunk| chunk.iter().map(value).sum::<f64>() / chunk.len() as f64).collect()
    };
    Curves {
        hits: curve(&|f| f64::from(u8::from(f.exit.is_some()))),
        disagreement: curve(&|f| f64::from(u8::from(f.served != f.full))),
        cost: curve(&|f| f.flops as f64 / flops as f64),
        audits: curve(&|f| f64::from(u8::from(f.audited))),
    }
}

/// A line plot of shares, the y axis from 0 to `top` percent.
fn plot(title: &str, values: &[f64], top: f64, frames: usize) -> String {
    let (width, height, left) = (760.0, 160.0, 50.0);
    let step = width / (values.len().max(2) - 1) as f64;
    let y = |share: f64| 30.0 + height - (share * 100.0 / top).min(1.0) * height;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(index, share)| format!("{:.1},{:.1}", left + index as f64 * step, y(*share)))
        .collect();
    let mut grid = String::new();
    for tick in 0..=4 {
        let percent = top * f64::from(tick) / 4.0;
        let at = y(percent / 100.0);
        // Writing into a string cannot fail.
        write!(
            grid,
            "<line x1='{left}' x2='{}' y1='{at}' y2='{at}' stroke='#ddd'/><text x='{}' y='{}' text-anchor='end'>{percent} %</text>",
            left + width,
            left - 6.0,
            at + 4.0
        ).unwrap_or_default();
    }
    format!(
        "<svg viewBox='0 0 830 220' font-size='12' role='img' aria-label='{title}'><text x='{left}' y='16' font-size='14'>{title}</text>{grid}\
         <polyline fill='none' stroke='#0a7' stroke-width='2' points='{}'/>\
         <text x='{}' y='210' text-anchor='end'>frame {frames}</text></svg>",
        points.join(" "),
        left + width
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
