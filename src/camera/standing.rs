//! What a camera may: from unknown to admitted, into quarantine and back.
//!
//! ```text
//! unknown ──like the others──▶ probation ──blocks passed──▶ admitted
//!    │                            │  ▲                        │
//!    │ not like them     its promise │ like the others,        │ its promise
//!    ▼                    is broken ▼ │ counted in blocks      ▼ is broken
//! quarantined ◀─────────────────────────────────────────── quarantined
//! ```
//! Unknown and quarantined cameras run to the end, each frame audited.

use crate::promise::wald::{Verdict, Wald};

/// Where a camera stands.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// The fleet knows nothing of it yet.
    Unknown(Wald),
    /// Like the others by its first audits, which may all be of one scene: more is audited until so many blocks have passed.
    Probation {
        /// The number of the frame that ends it.
        until: u64,
    },
    /// One of the fleet.
    Admitted,
    /// Its early answers were wrong too often. The test for its return sees one trial a block.
    Quarantined {
        /// That test.
        test: Wald,
        /// The block under way: its index, its smallest draw, and whether that one disagreed.
        block: Option<(u64, f64, bool)>,
    },
}

/// One audit of the camera, as its standing sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    /// The frame's number in its stream.
    pub(super) number: u64,
    /// The frame's draw.
    pub(super) draw: f64,
    /// Whether the policy's answer differs from the full model's.
    pub(super) disagrees: bool,
}

impl Standing {
    pub(super) fn unknown(epsilon: f64) -> Self {
        Self::Unknown(Wald::new(epsilon))
    }

    pub(super) fn quarantined(epsilon: f64) -> Self {
        Self::Quarantined { test: Wald::new(epsilon), block: None }
    }

    /// Takes an audit; `length` is the number of frames in a block. Returns whether the standing changed.
    pub(super) fn observe(&mut self, trial: Trial, length: u64, epsilon: f64) -> bool {
        let length = length.max(1);
        let blocks = Wald::clean(epsilon);
        let next = match self {
            Self::Unknown(test) => match test.observe(trial.disagrees) {
                Verdict::Open => None,
                // Blocks are counted from the camera's first frame.
                Verdict::In if trial.number + 1 >= blocks * length => Some(Self::Admitted),
                Verdict::In => Some(Self::Probation { until: blocks * length }),
                Verdict::Out => Some(Self::quarantined(epsilon)),
            },
            Self::Probation { until } => (trial.number >= *until).then_some(Self::Admitted),
            Self::Admitted => None,
            Self::Quarantined { test, block } => match ended(block, trial, length).map(|wrong| test.observe(wrong)) {
                // As many blocks as admit a camera have passed; what follows is seen at the raised rate for as long again.
                Some(Verdict::In) => Some(Self::Probation { until: trial.number + blocks * length }),
                Some(Verdict::Out) => {
                    *test = Wald::new(epsilon);
                    None
                }
                Some(Verdict::Open) | None => None,
            },
        };
        match next {
            Some(next) => {
                *self = next;
                true
            }
            None => false,
        }
    }
}

/// Puts an audit into the block under way; the trial of the block that this ended, if it did.
fn ended(block: &mut Option<(u64, f64, bool)>, trial: Trial, length: u64) -> Option<bool> {
    let Trial { number, draw, disagrees } = trial;
    let index = number / length;
    match block {
        Some((held, least, wrong)) if *held == index => {
            if draw < *least {
                (*least, *wrong) = (draw, disagrees);
            }
            None
        }
        // A lane that was slower than another.
        Some((held, ..)) if *held > index => None,
        _ => block.replace((index, draw, disagrees)).map(|(_, _, wrong)| wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::dice::Dice;

    /// Plays `frames` audits with errors in scenes of `length`; the standing after each.
    fn play(
        standing: &mut Standing,
        frames: std::ops::Range<u64>,
        scene: u64,
        risk: f64,
        block: u64,
        seed: u64,
    ) -> u32 {
        let mut dice = Dice::new(seed);
        let mut changes = 0;
        for number in frames {
            let disagrees = Dice::new(seed ^ (number / scene) << 8).unit() < risk;
            changes += u32::from(standing.observe(Trial { number, draw: dice.unit(), disagrees }, block, 0.01));
        }
        changes
    }

    #[test]
    fn a_clean_camera_is_admitted_after_as_many_blocks_as_audits() {
        for (block, admitted_at) in [(1, 73), (20, 73 * 20)] {
            let mut standing = Standing::unknown(0.01);
            play(&mut standing, 0..73, 1, 0.0, block, 1);
            assert!(block == 1 || matches!(standing, Standing::Probation { .. }), "{standing:?}");
            play(&mut standing, 73..admitted_at, 1, 0.0, block, 1);
            assert!(block > 1 || matches!(standing, Standing::Admitted), "{standing:?}");
            play(&mut standing, admitted_at..admitted_at + 1, 1, 0.0, block, 1);
            assert!(matches!(standing, Standing::Admitted), "{standing:?}");
        }
    }

    #[test]
    fn a_bad_camera_goes_into_quarantine() {
        let mut standing = Standing::unknown(0.01);
        play(&mut standing, 0..400, 1, 0.3, 1, 2);
        assert!(matches!(standing, Standing::Quarantined { .. }), "{standing:?}");
    }

    /// Goal: a camera that flaps stays away. Method: scenes of ten frames, one in six wholly wrong; by frames, seven clean
    /// scenes in a row would let it in again and again.
    #[test]
    fn return_counts_blocks() {
        let mut back = [0, 0];
        for seed in 0..100 {
            for (count, block) in back.iter_mut().zip([20, 1]) {
                let mut standing = Standing::quarantined(0.01);
                *count += play(&mut standing, 0..4_000, 10, 0.17, block, seed).min(1);
            }
        }
        assert!(back[0] <= 2 && back[1] >= 30, "{back:?} of 100 came back");
        let mut clean = Standing::quarantined(0.01);
        play(&mut clean, 0..74 * 20 + 1, 10, 0.0, 20, 3);
        assert!(matches!(clean, Standing::Probation { .. }), "73 blocks without an error: {clean:?}");
    }
}
