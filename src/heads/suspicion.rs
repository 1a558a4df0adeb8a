//! A free look at every frame: is the first exit as sure of itself as it was when the policy was certified?
//!
//! It proves nothing about disagreement; it only says that more audits are worth their price now. Has no clock: windows
//! are counted in frames.

use serde::{Deserialize, Serialize};

use crate::heads::Confidence;

/// Number of bins.
pub const BINS: usize = 10;

/// Upper 0.1 % points of chi-square with 1 to 9 degrees of freedom.
const CHI_SQUARE_999: [f64; BINS - 1] = [10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124, 27.877];

/// How the first exit's confidences were spread over the audits that certified the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Upper edges of all bins but the last, ascending, in [0, 1]: deciles of the certifying audits.
    pub edges: [f32; BINS - 1],
    /// Certifying audits per bin.
    pub counts: [u32; BINS],
}

impl Reference {
    /// Deciles of these confidences; `None` for fewer than 100.
    #[must_use]
    pub fn of(confidences: &[Confidence]) -> Option<Self> {
        if confidences.len() < 100 {
            return None;
        }
        let mut sorted: Vec<f32> = confidences.iter().map(|confidence| confidence.get()).collect();
        sorted.sort_by(f32::total_cmp);
        let mut reference = Self { edges: [0.0; BINS - 1], counts: [0; BINS] };
        for (decile, edge) in reference.edges.iter_mut().enumerate() {
            *edge = sorted[(decile + 1) * sorted.len() / BINS];
        }
        for confidence in confidences {
            let bin = reference.bin(*confidence);
            reference.counts[bin] += 1;
        }
        Some(reference)
    }

    /// Whether foreign numbers make a usable reference.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.edges.iter().all(|edge| (0.0..=1.0).contains(edge)) && self.edges.is_sorted()
    }

    /// The bin of a confidence, below [`BINS`].
    #[must_use]
    pub fn bin(&self, confidence: Confidence) -> usize {
        self.edges.partition_point(|edge| *edge <= confidence.get())
    }

    /// Two-sample chi-square of a window's counts against the reference, over its 99.9 % point: above 1 is suspicious.
    /// Uses both samples' sizes, so that a small reference does not cry wolf.
    #[must_use]
    pub fn excess(&self, window: &[u32; BINS]) -> f64 {
        let total = |counts: &[u32; BINS]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
        let (here, there) = (total(window), total(&self.counts));
        if here == 0.0 || there == 0.0 {
            return 0.0;
        }
        let (to_here, to_there) = ((there / here).sqrt(), (here / there).sqrt());
        let (mut statistic, mut used) = (0.0, 0usize);
        for (a, b) in window.iter().zip(&self.counts) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            if a + b > 0.0 {
                statistic += (to_here * a - to_there * b).powi(2) / (a + b);
                used += 1;
            }
        }
        match used.checked_sub(2).and_then(|degree| CHI_SQUARE_999.get(degree)) {
            Some(critical) => statistic / critical,
            None => 0.0,
        }
    }
}

/// Counts the first exit's confidences of one worker and compares them window by window.
#[derive(Debug, Clone)]
pub struct Suspicion {
    window: u32,
    seen: u32,
    counts: [u32; BINS],
    policy: u64,
    suspicious: bool,
}

impl Suspicion {
    /// `window` frames are compared at a time; 200 to 500 see most changes (at least 50).
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self { window: window.max(50), seen: 0, counts: [0; BINS], policy: 0, suspicious: false }
    }

    /// Takes the first exit's confidence on one frame under the policy `version`. Returns the counts of a window when one
    /// is complete; they are what the learner wants to hear.
    pub fn observe(&mut self, version: u64, reference: &Reference, confidence: Confidence) -> Option<[u32; BINS]> {
        if version != self.policy {
            *self = Self { policy: version, ..Self::new(self.window) };
        }
        self.counts[reference.bin(confidence)] += 1;
        self.seen += 1;
        if self.seen < self.window {
            return None;
        }
        let counts = std::mem::take(&mut self.counts);
        self.seen = 0;
        self.suspicious = reference.excess(&counts) > 1.0;
        Some(counts)
    }

    /// Whether the last complete window under the policy in force differed from the reference.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        self.suspicious
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference() -> Reference {
        let confidences: Vec<Confidence> = (0..1000).map(|i| Confidence::new(i as f32 / 1000.0)).collect();
        Reference::of(&confidences).expect("enough")
    }

    proptest! {
        #[test]
        fn every_confidence_has_a_bin(bits in any::<u32>()) {
            prop_assert!(reference().bin(Confidence::new(f32::from_bits(bits))) < BINS);
        }

        #[test]
        fn the_same_spread_is_not_suspicious(shift in 0.0f32..0.001) {
            let reference = reference();
            let mut monitor = Suspicion::new(500);
            for i in 0..1000 {
                let confidence = Confidence::new((i as f32 * 0.618_034 + shift).fract());
                let _ = monitor.observe(1, &reference, confidence);
            }
            prop_assert!(!monitor.is_suspicious());
        }
    }

    #[test]
    fn a_shifted_spread_is_suspicious_until_the_policy_changes() {
        let reference = reference();
        let mut monitor = Suspicion::new(200);
        for i in 0..200 {
            let _ = monitor.observe(1, &reference, Confidence::new((i as f32 * 0.618_034).fract().powi(2)));
        }
        assert!(monitor.is_suspicious());
        let _ = monitor.observe(2, &reference, Confidence::new(0.5));
        assert!(!monitor.is_suspicious());
    }

    #[test]
    fn confidences_that_are_all_equal_make_no_noise() {
        let same = vec![Confidence::new(1.0); 400];
        let reference = Reference::of(&same).expect("enough");
        let mut window = [0; BINS];
        window[reference.bin(Confidence::new(1.0))] = 200;
        assert!(reference.excess(&window) <= 1.0);
    }
}
