//! What a replay found, as one HTML file: nothing is loaded from anywhere and nothing is run.

mod chart;
mod escape;
mod gallery;

use std::fmt::Write as _;

use self::chart::{Axis, Chart};
use self::escape::escape;
use self::gallery::Gallery;
use super::figures::{percent, thousands};
use super::played::{Played, Scene};
use super::series::{Part, parts};
use super::summary::Summary;
use crate::plan::ExitId;

const STYLE: &str = include_str!("style.css");
/// From light to dark on a scale that colour-blind people tell apart (viridis without its ends), by depth.
const DEPTHS: [&str; 8] = ["#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878"];
/// Parts over which the noisy disagreement is averaged.
const AVERAGED: usize = 8;
const LINE: &str = "var(--a)";
const OTHER: &str = "var(--b)";
const FULL: &str = "var(--full)";

/// The page.
pub(super) fn html(summary: &Summary, scene: &Scene<'_>) -> String {
    let mut exits: Vec<ExitId> = scene.outcome.played.iter().filter_map(|frame| frame.exit).collect();
    exits.sort_unstable();
    exits.dedup();
    let parts = parts(&scene.outcome.played, summary.frames, scene.plan.flops, &exits);
    let json = serde_json::to_string_pretty(summary).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>offramp replay: {title}</title>\n\
         <meta name=viewport content='width=device-width, initial-scale=1'>\n<style>{STYLE}</style></head><body>\n\
         <h1>Replay of {title}</h1>\n<p class=soft>{manner}. Every answer was compared with the full model's; offramp {version}.</p>\n{tiles}{stream}{exits}{tradeoff}{gallery}\
         <details><summary>All figures as JSON</summary><pre>{json}</pre></details></body></html>\n",
        title = escape(&summary.title),
        manner = escape(&summary.manner),
        version = env!("CARGO_PKG_VERSION"),
        tiles = tiles(summary),
        stream = over_time(summary, &parts, &exits),
        exits = exit_table(summary, scene),
        tradeoff = tradeoff(summary),
        gallery = examples(summary, scene),
        json = escape(&json),
    )
}

fn tiles(summary: &Summary) -> String {
    let mut html = String::from("<div class=tiles>");
    let mut tile = |name: &str, value: &str, meaning: &str| {
        write!(html, "<div class=tile><small>{name}</small><b>{value}</b><small>{meaning}</small></div>")
            .unwrap_or_default();
    };
    let perfect = summary
        .perfect
        .as_ref()
        .map_or_else(String::new, |perfect| format!("; perfect exits would need {}", percent(perfect.flops_ratio, 1)));
    tile("FLOPs", &percent(summary.flops_ratio, 1), &format!("of the plain model's{perfect}"));
    let rates = format!(
        "of the plain model's: {} against {} frames/s",
        thousands(summary.throughput.offramp as usize),
        thousands(summary.throughput.plain as usize)
    );
    tile("Time", &percent(summary.time_ratio, 1), &rates);
    let promise = match &summary.certificate {
        Some(certificate) => format!(
            "of the answers; promised at the end: at most {}, {} confidence",
            percent(certificate.bound, 2),
            percent(1.0 - summary.delta, 0)
        ),
        None => format!("of the answers; nothing is promised at the end: {}", escape(&summary.why)),
    };
    tile("Disagreement", &percent(summary.disagreement, 2), &promise);
    tile("Left early", &percent(summary.hit_rate, 1), "of the frames");
    if let Some(accuracy) = &summary.accuracy {
        let full = format!("of the answers right; {} by the full model", percent(accuracy.backbone, 2));
        tile("Accuracy", &percent(accuracy.served, 2), &full);
    }
    let first =
        summary.first_exit_frame.map_or_else(|| "none".to_owned(), |frame| format!("frame {}", thousands(frame)));
    let learning = percent(summary.learn_cpu_share, 0);
    tile("First exit", &first, &format!("learning took {learning} of the CPU time of the whole stream"));
    if summary.unanswered > 0 {
        tile("Unanswered", &thousands(summary.unanswered), "frames to which the model gives no number; left out");
    }
    if summary.rejected > 0 {
        tile("Rejected", &thousands(summary.rejected), "frames that cannot be decoded");
    }
    html + "</div>\n"
}

/// Four charts over the frames, with the stream's events across all of them.
fn over_time(summary: &Summary, parts: &[Part], exits: &[ExitId]) -> String {
    let length = summary.frames.div_ceil(parts.len().max(1));
    let frames = Axis { from: 0.0, to: summary.frames as f64 };
    let whole = Axis { from: 0.0, to: 1.0 };
    let at = |part: &Part| part.at * summary.frames as f64;
    let chart = |title: &str, note: &str, y: Axis| {
        let mut chart = Chart::new(title, note, frames, y);
        chart.shade(summary.measured_from as f64, summary.frames as f64);
        chart
    };
    let finish = |mut chart: Chart, top: f64, unit: &str| {
        for alarm in &summary.alarms {
            chart.mark(alarm.frame as f64, OTHER);
            if let Some(back) = alarm.exits_back_at {
                chart.mark(back as f64, LINE);
            }
        }
        if let Some(drift) = &summary.drift {
            chart.mark(drift.from as f64, "var(--ink)");
        }
        let digits = usize::from(top < 0.04);
        chart.html(|frame| thousands(frame as usize), |share| percent(share, digits), unit)
    };
    let mut shares = chart("Where frames leave", &format!("share of each {} frames", thousands(length)), whole);
    for index in 0..=exits.len() {
        let below = |part: &Part| part.shares.iter().take(index).sum::<f64>();
        let upper = |part: &Part| part.shares.get(index).map_or(1.0, |share| below(part) + share);
        let band: Vec<(f64, f64, f64)> = parts.iter().map(|part| (at(part), below(part), upper(part))).collect();
        shares.band(&band, exits.get(index).map_or(FULL, |exit| color(*exit, exits)));
    }
    let line = |value: &dyn Fn(&Part) -> f64| parts.iter().map(|part| (at(part), value(part))).collect::<Vec<_>>();
    let highest = |value: &dyn Fn(&Part) -> f64| parts.iter().map(value).fold(0.0, f64::max);
    let worst = Axis::up_to(highest(&|part| part.disagreement).max(summary.epsilon * 2.0));
    let span = thousands(length * AVERAGED.min(parts.len()));
    let note = format!("answers that differ from the full model's; the line is the average of {span} frames");
    let mut disagreement = chart("Disagreement", &note, worst);
    disagreement.bars(&line(&|part| part.disagreement), OTHER);
    disagreement.line(&trailing(parts, |part| part.disagreement, at), OTHER);
    disagreement.limit_y(summary.epsilon, &format!("allowed: {}", percent(summary.epsilon, 1)));
    let dearest = Axis::up_to(highest(&|part| part.cost).max(1.0));
    let mut cost = chart("FLOPs", "against the plain model's; heads, audits and copies included", dearest);
    cost.line(&line(&|part| part.cost), LINE);
    cost.limit_y(1.0, "plain model");
    let mut audits = chart("Audited", "frames run to the end, to learn from and to watch", whole);
    audits.line(&line(&|part| part.audits), LINE);
    format!(
        "<h2>Over the stream</h2>{}{}{}{}{}{}",
        events(summary),
        finish(shares, 1.0, ""),
        legend(exits),
        finish(disagreement, worst.to, ""),
        finish(cost, dearest.to, ""),
        finish(audits, 1.0, "frame")
    )
}

/// At each part, the average of the newest few.
fn trailing(parts: &[Part], value: impl Fn(&Part) -> f64, at: impl Fn(&Part) -> f64) -> Vec<(f64, f64)> {
    let newest = |end: usize| &parts[end.saturating_sub(AVERAGED - 1)..=end];
    let average = |parts: &[Part]| parts.iter().map(&value).sum::<f64>() / parts.len() as f64;
    parts.iter().enumerate().map(|(end, part)| (at(part), average(newest(end)))).collect()
}

fn events(summary: &Summary) -> String {
    let mut html = String::from("<ul class=events>");
    let mut event = |color: &str, text: &str| {
        write!(html, "<li><i style='border-color:{color};border-left-style:dashed'></i>{text}</li>")
            .unwrap_or_default();
    };
    if let Some(drift) = &summary.drift {
        event("var(--ink)", &format!("from frame {} on: {}", thousands(drift.from), drift.kind));
    }
    for alarm in &summary.alarms {
        event(OTHER, &format!("alarm at frame {}, exits off", thousands(alarm.frame)));
        if let Some(back) = alarm.exits_back_at {
            event(LINE, &format!("exits back at frame {}", thousands(back)));
        }
    }
    html + "<li><i class=area></i>measured part</li></ul>"
}

fn color(exit: ExitId, exits: &[ExitId]) -> &'static str {
    let place = exits.iter().position(|other| *other == exit).unwrap_or_default();
    // The whole scale, however many there are.
    let step = if exits.len() > 1 { place * (DEPTHS.len() - 1) / (exits.len() - 1) } else { DEPTHS.len() / 2 };
    DEPTHS[step.min(DEPTHS.len() - 1)]
}

fn legend(exits: &[ExitId]) -> String {
    let mut html = String::from("<ul class=legend>");
    for exit in exits {
        write!(html, "<li><span class=swatch style='background:{}'></span>exit {exit}</li>", color(*exit, exits))
            .unwrap_or_default();
    }
    write!(html, "<li><span class=swatch style='background:{FULL}'></span>full model</li></ul>").unwrap_or_default();
    html
}

fn exit_table(summary: &Summary, scene: &Scene<'_>) -> String {
    let part = scene.outcome.from(summary.measured_from);
    let mut rows = String::new();
    for row in &summary.exits {
        let here = part.iter().filter(|frame| frame.exit == Some(row.exit)).filter_map(Played::answers);
        let (frames, wrong) = here.fold((0, 0), |(n, wrong), (a, b)| (n + 1, wrong + usize::from(a != b)));
        let threshold = row.threshold.map_or("off".to_owned(), |threshold| format!("{threshold:.4}"));
        write!(
            rows,
            "<tr><td>exit {}</td><td>{}</td><td>{threshold}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            row.exit,
            percent(row.flops_fraction, 1),
            thousands(frames),
            percent(row.share, 1),
            percent(wrong as f64 / f64::from(u32::try_from(frames.max(1)).unwrap_or(u32::MAX)), 2)
        )
        .unwrap_or_default();
    }
    let full = part.iter().filter(|frame| frame.exit.is_none() && frame.answers().is_some()).count();
    write!(
        rows,
        "<tr><td>full model</td><td>100 %</td><td></td><td>{}</td><td>{}</td><td></td></tr>",
        thousands(full),
        percent(1.0 - summary.hit_rate, 1)
    )
    .unwrap_or_default();
    format!(
        "<h2>By exit</h2><div class=wide><table><tr><th></th><th>after FLOPs</th><th>confidence needed</th>\
         <th>frames</th><th>share</th><th>of these differ</th></tr>{rows}</table></div>\n"
    )
}

fn tradeoff(summary: &Summary) -> String {
    let Some(found) = &summary.tradeoff else { return String::new() };
    if summary.exits.is_empty() {
        return String::new();
    }
    // What is far riskier than anybody would allow only flattens the rest.
    let widest = (5.0 * summary.epsilon).max(2.0 * found.served.risk);
    let shown: Vec<(f64, f64)> =
        found.curve.iter().map(|point| (point.risk, point.cost)).take_while(|(risk, _)| *risk <= widest).collect();
    let risks = Axis::up_to(shown.iter().map(|(risk, _)| *risk).fold(2.0 * summary.epsilon, f64::max));
    let mut chart = Chart::new(
        "FLOPs",
        "against the plain model's, by the share of answers that differ",
        risks,
        Axis { from: 0.0, to: 1.0 },
    )
    .tall();
    chart.line(&shown, LINE);
    chart.limit_x(summary.epsilon, &format!("allowed: {}", percent(summary.epsilon, 1)));
    chart.limit_y(found.perfect, &format!("perfect exits: {}", percent(found.perfect, 1)));
    chart.dot((0.0, 1.0), FULL, "plain model");
    chart.dot((found.served.risk, found.served.cost), OTHER, &format!("served: {}", percent(found.served.cost, 1)));
    let digits = usize::from(risks.to < 0.04);
    let plot = chart.html(|risk| percent(risk, digits), |cost| percent(cost, 0), "answers that differ");
    format!(
        "<h2>Cost against risk</h2><p>The line is what the same exits would have cost, and how often they would have been \
         wrong, with other thresholds. Perfect exits let each frame leave at the first exit that gives the full model's \
         answer: no threshold gets below that. Audits are left out here.</p>{plot}"
    )
}

fn examples(summary: &Summary, scene: &Scene<'_>) -> String {
    let part = scene.outcome.from(summary.measured_from);
    let mut gallery = Gallery::new(scene);
    let mut html = String::from(
        "<h2>What each exit caught</h2><p>Examples by the class that was answered, as the model saw them.</p>",
    );
    for row in summary.exits.iter().filter(|row| row.share > 0.0) {
        write!(
            html,
            "<h3>Exit {}, after {} of the FLOPs: {} of the frames</h3>{}",
            row.exit,
            percent(row.flops_fraction, 1),
            percent(row.share, 1),
            gallery.caught(part, Some(row.exit))
        )
        .unwrap_or_default();
    }
    let rest = percent(1.0 - summary.hit_rate, 1);
    write!(html, "<h3>Full model: {rest} of the frames</h3>{}", gallery.caught(part, None)).unwrap_or_default();
    write!(html, "<h2>Where the answers differ</h2>{}", gallery.wrong(part)).unwrap_or_default();
    html
}
