//! How often the answer that was really served differed from the full model's: an estimate and two bounds that rest on the
//! random draws of the audits alone. Nothing is assumed of the frames: they may drift, come in scenes, or be chosen by
//! somebody who sees every draw but the next.
//!
//! Frame i would be answered early and otherwise than by the full model (`y_i = 1`) or not (`y_i = 0`), and is audited with a
//! probability `p_i` that is fixed before its draw. An audited frame is answered by the full model. Let S be the number of
//! frames with `y = 1`. For a bet `u` in (0, 1) and `theta = -ln(1 - u p)`, with `p` at most every `p_i`, the product over the
//! frames with `y = 1` of
//!
//! ```text
//! e^theta * (1 - u p / p_i)   if it is audited
//! e^theta                     if it is not
//! ```
//!
//! has expectation 1 at every step, as `e^theta (1 - u p) = 1`: it is a martingale, whatever the order and the number of
//! those frames. It equals `exp(theta S + T)`, where `T`, the sum of `ln(1 - u p / p_i)` over the audited ones, is known, and S
//! is not. By Ville's inequality it ever reaches 1 / delta with probability at most delta, and so does a mixture over bets.
//! So all S at which the mixture reaches 1 / delta are excluded, and the greatest that is left bounds S from above. The lower
//! bound is the mirror, with factors `1 + v p / p_i`. Audited disagreements are known and were answered right: they are taken
//! off. T and all counts add over minutes and workers. (Ville 1939; Waudby-Smith and Ramdas, arXiv 2010.09686, 2210.10768;
//! the estimate is Horvitz and Thompson's, 1952.)

use serde::{Deserialize, Serialize};

/// Bets in the mixture of each bound.
pub const BETS: usize = 16;
/// A bound that is missed with at most this probability, each of the two.
pub const DELTA: f64 = 0.05;

/// Sums of logarithms are whole numbers of this part of one: they add exactly, in whatever order, and can be no NaN.
const PART: f64 = (1_u64 << 32) as f64;
/// The same of the estimate's sum.
const ESTIMATE_PART: f64 = (1_u64 << 16) as f64;
/// More frames than this has no fleet served: 9 million a second for a year.
const FRAMES_MAX: u64 = 1 << 48;
/// More audited disagreements than this are none: their sums would not fit.
const DISAGREEMENTS_MAX: u64 = 1 << 28;

/// The bets of the upper bound, in (0, 1): small ones for many disagreements, large ones for few.
fn down(bet: usize) -> f64 {
    0.95 * 0.75_f64.powi(bet as i32)
}

/// The bets of the lower bound.
fn up(bet: usize) -> f64 {
    16.0 * 0.62_f64.powi(bet as i32)
}

/// Weights of the mixture, in proportion to 1 / (j + 1).
fn weight(bet: usize) -> f64 {
    let all: f64 = (1..=BETS).map(|place| 1.0 / place as f64).sum();
    1.0 / (bet + 1) as f64 / all
}

/// What an audited frame showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It would have gone all the way, or been answered early like the full model.
    Right,
    /// It would have been answered early, and otherwise than by the full model.
    Wrong,
    /// Nobody knows: the comparison was lost. Counted as a disagreement that was served.
    Lost,
}

/// Frames, early answers and audits of some time at some workers, and what the bounds need of the disagreements among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Tally {
    least: f64,
    frames: u64,
    early: u64,
    blind: u64,
    audits: u64,
    disagreements: u64,
    lost: u64,
    estimate: u64,
    upper: [i64; BETS],
    lower: [i64; BETS],
}

impl Tally {
    /// Nothing yet. `least` is the probability, in (0, 1], that no frame's probability may fall below if its early answer is
    /// to count for less than a disagreement. Tallies with the same one add.
    ///
    /// # Panics
    /// When it is no probability.
    #[must_use]
    pub fn new(least: f64) -> Self {
        assert!(least > 0.0 && least <= 1.0, "a probability");
        let none = [0; BETS];
        let (frames, early, blind, audits) = (0, 0, 0, 0);
        Self { least, frames, early, blind, audits, disagreements: 0, lost: 0, estimate: 0, upper: none, lower: none }
    }

    /// The probability that it was made with.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.least
    }

    /// Answered frames, audited ones included.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames that an exit answered.
    #[must_use]
    pub fn early(&self) -> u64 {
        self.early
    }

    /// Frames that were audited.
    #[must_use]
    pub fn audits(&self) -> u64 {
        self.audits
    }

    /// Audited frames that would have been answered early and otherwise.
    #[must_use]
    pub fn disagreements(&self) -> u64 {
        self.disagreements
    }

    /// Early answers that had too small a chance to be audited, and count as disagreements.
    #[must_use]
    pub fn blind(&self) -> u64 {
        self.blind
    }

    /// Counts a frame that was not audited: with which probability it might have been, and whether an exit answered it. One
    /// that the full model answered cannot be wrong.
    pub fn served(&mut self, probability: f64, early: bool) {
        self.frames += 1;
        self.early += u64::from(early);
        // NaN is no chance either.
        let seen = probability >= self.least;
        self.blind += u64::from(early && !seen);
    }

    /// Counts an audited frame: with which probability it was drawn, and what it showed.
    pub fn audited(&mut self, probability: f64, shown: Shown) {
        self.frames += 1;
        self.audits += 1;
        let known = probability >= self.least && probability <= 1.0;
        if !known || shown == Shown::Right {
            return;
        }
        let share = self.least / probability;
        for (bet, sum) in self.upper.iter_mut().enumerate() {
            // Rounded towards the wider bound.
            *sum = sum.saturating_add(((-down(bet) * share).ln_1p() * PART).floor() as i64);
        }
        self.estimate = self.estimate.saturating_add(((1.0 / probability - 1.0) * ESTIMATE_PART).round() as u64);
        if shown == Shown::Lost {
            self.lost += 1;
            return;
        }
        self.disagreements += 1;
        for (bet, sum) in self.lower.iter_mut().enumerate() {
            *sum = sum.saturating_add(((up(bet) * share).ln_1p() * PART).floor() as i64);
        }
    }

    /// Adds another time or another worker. One that was counted with another least probability has sums that mean something
    /// else: all its early answers count as disagreements then.
    pub fn add(&mut self, other: &Self) {
        self.frames = self.frames.saturating_add(other.frames);
        self.early = self.early.saturating_add(other.early);
        self.audits = self.audits.saturating_add(other.audits);
        if self.least.to_bits() != other.least.to_bits() {
            self.blind = self.blind.saturating_add(other.early);
            return;
        }
        self.blind = self.blind.saturating_add(other.blind);
        self.disagreements = self.disagreements.saturating_add(other.disagreements);
        self.lost = self.lost.saturating_add(other.lost);
        self.estimate = self.estimate.saturating_add(other.estimate);
        for (sum, more) in self.upper.iter_mut().zip(other.upper).chain(self.lower.iter_mut().zip(other.lower)) {
            *sum = sum.saturating_add(more);
        }
    }

    /// What can be said, each bound being missed with probability [`DELTA`] at most.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds_at(DELTA)
    }

    /// [`Tally::bounds`] with this probability of missing, in (0, 1).
    #[must_use]
    pub fn bounds_at(&self, delta: f64) -> Bounds {
        // What was served wrong is an early answer, and no audited one.
        let served = |disagreements: u64| disagreements.saturating_sub(self.disagreements).min(self.early);
        let upper = served(self.most(delta)).saturating_add(self.blind).min(self.early);
        let lower = served(self.fewest(delta));
        let estimate = (self.estimate as f64 / ESTIMATE_PART).min(self.early as f64);
        let share = |of: u64| match of {
            0 => Interval { lower: 0.0, estimate: 0.0, upper: 1.0 },
            of => Interval {
                lower: lower as f64 / of as f64,
                estimate: estimate / of as f64,
                upper: upper as f64 / of as f64,
            },
        };
        Bounds { frames: self.frames, early: self.early, all: share(self.frames), of_early: share(self.early) }
    }

    /// The greatest number of disagreements, audited ones included, that the draws leave possible.
    fn most(&self, delta: f64) -> u64 {
        let threshold = -delta.ln();
        let excluded = |disagreements: u64| {
            let wealth = |bet: usize| {
                let theta = -(-down(bet) * self.least).ln_1p();
                theta * disagreements as f64 + self.upper.get(bet).copied().unwrap_or_default() as f64 / PART
            };
            mixture(wealth) >= threshold
        };
        // Wealth grows with the number: the first that is excluded excludes all after it.
        first(self.frames.saturating_add(1), excluded).saturating_sub(1)
    }

    /// The least number of disagreements, audited ones included, that the draws leave possible.
    fn fewest(&self, delta: f64) -> u64 {
        let threshold = -delta.ln();
        let possible = |disagreements: u64| {
            let wealth = |bet: usize| {
                let theta = (up(bet) * self.least).ln_1p();
                self.lower.get(bet).copied().unwrap_or_default() as f64 / PART - theta * disagreements as f64
            };
            mixture(wealth) < threshold
        };
        first(self.frames, possible)
    }
}

/// Logarithm of the mixture of wealths that are given by their logarithms.
fn mixture(wealth: impl Fn(usize) -> f64) -> f64 {
    let logs: [f64; BETS] = std::array::from_fn(|bet| wealth(bet) + weight(bet).ln());
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
}

/// The first number in `0..end` that holds, where all after one that holds do too; `end`: none.
fn first(end: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// A share with what the draws leave possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The truth is below this with probability delta at most.
    pub lower: f64,
    /// Right in the mean.
    pub estimate: f64,
    /// The truth is above this with probability delta at most.
    pub upper: f64,
}

/// The share of answers that were served and differ from the full model's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Answered frames.
    pub frames: u64,
    /// Answered by an exit.
    pub early: u64,
    /// Of all frames.
    pub all: Interval,
    /// Of those that an exit answered.
    pub of_early: Interval,
}

/// Why a tally from elsewhere is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tally of audits with {0}")]
pub struct TallyFault(&'static str);

impl TallyFault {
    pub(super) fn new(what: &'static str) -> Self {
        Self(what)
    }
}

/// The tally as it travels.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    least: f64,
    counts: [u64; 6],
    estimate: u64,
    upper: [i64; BETS],
    lower: [i64; BETS],
}

impl From<Tally> for Wire {
    fn from(tally: Tally) -> Self {
        let Tally { least, frames, early, blind, audits, disagreements, lost, estimate, upper, lower } = tally;
        Self { least, counts: [frames, early, blind, audits, disagreements, lost], estimate, upper, lower }
    }
}

impl TryFrom<Wire> for Tally {
    type Error = TallyFault;

    /// Everything that some frames could have made, and nothing else.
    fn try_from(wire: Wire) -> Result<Self, TallyFault> {
        let Wire { least, counts: [frames, early, blind, audits, disagreements, lost], estimate, upper, lower } = wire;
        // Below a ten-thousandth nobody audits.
        if !(1e-4..=1.0).contains(&least) {
            return Err(TallyFault("a least probability that is none"));
        }
        let fits = frames <= FRAMES_MAX && early <= frames && audits <= frames - early && blind <= early;
        if !fits {
            return Err(TallyFault("more early answers or audits than frames"));
        }
        let drawn = disagreements.saturating_add(lost);
        if drawn > audits || drawn > DISAGREEMENTS_MAX {
            return Err(TallyFault("more disagreements than audits"));
        }
        // Each disagreement was drawn with a probability between the least and 1; rounding takes at most a part.
        let within = |sum: i64, count: u64, small: f64, large: f64| {
            let parts = |log: f64| (count as f64 * log * PART, count as f64);
            let ((low, slack), (high, _)) = (parts(small), parts(large));
            (low - slack - 1.0..=high + slack + 1.0).contains(&(sum as f64))
        };
        let possible = (0..BETS).all(|bet| {
            let (u, v) = (down(bet), up(bet));
            within(upper[bet], drawn, (-u).ln_1p(), (-u * least).ln_1p())
                && within(lower[bet], disagreements, (v * least).ln_1p(), v.ln_1p())
        });
        let most = drawn as f64 * ((1.0 / least - 1.0) * ESTIMATE_PART + 1.0);
        if !possible || estimate as f64 > most {
            return Err(TallyFault("sums that no audits make"));
        }
        Ok(Self { least, frames, early, blind, audits, disagreements, lost, estimate, upper, lower })
    }
}

#[cfg(test)]
mod tests;
