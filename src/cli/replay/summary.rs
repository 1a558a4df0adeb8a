//! What a replay found, in figures; the JSON is a contract.

use anyhow::bail;
use serde::Serialize;

use super::args::ReplayArgs;
use super::drift::Drift;
use super::figures::thousands;
use super::order::Order;
use super::played::{Played, Scene};
use super::risk::{Tradeoff, tradeoff};
use crate::heads::{Certificate, HeadSet};
use crate::plan::{ExitId, ExitPoint, Plan};

/// One exit in the measured part.
#[derive(Debug, Serialize)]
pub(super) struct ExitRow {
    pub(super) exit: ExitId,
    pub(super) flops_fraction: f64,
    /// Confidence needed at the end; null: off by then.
    pub(super) threshold: Option<f64>,
    /// Share of the answered frames that left here.
    pub(super) share: f64,
}

/// The certificate in force at the end.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the contract's names")]
pub(super) struct Bound {
    pub(super) n: u64,
    pub(super) disagreements: u64,
    pub(super) bound: f64,
}

/// Shares of right answers.
#[derive(Debug, Serialize)]
pub(super) struct Accuracy {
    pub(super) backbone: f64,
    pub(super) served: f64,
}

/// Frames per second.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) plain: f64,
    pub(super) offramp: f64,
}

/// An alarm of the watch.
#[derive(Debug, Serialize)]
pub(super) struct AlarmRow {
    pub(super) frame: usize,
    pub(super) audits: u64,
    pub(super) disagreements: u64,
    pub(super) exits_back_at: Option<usize>,
}

/// The drift that was applied, and its first frame.
#[derive(Debug, Serialize)]
pub(super) struct DriftRow {
    pub(super) kind: Drift,
    pub(super) from: usize,
}

/// What the exits in force would cost if each frame left at the first one that gives the full model's answer.
#[derive(Debug, Serialize)]
pub(super) struct Perfect {
    pub(super) flops_ratio: f64,
}

/// The result of a replay. All figures are of the measured part but `frames`, `rejected`, `alarms`, `first_exit_frame`
/// and `learn_cpu_share`, which are of the whole stream. Frames without an answer (`unanswered`: the model's output is no
/// number) count in FLOPs and time only.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) frames: usize,
    pub(super) measured: usize,
    pub(super) unanswered: usize,
    pub(super) rejected: usize,
    pub(super) epsilon: f64,
    pub(super) delta: f64,
    pub(super) drift: Option<DriftRow>,
    pub(super) exits: Vec<ExitRow>,
    pub(super) hit_rate: f64,
    pub(super) disagreement: f64,
    pub(super) certificate: Option<Bound>,
    pub(super) accuracy: Option<Accuracy>,
    pub(super) flops_ratio: f64,
    pub(super) time_ratio: f64,
    pub(super) throughput: Throughput,
    pub(super) audit_share: f64,
    pub(super) learn_cpu_share: f64,
    pub(super) first_exit_frame: Option<usize>,
    /// Only where `--report` asked for it: it costs another run of the model on every measured frame.
    pub(super) perfect: Option<Perfect>,
    pub(super) alarms: Vec<AlarmRow>,
    #[serde(skip)]
    pub(super) tradeoff: Option<Tradeoff>,
    /// Where the measured part begins in the stream.
    #[serde(skip)]
    pub(super) measured_from: usize,
    /// The recording's name.
    #[serde(skip)]
    pub(super) title: String,
    /// How it was played, in words.
    #[serde(skip)]
    pub(super) manner: String,
    /// The learner's last word.
    #[serde(skip)]
    pub(super) why: String,
    /// The first frame that could not be decoded, and why.
    #[serde(skip)]
    pub(super) first_rejection: Option<String>,
}

impl Summary {
    /// `measured_from` is a place in the stream.
    ///
    /// # Errors
    /// When no frame of the measured part could be decoded.
    pub(super) fn new(scene: &Scene<'_>, measured_from: usize, args: &ReplayArgs) -> anyhow::Result<Self> {
        let Scene { plan, truth, shift, outcome, .. } = *scene;
        let all = &outcome.played;
        let part = outcome.from(measured_from);
        let first_rejection = scene.first_rejection();
        if part.is_empty() {
            let why = first_rejection.as_deref().unwrap_or("there are none");
            bail!("no frame of the measured part could be decoded ({why})");
        }
        let answered: Vec<&Played> = part.iter().filter(|frame| frame.answers().is_some()).collect();
        let share = |holds: &dyn Fn(&Played) -> bool| {
            answered.iter().filter(|frame| holds(frame)).count() as f64 / answered.len().max(1) as f64
        };
        let measured = part.len() as f64;
        let sum = |value: &dyn Fn(&Played) -> f64| part.iter().map(value).sum::<f64>();
        let (seconds, plain) = (sum(&|frame| frame.seconds), sum(&|frame| frame.plain_seconds));
        let engine_seconds: f64 = all.iter().map(|frame| frame.seconds).sum();
        let tradeoff = tradeoff(plan, part, &outcome.opinions);
        let alarm = |alarm: &super::played::Alarm| AlarmRow {
            frame: alarm.frame,
            audits: alarm.audits,
            disagreements: alarm.disagreements,
            exits_back_at: alarm.exits_back_at,
        };
        Ok(Self {
            frames: truth.len(),
            measured: part.len(),
            unanswered: part.len() - answered.len(),
            rejected: outcome.rejected,
            epsilon: args.epsilon,
            delta: args.delta,
            drift: shift.map(|shift| DriftRow { kind: shift.kind, from: shift.from }),
            exits: exit_rows(plan, &outcome.heads, &answered),
            hit_rate: share(&|frame| frame.exit.is_some()),
            disagreement: share(&|frame| frame.served != frame.full),
            certificate: outcome.heads.certificate().map(bound),
            accuracy: accuracy(&answered, truth),
            flops_ratio: sum(&|frame| frame.flops as f64) / (plan.flops as f64 * measured),
            time_ratio: seconds / plain.max(f64::MIN_POSITIVE),
            throughput: Throughput { plain: measured / plain, offramp: measured / seconds },
            audit_share: part.iter().filter(|frame| frame.audited).count() as f64 / measured,
            learn_cpu_share: outcome.learn_seconds / (outcome.learn_seconds + engine_seconds),
            first_exit_frame: all.iter().find(|frame| frame.exit.is_some()).map(|frame| frame.frame),
            perfect: tradeoff.as_ref().map(|tradeoff| Perfect { flops_ratio: tradeoff.perfect }),
            alarms: outcome.alarms.iter().map(alarm).collect(),
            tradeoff,
            measured_from,
            title: args.frames.file_name().map_or("a recording".into(), |name| name.to_string_lossy().into_owned()),
            manner: manner(truth.len(), part.len(), args),
            why: outcome.why.clone(),
            first_rejection,
        })
    }
}

fn manner(frames: usize, measured: usize, args: &ReplayArgs) -> String {
    let (frames, measured) = (thousands(frames), thousands(measured));
    let order = match args.order {
        Order::File => "in the recording's order".to_owned(),
        Order::Shuffle => format!("shuffled with seed {}", args.seed),
        Order::Bursts => format!("six cameras in bursts of one class, seed {}", args.seed),
    };
    format!("{frames} frames {order}; figures of the last {measured}; model {}", args.model.display())
}

/// Whatever answered in the measured part, and what is in force at its end.
fn exit_rows(plan: &Plan, heads: &HeadSet, answered: &[&Played]) -> Vec<ExitRow> {
    let here = |exit: ExitId| answered.iter().filter(|frame| frame.exit == Some(exit)).count();
    let threshold = |exit: ExitId| {
        let position = heads.exits().iter().position(|other| *other == exit)?;
        Some(f64::from(heads.threshold(position).get()))
    };
    let row = |point: &ExitPoint| ExitRow {
        exit: point.exit,
        flops_fraction: point.flops_fraction,
        threshold: threshold(point.exit),
        share: here(point.exit) as f64 / answered.len().max(1) as f64,
    };
    plan.candidates.iter().map(row).filter(|row| row.threshold.is_some() || row.share > 0.0).collect()
}

fn bound(certificate: &Certificate) -> Bound {
    Bound { n: certificate.n, disagreements: certificate.disagreements, bound: certificate.bound }
}

fn accuracy(answered: &[&Played], truth: &[Option<usize>]) -> Option<Accuracy> {
    let known: Vec<(usize, usize, usize)> = answered
        .iter()
        .filter_map(|frame| {
            let (served, full) = frame.answers()?;
            Some((served, full, (*truth.get(frame.frame)?)?))
        })
        .collect();
    let share = |right: usize| right as f64 / known.len() as f64;
    (!known.is_empty()).then(|| Accuracy {
        backbone: share(known.iter().filter(|(_, full, class)| full == class).count()),
        served: share(known.iter().filter(|(served, _, class)| served == class).count()),
    })
}
