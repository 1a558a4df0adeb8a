//! Is this camera like the others? A sequential test of its own audits: epsilon against five times epsilon.
//!
//! Wald's sequential probability ratio test (1945): an audit that agrees adds `ln((1 - e) / (1 - 5 e))` to the evidence, one
//! that disagrees takes `ln 5` off. In at ln 20: a camera that errs five times too often gets in with probability 1/20 at
//! most, one that errs ten times too often about once in a thousand. Out at -ln 1000: one that errs as promised is refused
//! once in a thousand. At 1 % some 73 clean audits admit.

/// How much worse a camera must be to be kept out: disagreement as a multiple of epsilon.
const WORSE: f64 = 5.0;
/// A camera that much worse is admitted with one over this probability.
const IN: f64 = 20.0;
/// A camera that is as promised is refused with one over this probability.
const OUT: f64 = 1000.0;

/// Where the test stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// More is to be seen.
    Open,
    /// The camera is like the others.
    In,
    /// It is not.
    Out,
}

/// The test of one camera.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wald {
    agrees: f64,
    disagrees: f64,
    evidence: f64,
}

impl Wald {
    /// Nothing seen. `epsilon` in (0, 1) is what is promised; where five times that is more than all, half the way to all is
    /// worse.
    #[must_use]
    pub fn new(epsilon: f64) -> Self {
        let worse = (WORSE * epsilon).min(f64::midpoint(epsilon, 1.0));
        Self { agrees: ((1.0 - epsilon) / (1.0 - worse)).ln(), disagrees: (epsilon / worse).ln(), evidence: 0.0 }
    }

    /// Audits without a disagreement that admit: as many blocks are on probation.
    #[must_use]
    pub fn clean(epsilon: f64) -> u64 {
        (IN.ln() / Self::new(epsilon).agrees).ceil() as u64
    }

    /// Takes one trial.
    pub fn observe(&mut self, disagrees: bool) -> Verdict {
        self.evidence += if disagrees { self.disagrees } else { self.agrees };
        match self.evidence {
            evidence if evidence >= IN.ln() => Verdict::In,
            evidence if evidence <= -OUT.ln() => Verdict::Out,
            _ => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::dice::Dice;

    /// Share of 4,000 cameras with this disagreement that are admitted, and the mean number of audits.
    fn admitted(epsilon: f64, disagreement: f64) -> (f64, f64) {
        let mut dice = Dice::new(11);
        let (mut within, mut audits) = (0, 0);
        for _ in 0..4_000 {
            let mut test = Wald::new(epsilon);
            let verdict = loop {
                audits += 1;
                let verdict = test.observe(dice.unit() < disagreement);
                if verdict != Verdict::Open {
                    break verdict;
                }
            };
            within += u32::from(verdict == Verdict::In);
        }
        (f64::from(within) / 4_000.0, f64::from(audits) / 4_000.0)
    }

    /// Goal: the error probabilities that the module states, at small and large epsilon.
    #[test]
    fn bad_cameras_stay_out_and_good_ones_get_in() {
        for epsilon in [0.005, 0.01, 0.05] {
            assert!(admitted(epsilon, epsilon).0 > 0.995, "as promised");
            let (share, audits) = admitted(epsilon, 5.0 * epsilon);
            assert!(share < 0.055 && audits < 5.0 / epsilon, "{share} in, {audits} audits");
            assert!(admitted(epsilon, 10.0 * epsilon).0 < 0.005);
        }
        assert!(admitted(0.3, 0.3).0 > 0.99 && admitted(0.3, 0.65).0 < 0.06);
    }

    #[test]
    fn seventy_three_clean_audits_admit_at_one_percent() {
        assert_eq!(Wald::clean(0.01), 73);
        let mut test = Wald::new(0.01);
        assert!((1..73).all(|_| test.observe(false) == Verdict::Open));
        assert_eq!(test.observe(false), Verdict::In);
    }
}
