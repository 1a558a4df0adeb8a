//! What the exits in force would cost, and how often they would be wrong, at other thresholds and with an oracle. Pure.
//!
//! Costs are shares of the plain model's FLOPs, the heads that a frame passes included, audits left out.

use super::played::{Opinion, Played};
use crate::plan::{ExitId, Plan};

/// Thresholds tried.
const THRESHOLDS: u32 = 60;
/// The strictest threshold tried is one minus this.
const STRICTEST: f64 = 1e-5;
/// And the boldest one minus this.
const BOLDEST: f64 = 0.9;

/// One way to use the exits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// FLOPs per frame over the plain model's.
    pub(super) cost: f64,
    /// Share of frames whose answer differs from the full model's.
    pub(super) risk: f64,
}

/// Cost against risk on the measured frames.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tradeoff {
    /// From strict to bold, one threshold for all exits.
    pub(super) curve: Vec<Point>,
    /// With the thresholds in force.
    pub(super) served: Point,
    /// Cost if each frame left at the first exit that gives the full model's answer.
    pub(super) perfect: f64,
}

/// `opinions[i]` belongs to `part[i]`; `None` where none were noted, or no frame has an answer.
pub(super) fn tradeoff(plan: &Plan, part: &[Played], opinions: &[Vec<Opinion>]) -> Option<Tradeoff> {
    let frames: Vec<(usize, &[Opinion])> =
        part.iter().zip(opinions).filter_map(|(frame, said)| Some((frame.full?, said.as_slice()))).collect();
    if frames.is_empty() || part.len() != opinions.len() {
        return None;
    }
    let step = |k: u32| (BOLDEST / STRICTEST).powf(f64::from(k) / f64::from(THRESHOLDS - 1));
    let thresholds = (0..THRESHOLDS).map(|k| 1.0 - STRICTEST * step(k));
    Some(Tradeoff {
        curve: thresholds.map(|least| point(plan, &frames, |said| f64::from(said.confidence) >= least)).collect(),
        served: point(plan, &frames, |said| said.leaves),
        perfect: frames.iter().map(|(full, said)| perfect(plan, *full, said)).sum::<f64>() / frames.len() as f64,
    })
}

fn point(plan: &Plan, frames: &[(usize, &[Opinion])], leaves: impl Fn(&Opinion) -> bool) -> Point {
    let (mut cost, mut wrong) = (0.0, 0.0);
    for (full, said) in frames {
        let left = said.iter().position(&leaves);
        let passed = &said[..left.map_or(said.len(), |at| at + 1)];
        cost += passed.iter().map(|passed| head_cost(plan, passed.exit)).sum::<f64>();
        cost += left.map_or(1.0, |at| depth(plan, said[at].exit));
        wrong += f64::from(u8::from(left.is_some_and(|at| said[at].class != *full)));
    }
    Point { cost: cost / frames.len() as f64, risk: wrong / frames.len() as f64 }
}

fn perfect(plan: &Plan, full: usize, said: &[Opinion]) -> f64 {
    let right = said.iter().find(|said| said.class == full);
    right.map_or(1.0, |said| depth(plan, said.exit) + head_cost(plan, said.exit))
}

fn depth(plan: &Plan, exit: ExitId) -> f64 {
    plan.candidates.get(exit.index()).map_or(1.0, |point| point.flops_fraction)
}

fn head_cost(plan: &Plan, exit: ExitId) -> f64 {
    plan.candidates.get(exit.index()).map_or(0.0, |point| point.head_flops as f64 / plan.flops as f64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::frame::{Channels, InputSpec, Layout, Resize};
    use crate::plan::{ExitPoint, Fingerprint};

    /// Two exits, after 20 and 50 % of the FLOPs; a head costs 1 %.
    pub(in super::super) fn some_plan() -> Plan {
        let point = |exit, flops_fraction| ExitPoint {
            exit: ExitId(exit),
            tensor: String::new(),
            flops_fraction,
            feature_width: 4,
            head_flops: 10,
        };
        let (mean, std) = (vec![0.0], vec![1.0]);
        let (channels, layout, resize) = (Channels::Gray, Layout::Nchw, Resize::Stretch);
        Plan {
            backbone: Fingerprint([0; 32]),
            plan: Fingerprint([1; 32]),
            input: InputSpec { width: 2, height: 2, channels, layout, scale: 1.0, mean, std, resize, mirror: true },
            labels: vec!["cat".into(), "dog".into()],
            candidates: vec![point(1, 0.2), point(2, 0.5)],
            flops: 1000,
        }
    }

    pub(in super::super) fn frame(
        frame: usize,
        served: Option<usize>,
        full: Option<usize>,
        exit: Option<u8>,
    ) -> Played {
        let exit = exit.map(ExitId);
        Played { frame, served, full, exit, audited: false, flops: 500, seconds: 1.0, plain_seconds: 2.0 }
    }

    fn said(exit: u8, class: usize, confidence: f32) -> Opinion {
        Opinion { exit: ExitId(exit), class, confidence, leaves: confidence >= 0.9 }
    }

    #[test]
    fn a_frame_leaves_at_the_first_sure_exit_and_an_oracle_at_the_first_right_one() {
        let part = [frame(0, Some(1), Some(1), Some(1)), frame(1, Some(1), Some(0), None)];
        let opinions = vec![vec![said(1, 1, 0.95), said(2, 1, 0.99)], vec![said(1, 1, 0.8), said(2, 0, 0.7)]];
        let found = tradeoff(&some_plan(), &part, &opinions).expect("frames with answers");
        // The first leaves at exit 1, the second passes both heads and goes all the way.
        assert!((found.served.cost - f64::midpoint(0.21, 1.02)).abs() < 1e-9);
        assert!(found.served.risk.abs() < 1e-9);
        assert!((found.perfect - f64::midpoint(0.21, 0.51)).abs() < 1e-9);
        // Bold enough for everything to leave at exit 1: the second frame's answer is wrong.
        let bold = found.curve[found.curve.len() - 1];
        assert!((bold.cost - 0.21).abs() < 1e-9 && (bold.risk - 0.5).abs() < 1e-9);
        let strict = found.curve[0];
        assert!((strict.cost - 1.02).abs() < 1e-9 && strict.risk.abs() < 1e-9);
        assert!(found.curve.windows(2).all(|pair| pair[1].cost <= pair[0].cost + 1e-9));
    }

    #[test]
    fn without_exits_everything_costs_the_whole_model_and_unanswered_frames_say_nothing() {
        let part = [frame(0, Some(1), Some(1), None), frame(1, None, None, None)];
        let found = tradeoff(&some_plan(), &part, &[vec![], vec![said(1, 0, 1.0)]]).expect("one answer");
        assert_eq!((found.perfect, found.served), (1.0, Point { cost: 1.0, risk: 0.0 }));
        assert_eq!(tradeoff(&some_plan(), &part[1..], &[vec![]]), None);
        assert_eq!(tradeoff(&some_plan(), &part, &[]), None);
    }
}
