//! Head 0: how sure it is that a keyframe's answer still stands for a later frame, from pixels and confidences alone.
//!
//! A small network that knows no classes: one that was trained on other cameras and another backbone serves as well as one
//! trained on the spot. offramp brings one along (`head0/`), trained on rendered scenes.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::decode::Thumbnail;
use crate::heads::Confidence;

/// Numbers in a comparison.
pub const COMPARISON: usize = 10;
/// Values of a thumbnail.
const CELLS: usize = 196;
/// Most hidden units: bounds what foreign bytes may ask for.
const HIDDEN_MAX: usize = 256;
/// Ranks of the residuals that are looked at: a small object moves few cells, a changed view many.
const RANKS: [usize; 4] = [0, 3, 10, 40];
/// A common gain further from 1 than this is no change of the light.
const GAIN_MAX: f32 = 2.0;

/// What head 0 sees of a frame and its keyframe, as a sample stores it: what is served and what is certified are the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison([f16; COMPARISON]);

impl Comparison {
    /// Compares a frame with a keyframe `age` frames before it, which the full model answered with this `confidence` and this
    /// `margin` to the second class.
    ///
    /// In order: log(1 + v) of the largest, 4th, 11th and 41st largest difference of luma after the best common gain, of their
    /// mean, of the mean difference without it, of the 4th largest difference without it; confidence, margin, log(1 + age).
    #[must_use]
    pub fn new(keyframe: &Thumbnail, frame: &Thumbnail, confidence: f32, margin: f32, age: u64) -> Self {
        let pairs = || keyframe.0.iter().zip(&frame.0).map(|(then, now)| (f32::from(*then), f32::from(*now)));
        let (product, square) = pairs().fold((1.0, 1.0), |(p, s), (then, now)| (p + then * now, s + then * then));
        let gain = (product / square).clamp(1.0 / GAIN_MAX, GAIN_MAX);
        let mut lit: Vec<f32> = pairs().map(|(then, now)| (now - gain * then).abs()).collect();
        let mut raw: Vec<f32> = pairs().map(|(then, now)| (now - then).abs()).collect();
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let (lit_mean, raw_mean) = (mean(&lit), mean(&raw));
        lit.sort_unstable_by(|a, b| b.total_cmp(a));
        raw.sort_unstable_by(|a, b| b.total_cmp(a));
        let [first, few, some, many] = RANKS.map(|rank| lit[rank].ln_1p());
        let (lit_mean, raw_mean, raw_few) = (lit_mean.ln_1p(), raw_mean.ln_1p(), raw[RANKS[1]].ln_1p());
        let age = (age as f32).ln_1p();
        let numbers = [first, few, some, many, lit_mean, raw_mean, raw_few, confidence, margin, age];
        Self(numbers.map(f16::from_f32))
    }

    /// The same comparison as if nothing were known of the answer: what the pixels alone say of the view.
    #[must_use]
    pub fn of_pixels(mut self) -> Self {
        [self.0[7], self.0[8]] = [f16::ONE; 2];
        self
    }

    /// As it goes on the wire.
    #[must_use]
    pub fn bits(&self) -> [u16; COMPARISON] {
        self.0.map(f16::to_bits)
    }

    /// From the wire; `None` if a number is not finite.
    #[must_use]
    pub fn from_bits(bits: [u16; COMPARISON]) -> Option<Self> {
        let numbers = bits.map(f16::from_bits);
        numbers.iter().all(|number| number.is_finite()).then_some(Self(numbers))
    }

    /// The numbers, as head 0 takes them.
    #[must_use]
    pub fn numbers(&self) -> [f32; COMPARISON] {
        self.0.map(f16::to_f32)
    }
}

/// The numbers of a head 0: standardise, one hidden layer, one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamenessParts {
    /// Subtracted from a comparison, [`COMPARISON`] values.
    pub mean: Vec<f32>,
    /// Divided by after that, positive, [`COMPARISON`] values.
    pub std: Vec<f32>,
    /// First layer, [`COMPARISON`]` x h`, a row per number of the comparison.
    pub w1: Vec<f32>,
    /// First bias, length h.
    pub b1: Vec<f32>,
    /// Second layer, length h.
    pub w2: Vec<f32>,
    /// Second bias.
    pub b2: f32,
}

/// Why numbers make no head 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamenessError {
    /// Lengths contradict each other or are out of bounds.
    #[error("head 0: {what} has {got} values, {want} expected")]
    Shape {
        /// Which list.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length that fits.
        want: usize,
    },
    /// A number is NaN, infinite, or a divisor is not positive.
    #[error("head 0 holds a number that is not usable")]
    Number,
    /// The text is no head 0.
    #[error("head 0: {0}")]
    Text(String),
}

/// A head 0, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sameness(SamenessParts);

impl Sameness {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When a shape or a number is not usable.
    pub fn new(parts: SamenessParts) -> Result<Self, SamenessError> {
        // No hidden unit, or more than the bound: the second layer's length cannot fit either.
        let hidden = parts.b1.len().clamp(1, HIDDEN_MAX);
        let lists: [(&'static str, &[f32], usize); 5] = [
            ("mean", &parts.mean, COMPARISON),
            ("std", &parts.std, COMPARISON),
            ("w1", &parts.w1, COMPARISON * hidden),
            ("b1", &parts.b1, hidden),
            ("w2", &parts.w2, hidden),
        ];
        for (what, list, want) in lists {
            if list.len() != want {
                return Err(SamenessError::Shape { what, got: list.len(), want });
            }
        }
        let finite = lists.iter().all(|(_, list, _)| list.iter().all(|number| number.is_finite()));
        if !finite || !parts.b2.is_finite() || !parts.std.iter().all(|divisor| *divisor > 0.0) {
            return Err(SamenessError::Number);
        }
        Ok(Self(parts))
    }

    /// The one that comes with offramp; how it was made stands beside it, in `head0/`.
    ///
    /// # Errors
    /// Never in a build whose tests passed.
    pub fn shipped() -> Result<Self, SamenessError> {
        let parts = serde_json::from_str(include_str!("head0/weights.json"));
        Self::new(parts.map_err(|error| SamenessError::Text(error.to_string()))?)
    }

    /// The numbers, as they go on the wire.
    #[must_use]
    pub fn parts(&self) -> &SamenessParts {
        &self.0
    }

    /// The logarithm of the odds that the answer stands.
    #[must_use]
    pub fn logit(&self, comparison: &Comparison) -> f32 {
        let parts = &self.0;
        let mut units = parts.b1.clone();
        let standard = comparison.numbers().into_iter().zip(&parts.mean).zip(&parts.std).map(|((v, m), s)| (v - m) / s);
        for (value, weights) in standard.zip(parts.w1.chunks_exact(units.len())) {
            units.iter_mut().zip(weights).for_each(|(unit, weight)| *unit += value * weight);
        }
        units.iter().zip(&parts.w2).map(|(unit, weight)| unit.max(0.0) * weight).sum::<f32>() + parts.b2
    }

    /// How sure it is that the answer stands.
    #[must_use]
    pub fn judge(&self, comparison: &Comparison) -> Confidence {
        Confidence::new(1.0 / (1.0 + (-self.logit(comparison)).exp()))
    }

    /// FLOPs of one comparison and its judgement.
    #[must_use]
    pub fn flops(&self) -> u64 {
        (CELLS * 8 + 2 * COMPARISON + 2 * self.0.w1.len() + 3 * self.0.b1.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picture(shade: impl Fn(usize) -> u8) -> Thumbnail {
        Thumbnail(std::array::from_fn(shade))
    }

    /// Goal: the head that comes along is usable and has learned the obvious.
    #[test]
    fn the_shipped_head_is_sure_of_what_did_not_change() {
        let head = Sameness::shipped().expect("the weights are sound");
        let keyframe = picture(|at| (at * 37 % 200) as u8 + 20);
        // The odds that the answer stands, as a logarithm.
        let judge = |frame: &Thumbnail, sure: f32| head.logit(&Comparison::new(&keyframe, frame, sure, sure, 2));
        let same = judge(&keyframe, 0.99);
        let object = judge(&picture(|at| if at < CELLS / 2 { 250 } else { keyframe.0[at] }), 0.99);
        let brighter = judge(&picture(|at| (f32::from(keyframe.0[at]) * 1.05) as u8), 0.99);
        assert!(same > 5.0, "nothing changed: {same}");
        assert!(object < same - 4.0, "half of the view changed: {object} of {same}");
        assert!(brighter > object, "a change of the light: {brighter}, of the view: {object}");
        assert!(judge(&keyframe, 0.4) < same, "an unsure answer stands less firmly");
    }

    proptest! {
        /// Goal: any two pictures can be compared, and the comparison survives the wire.
        #[test]
        fn comparisons_are_finite(
            a in prop::array::uniform32(0u8..), b in prop::array::uniform32(0u8..),
            sure in 0.0f32..=1.0, margin in 0.0f32..=1.0, age: u64,
        ) {
            let (a, b) = (picture(|at| a[at % 32]), picture(|at| b[at % 32]));
            let comparison = Comparison::new(&a, &b, sure, margin, age);
            prop_assert_eq!(Comparison::from_bits(comparison.bits()), Some(comparison));
            let head = Sameness::shipped().expect("sound");
            prop_assert!(head.logit(&comparison).is_finite());
            prop_assert_eq!(comparison.of_pixels(), Comparison::new(&a, &b, 1.0, 1.0, age));
        }
    }

    #[test]
    fn unusable_numbers_are_refused() {
        let sound = Sameness::shipped().expect("sound").parts().clone();
        let with = |change: &dyn Fn(&mut SamenessParts)| {
            let mut parts = sound.clone();
            change(&mut parts);
            Sameness::new(parts)
        };
        assert!(matches!(with(&|p| p.b2 = f32::NAN), Err(SamenessError::Number)));
        assert!(matches!(with(&|p| p.std[3] = 0.0), Err(SamenessError::Number)));
        assert!(matches!(with(&|p| p.w1.truncate(7)), Err(SamenessError::Shape { what: "w1", .. })));
        assert!(matches!(with(&|p| p.b1.clear()), Err(SamenessError::Shape { .. })));
        assert!(matches!(with(&|p| p.mean.push(0.0)), Err(SamenessError::Shape { what: "mean", .. })));
        assert_eq!(Comparison::from_bits([0x7c00; COMPARISON]), None, "infinity");
    }
}
