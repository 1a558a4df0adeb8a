//! What a replay found, on a terminal: fits 80 columns.

use std::fmt::Write as _;

use super::figures::{percent, thousands};
use super::summary::Summary;

/// Cells of the longest bar.
const BAR: f64 = 30.0;

/// The table, with a line break at its end.
pub(super) fn table(summary: &Summary) -> String {
    let mut lines = Lines(String::new());
    lines.head(summary);
    lines.exits(summary);
    lines.figures(summary);
    lines.events(summary);
    lines.0
}

struct Lines(String);

impl Lines {
    fn push(&mut self, line: &str) {
        // Writing into a string cannot fail.
        writeln!(self.0, "{line}").unwrap_or_default();
    }

    /// A figure, its unit's column and what it means.
    fn figure(&mut self, name: &str, value: &str, meaning: &str) {
        self.push(&format!("  {name:<14}{value:>8}   {meaning}"));
    }

    fn head(&mut self, summary: &Summary) {
        self.push(&summary.title);
        self.push(&format!("{}\n", summary.manner.replacen("; ", "\n", 1)));
    }

    fn exits(&mut self, summary: &Summary) {
        self.push("  exit   after FLOPs   threshold   frames");
        for row in &summary.exits {
            let threshold = row.threshold.map_or("off".into(), |threshold| format!("{threshold:.4}"));
            self.exit(&row.exit.to_string(), row.flops_fraction, &threshold, row.share);
        }
        self.exit("full", 1.0, "", 1.0 - summary.hit_rate);
        self.push("");
    }

    fn exit(&mut self, name: &str, after: f64, threshold: &str, share: f64) {
        let bar = "█".repeat((share * BAR).round() as usize);
        let line = format!("  {name:<4}   {:>9}   {threshold:>9}   {:>7}  {bar}", percent(after, 1), percent(share, 1));
        self.push(line.trim_end());
    }

    fn figures(&mut self, summary: &Summary) {
        let Summary { flops_ratio, time_ratio, disagreement, throughput, delta, .. } = summary;
        self.figure("FLOPs", &percent(*flops_ratio, 1), "of the plain model's; heads, audits, copies included");
        if let Some(perfect) = &summary.perfect {
            self.figure(
                "perfect exits",
                &percent(perfect.flops_ratio, 1),
                "of the FLOPs: left at the first exit that is right",
            );
        }
        let rates = format!(
            "of the plain model's: {} against {} frames/s",
            thousands(throughput.offramp as usize),
            thousands(throughput.plain as usize)
        );
        self.figure("time", &percent(*time_ratio, 1), &rates);
        self.figure("disagreement", &percent(*disagreement, 2), "of the answers, all compared with the full model's");
        match &summary.certificate {
            Some(c) => {
                let (confidence, differ) =
                    (percent(1.0 - delta, 0), format!("{} of {} audits differed", c.disagreements, c.n));
                let meaning = format!("at most, with {confidence} confidence ({differ})");
                self.figure("promise", &percent(c.bound, 2), &meaning);
            }
            None => self.figure("promise", "none", &summary.why),
        }
        if let Some(accuracy) = &summary.accuracy {
            let full = format!("of the answers right; {} by the full model", percent(accuracy.backbone, 2));
            self.figure("accuracy", &percent(accuracy.served, 2), &full);
        }
        let learning = format!("of the frames; learning took {} of the CPU time", percent(summary.learn_cpu_share, 0));
        self.figure("audits", &percent(summary.audit_share, 1), &learning);
        if summary.unanswered > 0 {
            let meaning = "frames to which the model gives no number; left out";
            self.figure("unanswered", &thousands(summary.unanswered), meaning);
        }
        if summary.rejected > 0 {
            let first = summary.first_rejection.as_deref().unwrap_or_default();
            self.figure("rejected", &thousands(summary.rejected), &format!("frames; the first: {first}"));
        }
    }

    fn events(&mut self, summary: &Summary) {
        let first = summary.first_exit_frame.map_or("none".into(), |frame| format!("frame {}", thousands(frame)));
        self.push(&format!("\n  first exit    {first}"));
        if let Some(drift) = &summary.drift {
            self.push(&format!("  drift         frame {}: {}", thousands(drift.from), drift.kind));
        }
        for alarm in &summary.alarms {
            let back =
                alarm.exits_back_at.map_or("not back since".into(), |frame| format!("back at {}", thousands(frame)));
            let (frame, wrong, audits) = (thousands(alarm.frame), alarm.disagreements, alarm.audits);
            self.push(&format!("  alarm         frame {frame}: {wrong} of {audits} audits differed; exits {back}"));
        }
    }
}
