//! One exit's classifier: what it computes, bit for bit, in serving and in certification alike.
//!
//! Knows neither how it was trained nor whether it is good. The head on the wire, the head that was certified and the head
//! that serves are the same numbers, and the arithmetic gives the same bits on every processor, so replicas on different
//! machines decide alike.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::heads::Confidence;
use crate::heads::dense::FirstLayer;
use crate::plan::ExitId;

/// No head is wider than this: bounds what foreign bytes may ask for.
pub const MAX_FEATURES: usize = 4096;
/// Most hidden units.
pub const MAX_HIDDEN: usize = 1024;
/// Most outputs.
pub const MAX_OUTPUTS: usize = 65_536;

/// The numbers of a head. Shapes: d features, h hidden units, k outputs = subset classes, plus one for "any other class"
/// when the subset is not all classes.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadParts {
    /// Which candidate exit it belongs to.
    pub exit: ExitId,
    /// Sequence number of the publication that first carried it; with `exit` its identity.
    pub sequence: u64,
    /// The classes it can answer, as indices in the backbone's output, strictly ascending.
    pub classes: Vec<u32>,
    /// Whether the last output stands for all classes outside the subset.
    pub other: bool,
    /// Subtracted from the features, length d.
    pub mean: Vec<f32>,
    /// Multiplied after that, length d.
    pub scale: Vec<f32>,
    /// First layer, `d x h`, a row per feature.
    pub w1: Vec<f16>,
    /// First bias, length h.
    pub b1: Vec<f32>,
    /// Second layer, `h x k`, a row per hidden unit.
    pub w2: Vec<f16>,
    /// Second bias, length k.
    pub b2: Vec<f32>,
    /// Divides the outputs before the softmax; positive.
    pub temperature: f32,
}

/// Why numbers do not make a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Lengths contradict each other or are out of bounds.
    #[error("head of exit {exit}: {what} has {got} values, {want} expected")]
    Shape {
        /// The exit.
        exit: ExitId,
        /// Which list.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length that fits.
        want: usize,
    },
    /// A number is NaN, infinite, or a temperature or scale is not positive.
    #[error("head of exit {exit}: {what} holds a number that is not usable")]
    Number {
        /// The exit.
        exit: ExitId,
        /// Which list.
        what: &'static str,
    },
    /// The class subset is empty, unsorted or out of range.
    #[error("head of exit {exit}: its classes are not ascending indices below {classes}")]
    Classes {
        /// The exit.
        exit: ExitId,
        /// How many classes the backbone has.
        classes: usize,
    },
}

/// What a head says about one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Index in the backbone's output.
    pub class: usize,
    /// Probability of that class; [`Confidence::NONE`] when the features are not finite or another class is likelier.
    pub confidence: Confidence,
}

/// Buffers for one thread; grow to the largest head and are then reused.
#[derive(Debug, Default, Clone)]
pub struct Scratch {
    rounded: Vec<f16>,
    features: Vec<f32>,
    steps: Vec<i16>,
    sums: Vec<i32>,
    hidden: Vec<f32>,
    outputs: Vec<f32>,
}

/// A classifier for one exit, checked: all shapes fit, all numbers are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    parts: HeadParts,
    first: FirstLayer,
    /// As long as a row of the first layer's sums.
    b1: Vec<f32>,
    w2: Vec<f32>,
}

impl Head {
    /// Checks the numbers against a backbone with `classes` classes and `width` features at this exit.
    ///
    /// # Errors
    /// When a shape, a number or the class subset is not usable.
    pub fn new(parts: HeadParts, width: usize, classes: usize) -> Result<Self, HeadError> {
        check(&parts, width, classes)?;
        let hidden = parts.b1.len();
        let first = FirstLayer::new(&parts.w1, hidden);
        let mut b1 = parts.b1.clone();
        b1.resize(first.units(), 0.0);
        let w2 = parts.w2.iter().map(|weight| weight.to_f32()).collect();
        Ok(Self { parts, first, b1, w2 })
    }

    /// The candidate exit it belongs to.
    #[must_use]
    pub fn exit(&self) -> ExitId {
        self.parts.exit
    }

    /// Sequence number of the publication that first carried it.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.parts.sequence
    }

    /// Features it reads per frame.
    #[must_use]
    pub fn width(&self) -> usize {
        self.parts.mean.len()
    }

    /// FLOPs of judging one frame: standardise, two a weight of both layers, softmax.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let parts = &self.parts;
        (2 * (parts.mean.len() + parts.w1.len() + parts.w2.len()) + 4 * parts.b2.len()) as u64
    }

    /// Classes it can answer, as indices in the backbone's output.
    #[must_use]
    pub fn classes(&self) -> &[u32] {
        &self.parts.classes
    }

    /// The numbers, as they go on the wire.
    #[must_use]
    pub fn parts(&self) -> &HeadParts {
        &self.parts
    }

    /// The same head under another sequence number.
    #[must_use]
    pub(crate) fn with_sequence(&self, sequence: u64) -> Self {
        let mut head = self.clone();
        head.parts.sequence = sequence;
        head
    }

    /// Judges one frame by its pooled features (`width` values), rounded to `f16` first as samples store them.
    /// Features of another width are a caller's mistake and give [`Confidence::NONE`].
    #[must_use]
    pub fn judge(&self, features: &[f32], scratch: &mut Scratch) -> Verdict {
        let mut verdict = self.nothing();
        self.judge_rows(1, features, scratch, |_, found| verdict = found);
        verdict
    }

    /// Judges frames by their pooled features, `rows x width` values: each as [`Head::judge`] judges it alone, bit for bit.
    /// `each` is told the row and the verdict, in order.
    pub fn judge_rows(&self, rows: usize, features: &[f32], scratch: &mut Scratch, each: impl FnMut(usize, Verdict)) {
        let mut rounded = std::mem::take(&mut scratch.rounded);
        rounded.resize(features.len(), f16::ZERO);
        rounded.convert_from_f32_slice(features);
        self.judge_all(rows, &rounded, scratch, each);
        scratch.rounded = rounded;
    }

    /// Judges one frame by features as a sample stores them.
    #[must_use]
    pub fn judge_stored(&self, features: &[f16], scratch: &mut Scratch) -> Verdict {
        let mut verdict = self.nothing();
        self.judge_all(1, features, scratch, |_, found| verdict = found);
        verdict
    }

    fn judge_all(&self, rows: usize, features: &[f16], scratch: &mut Scratch, mut each: impl FnMut(usize, Verdict)) {
        if features.len() != rows * self.width() {
            return (0..rows).for_each(|row| each(row, self.nothing()));
        }
        self.logits(features, scratch);
        let rows = features.chunks_exact(self.width()).zip(scratch.outputs.chunks_exact(self.parts.b2.len()));
        for (at, (row, outputs)) in rows.enumerate() {
            // `max(NaN, 0)` is 0, so the ReLU would launder a NaN into a confident answer.
            // All are looked at: without a way out a register of them is looked at at once.
            let sound = row.iter().fold(true, |sound, value| sound & value.is_finite());
            each(at, sound.then(|| self.softmax(outputs)).flatten().unwrap_or_else(|| self.nothing()));
        }
    }

    /// The verdict that lets nobody out.
    fn nothing(&self) -> Verdict {
        Verdict { class: self.parts.classes[0] as usize, confidence: Confidence::NONE }
    }

    /// Fills `scratch.outputs` with the k outputs of each row before temperature.
    fn logits(&self, features: &[f16], scratch: &mut Scratch) {
        let parts = &self.parts;
        let (width, rows) = (self.width(), features.len() / self.width());
        scratch.features.resize(features.len(), 0.0);
        features.convert_to_f32_slice(&mut scratch.features);
        scratch.steps.clear();
        scratch.steps.resize(rows * self.first.width(), 0);
        let steps = scratch.steps.chunks_exact_mut(self.first.width());
        for (row, steps) in scratch.features.chunks_exact(width).zip(steps) {
            FirstLayer::round(row, &parts.mean, &parts.scale, steps);
        }
        self.first.units_of(&scratch.steps, &self.b1, &mut scratch.sums, &mut scratch.hidden);
        self.second_layer(rows, scratch);
    }

    fn second_layer(&self, rows: usize, scratch: &mut Scratch) {
        let outputs = self.parts.b2.len();
        scratch.outputs.clear();
        (0..rows).for_each(|_| scratch.outputs.extend_from_slice(&self.parts.b2));
        let rows = scratch.hidden.chunks_exact(self.b1.len()).zip(scratch.outputs.chunks_exact_mut(outputs));
        for (hidden, made) in rows {
            for (unit, row) in hidden.iter().zip(self.w2.chunks_exact(outputs)) {
                // The ReLU; half of the units are silent after it.
                if *unit > 0.0 {
                    for (output, weight) in made.iter_mut().zip(row) {
                        *output += unit * weight;
                    }
                }
            }
        }
    }

    fn softmax(&self, outputs: &[f32]) -> Option<Verdict> {
        let (best, top) = outputs.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let class = self.parts.classes.get(best).copied();
        let sum: f32 = outputs.iter().map(|output| ((output - top) / self.parts.temperature).exp()).sum();
        // `class` is absent when "any other class" won: then there is nothing to be sure of.
        let class = class? as usize;
        Some(Verdict { class, confidence: Confidence::new(1.0 / sum) })
    }

    /// The k outputs before temperature, for fitting the temperature.
    pub(crate) fn outputs<'a>(&self, features: &[f16], scratch: &'a mut Scratch) -> &'a [f32] {
        self.logits(features, scratch);
        &scratch.outputs
    }
}

fn check(parts: &HeadParts, width: usize, classes: usize) -> Result<(), HeadError> {
    let exit = parts.exit;
    let hidden = parts.b1.len();
    let outputs = parts.classes.len() + usize::from(parts.other);
    let ascending = parts.classes.windows(2).all(|pair| pair[0] < pair[1]);
    let in_range = parts.classes.last().is_some_and(|class| (*class as usize) < classes);
    if !ascending || !in_range || outputs > MAX_OUTPUTS {
        return Err(HeadError::Classes { exit, classes });
    }
    let shape = |what, got, want| {
        if got == want { Ok(()) } else { Err(HeadError::Shape { exit, what, got, want }) }
    };
    shape("hidden layer", hidden, hidden.clamp(1, MAX_HIDDEN))?;
    shape("mean", parts.mean.len(), width.min(MAX_FEATURES))?;
    shape("scale", parts.scale.len(), width)?;
    shape("first layer", parts.w1.len(), width * hidden)?;
    shape("second layer", parts.w2.len(), hidden * outputs)?;
    shape("second bias", parts.b2.len(), outputs)?;
    let number = |what, good| {
        if good { Ok(()) } else { Err(HeadError::Number { exit, what }) }
    };
    number("mean", parts.mean.iter().all(|v| v.is_finite()))?;
    number("scale", parts.scale.iter().all(|v| v.is_finite() && *v > 0.0))?;
    number("first layer", parts.w1.iter().all(|v| v.is_finite()))?;
    number("first bias", parts.b1.iter().all(|v| v.is_finite()))?;
    number("second layer", parts.w2.iter().all(|v| v.is_finite()))?;
    number("second bias", parts.b2.iter().all(|v| v.is_finite()))?;
    number("temperature", parts.temperature.is_finite() && parts.temperature > 1e-3)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A head with small arbitrary weights: d features, h hidden units, the given classes.
    pub(crate) fn some_head(exit: u8, sequence: u64, width: usize, classes: Vec<u32>, other: bool) -> HeadParts {
        let hidden = 40;
        let outputs = classes.len() + usize::from(other);
        let wave = |i: usize| (i as f32 * 0.37 + f32::from(exit) + sequence as f32).sin() * 0.3;
        HeadParts {
            exit: ExitId(exit),
            sequence,
            classes,
            other,
            mean: (0..width).map(wave).collect(),
            scale: (0..width).map(|i| 1.0 + wave(i + 7).abs()).collect(),
            w1: (0..width * hidden).map(|i| f16::from_f32(wave(i + 3))).collect(),
            b1: (0..hidden).map(|i| wave(i + 1)).collect(),
            w2: (0..hidden * outputs).map(|i| f16::from_f32(wave(i * 3))).collect(),
            b2: vec![0.1; outputs],
            temperature: 1.3,
        }
    }

    /// The same formula in `f64`, written plainly: features rounded to 1/256 of their spread, up to 16 of it.
    fn reference(parts: &HeadParts, features: &[f32]) -> (usize, f64) {
        let hidden = parts.b1.len();
        let outputs = parts.b2.len();
        let x: Vec<f64> = features
            .iter()
            .zip(parts.mean.iter().zip(&parts.scale))
            .map(|(v, (m, s))| (f16::from_f32(*v).to_f32() - m) * s * 256.0)
            .map(|steps| f64::from(steps.round_ties_even().clamp(-4095.0, 4095.0)) / 256.0)
            .collect();
        let h: Vec<f64> = (0..hidden)
            .map(|j| {
                let sum: f64 = (0..x.len()).map(|i| x[i] * f64::from(parts.w1[i * hidden + j].to_f32())).sum();
                (sum + f64::from(parts.b1[j])).max(0.0)
            })
            .collect();
        let z: Vec<f64> = (0..outputs)
            .map(|k| {
                let sum: f64 = (0..hidden).map(|j| h[j] * f64::from(parts.w2[j * outputs + k].to_f32())).sum();
                (sum + f64::from(parts.b2[k])) / f64::from(parts.temperature)
            })
            .collect();
        let (best, top) = z.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).expect("outputs");
        (best, 1.0 / z.iter().map(|v| (v - top).exp()).sum::<f64>())
    }

    proptest! {
        #[test]
        fn judges_like_the_plain_formula(features in prop::collection::vec(-3.0f32..3.0, 20)) {
            let parts = some_head(1, 1, 20, vec![0, 2, 3], false);
            let head = Head::new(parts.clone(), 20, 5).expect("valid");
            let verdict = head.judge(&features, &mut Scratch::default());
            let (best, confidence) = reference(&parts, &features);
            prop_assert_eq!(verdict.class, parts.classes[best] as usize);
            prop_assert!((f64::from(verdict.confidence.get()) - confidence).abs() < 1e-4);
        }

        #[test]
        fn stored_features_give_the_same_bits(features in prop::collection::vec(-1e5f32..1e5, 20)) {
            let head = Head::new(some_head(1, 1, 20, vec![0, 1], true), 20, 5).expect("valid");
            let stored: Vec<f16> = features.iter().map(|v| f16::from_f32(*v)).collect();
            let mut scratch = Scratch::default();
            let a = head.judge(&features, &mut scratch);
            let b = head.judge_stored(&stored, &mut scratch);
            prop_assert_eq!(a.class, b.class);
            prop_assert_eq!(a.confidence.get().to_bits(), b.confidence.get().to_bits());
        }

        /// Goal: who is beside a frame changes nothing. Method: rows together against each alone, to the bit.
        #[test]
        fn a_row_among_rows_is_the_row_alone(rows in prop::collection::vec(prop::collection::vec(-9f32..9.0, 20), 1..9)) {
            let head = Head::new(some_head(1, 1, 20, vec![0, 1], true), 20, 5).expect("valid");
            let mut scratch = Scratch::default();
            let mut together = Vec::new();
            head.judge_rows(rows.len(), &rows.concat(), &mut scratch, |row, verdict| together.push((row, verdict)));
            prop_assert_eq!(together.len(), rows.len());
            for (row, verdict) in together {
                let alone = head.judge(&rows[row], &mut scratch);
                prop_assert_eq!(verdict.class, alone.class);
                prop_assert_eq!(verdict.confidence.get().to_bits(), alone.confidence.get().to_bits());
            }
        }

        #[test]
        fn a_bad_feature_never_exits(at in 0usize..20, bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, 1e9])) {
            let head = Head::new(some_head(1, 1, 20, vec![0, 1], false), 20, 5).expect("valid");
            let mut features = vec![0.5; 20];
            features[at] = bad;
            prop_assert_eq!(head.judge(&features, &mut Scratch::default()).confidence, Confidence::NONE);
        }
    }

    #[test]
    fn another_class_never_exits() {
        let mut parts = some_head(1, 1, 4, vec![1, 3], true);
        parts.b2 = vec![0.0, 0.0, 50.0];
        let head = Head::new(parts, 4, 5).expect("valid");
        assert_eq!(head.judge(&[0.0; 4], &mut Scratch::default()).confidence, Confidence::NONE);
    }

    #[test]
    fn wrong_numbers_are_named() {
        let good = some_head(1, 1, 4, vec![1, 3], true);
        let broken = |change: fn(&mut HeadParts)| {
            let mut parts = good.clone();
            change(&mut parts);
            Head::new(parts, 4, 5).expect_err("must be refused").to_string()
        };
        assert!(Head::new(good.clone(), 4, 5).is_ok());
        assert!(Head::new(good.clone(), 8, 5).is_err());
        assert!(broken(|p| p.classes = vec![3, 1]).contains("classes"));
        assert!(broken(|p| p.classes = vec![1, 5]).contains("classes"));
        assert!(broken(|p| p.classes.clear()).contains("classes"));
        assert!(broken(|p| p.temperature = 0.0).contains("temperature"));
        assert!(broken(|p| p.b1[2] = f32::NAN).contains("first bias"));
        assert!(broken(|p| p.w1[2] = f16::INFINITY).contains("first layer"));
        assert!(broken(|p| p.w2.truncate(3)).contains("second layer"));
        assert!(broken(|p| p.b1.clear()).contains("hidden"));
    }
}
