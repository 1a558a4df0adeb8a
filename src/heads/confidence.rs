//! Checked numbers of the exit rule: a NaN can neither be a confidence nor a threshold, so it can never let a frame out.

use std::fmt;

/// How sure a head is of its answer: a probability in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Confidence(f32);

impl Confidence {
    /// Not sure at all: passes no threshold.
    pub const NONE: Self = Self(0.0);

    /// Takes any number; what is not in [0, 1], NaN included, becomes [`Confidence::NONE`].
    #[must_use]
    pub fn new(value: f32) -> Self {
        if (0.0..=1.0).contains(&value) { Self(value) } else { Self::NONE }
    }

    /// The probability, in [0, 1].
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

/// The confidence from which a frame may leave: in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Threshold(f32);

impl Threshold {
    /// `None` for anything outside (0, 1], NaN included: a threshold of zero would let unsure frames out.
    #[must_use]
    pub fn new(value: f32) -> Option<Self> {
        (value > 0.0 && value <= 1.0).then_some(Self(value))
    }

    /// The number, in (0, 1].
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }

    /// Whether a frame with this confidence may leave.
    #[must_use]
    pub fn admits(self, confidence: Confidence) -> bool {
        confidence.0 >= self.0
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_numbers_in_range_pass(bits in any::<u32>(), threshold in 1e-6f32..=1.0) {
            let value = f32::from_bits(bits);
            let threshold = Threshold::new(threshold).expect("in range");
            let expected = value >= threshold.get() && value <= 1.0;
            prop_assert_eq!(threshold.admits(Confidence::new(value)), expected);
        }

        #[test]
        fn a_threshold_is_positive(bits in any::<u32>()) {
            if let Some(threshold) = Threshold::new(f32::from_bits(bits)) {
                prop_assert!(threshold.get() > 0.0 && threshold.get() <= 1.0);
                prop_assert!(!threshold.admits(Confidence::NONE));
            }
        }
    }
}
