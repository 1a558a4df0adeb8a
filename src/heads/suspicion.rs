//! A free look at every frame: is the first exit as sure of itself as it was when the policy was certified?
//!
//! It proves nothing about disagreement; it only says that more audits are worth their price now. Has no clock: windows
//! are counted in frames.

use serde::{Deserialize, Serialize};

use crate::heads::Confidence;

/// Number of bins.
pub const BINS: usize = 10;
/// Frames that are compared at a time: 200 to 500 see most changes of the input.
pub const SUSPICION_WINDOW: u32 = 300;
/// Audit rate under suspicion. All frames: half of them would cost as many audits for the same verdict, take twice the time,
/// and let answers out meanwhile that nobody vouches for.
pub const SUSPICIOUS_RATE: f64 = 1.0;
/// The windows of the past must stay this far below what is suspicious.
const MARGIN: f64 = 1.25;
/// A reference worth fewer frames than this would see nothing any more.
const LEAST_WORTH: f64 = 40.0;

/// Upper 0.1 % points of chi-square with 1 to 9 degrees of freedom.
const CHI_SQUARE_999: [f64; BINS - 1] = [10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124, 27.877];

/// How the first exit's confidences were spread over the audits that certified the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Upper edges of all bins but the last, ascending, in [0, 1]: deciles of the certifying audits.
    pub edges: [f32; BINS - 1],
    /// Certifying audits per bin; scaled down where they vary like fewer independent ones.
    pub counts: [u32; BINS],
}

impl Reference {
    /// Deciles of these confidences, given in the order of their frames; `None` for fewer than 100.
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
        reference.counts = reference.spread(confidences);
        let windows: Vec<_> =
            confidences.chunks_exact(SUSPICION_WINDOW as usize).map(|w| reference.spread(w)).collect();
        Some(reference.calmed(&windows))
    }

    /// How many of these fall into each bin.
    fn spread(&self, confidences: &[Confidence]) -> [u32; BINS] {
        let mut counts = [0; BINS];
        confidences.iter().for_each(|confidence| counts[self.bin(*confidence)] += 1);
        counts
    }

    /// Scenes last: frames that come in bursts vary more from window to window than independent ones would. The same
    /// spread over fewer audits makes every comparison weaker, until none of these windows is suspicious or little is left.
    pub(crate) fn calmed(self, windows: &[[u32; BINS]]) -> Self {
        let total: u32 = self.counts.iter().sum();
        let mut worth = f64::from(total);
        loop {
            let share = worth / f64::from(total.max(1));
            let counts = self.counts.map(|count| (f64::from(count) * share).round() as u32);
            let weaker = Self { counts, ..self.clone() };
            if worth < LEAST_WORTH || windows.iter().all(|window| weaker.excess(window) * MARGIN <= 1.0) {
                return weaker;
            }
            worth *= 0.8;
        }
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
        let even = |i: u32| Confidence::new((f64::from(i) * 0.618_034).fract() as f32);
        let confidences: Vec<Confidence> = (0..1000).map(even).collect();
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

    /// Goal: what is usual is not suspicious. Method: bursts of 100 frames that are more or less sure of themselves.
    #[test]
    fn bursts_are_not_suspicious_once_they_were_seen() {
        let burst = |frame: u32| f64::from(frame / 100 * 7919 % 13) / 13.0;
        let sure = |frame: u32, swing: f64| {
            let noise = (f64::from(frame) * 0.618_034).fract();
            Confidence::new((0.2 + 0.6 * noise + swing * burst(frame)) as f32)
        };
        let reference = |swing| Reference::of(&(0..1800).map(|frame| sure(frame, swing)).collect::<Vec<_>>());
        let calm = reference(0.0).expect("calm");
        assert_eq!(calm.counts.iter().sum::<u32>(), 1800);
        let bursty = reference(0.2).expect("still of use");
        assert!(bursty.counts.iter().sum::<u32>() < 900, "{bursty:?}");
        for start in (0..1800).step_by(300) {
            let window: Vec<Confidence> = (start..start + 300).map(|frame| sure(frame, 0.2)).collect();
            assert!(bursty.excess(&bursty.spread(&window)) < 1.0);
        }
        assert!(reference(1.5).expect("of little use").counts.iter().sum::<u32>() < 60);
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
