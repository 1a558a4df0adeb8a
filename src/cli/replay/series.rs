//! The stream in equal parts, and what became of the frames of each. Pure.

use super::played::Played;
use crate::plan::ExitId;

/// Parts of a stream.
const PARTS: usize = 80;

/// One part of the stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Its middle, as a share of the stream.
    pub(super) at: f64,
    /// Share of its answered frames that left early.
    pub(super) hits: f64,
    /// Share of its answered frames whose answer differs from the full model's.
    pub(super) disagreement: f64,
    /// FLOPs over the plain model's.
    pub(super) cost: f64,
    /// Share of its frames that were audited.
    pub(super) audits: f64,
    /// Share of its answered frames by exit, in the order asked for; what is missing to one went all the way.
    pub(super) shares: Vec<f64>,
}

/// Parts in order; those without a frame are left out. `frames` is the length of the stream, `flops` the plain model's for
/// one frame.
pub(super) fn parts(all: &[Played], frames: usize, flops: u64, exits: &[ExitId]) -> Vec<Part> {
    let length = frames.div_ceil(PARTS).max(1);
    let chunks = all.chunk_by(|a, b| a.frame / length == b.frame / length);
    let part = |chunk: &[Played]| {
        let first = chunk.first()?.frame / length * length;
        let answered: Vec<&Played> = chunk.iter().filter(|frame| frame.answers().is_some()).collect();
        let share = |holds: &dyn Fn(&Played) -> bool| {
            answered.iter().filter(|frame| holds(frame)).count() as f64 / answered.len().max(1) as f64
        };
        Some(Part {
            at: (first + length.min(frames - first) / 2) as f64 / frames as f64,
            hits: share(&|frame| frame.exit.is_some()),
            disagreement: share(&|frame| frame.served != frame.full),
            cost: chunk.iter().map(|frame| frame.flops as f64).sum::<f64>() / (flops as f64 * chunk.len() as f64),
            audits: chunk.iter().filter(|frame| frame.audited).count() as f64 / chunk.len() as f64,
            shares: exits.iter().map(|exit| share(&|frame| frame.exit == Some(*exit))).collect(),
        })
    };
    chunks.filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::super::risk::tests::frame;
    use super::*;

    #[test]
    fn parts_are_equal_and_leave_out_frames_without_an_answer() {
        let play = |at: usize| match at % 4 {
            0 => frame(at, None, None, None),
            1 => frame(at, Some(1), Some(0), Some(2)),
            _ => frame(at, Some(1), Some(1), None),
        };
        // The second part lost all its frames.
        let all: Vec<Played> = (0..800).filter(|at| !(10..20).contains(at)).map(play).collect();
        let found = parts(&all, 800, 1000, &[ExitId(1), ExitId(2)]);
        assert_eq!(found.len(), PARTS - 1);
        let first = &found[0];
        assert!((first.at - 5.0 / 800.0).abs() < 1e-9);
        assert!((found[1].at - 25.0 / 800.0).abs() < 1e-9);
        let expected = 3.0 / 7.0;
        assert!((first.hits - expected).abs() < 1e-9 && (first.disagreement - expected).abs() < 1e-9);
        assert_eq!((first.cost, first.audits, first.shares[0]), (0.5, 0.0, 0.0));
        assert!((first.shares[1] - expected).abs() < 1e-9);
    }
}
