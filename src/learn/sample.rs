//! One audited frame as the samples topic carries it: what every candidate exit saw, and what the backbone answered.
//!
//! ```text
//! magic "OFSM" | format u16 | backbone [32] | plan [32] | bincode payload
//! ```
//! Features are `f16`, the backbone's probabilities are kept for its top classes only.

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use crate::frame::Origin;
use crate::heads::{LEAST_AUDIT_RATE, codec};
use crate::plan::Plan;

const MAGIC: [u8; 4] = *b"OFSM";
/// Format 1 dropped small probabilities, from which heads learn most: it is not read any more.
const FORMAT: u16 = 2;
/// Most classes whose probability is kept, however small: heads learn from what the backbone finds least likely, too. Of a
/// thousand classes no more are needed (docs/measurements.md has the figures).
const TOP_CLASSES: usize = 256;
/// Longest camera id kept, bytes.
const CAMERA_BYTES_MAX: usize = 512;
/// 2200-01-01 in milliseconds since the Unix epoch: no camera is there yet.
const LATEST_MS: i64 = 7_258_118_400_000;

/// Why a sample is not used. Counted by [`SampleRejection::as_str`] and otherwise ignored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleRejection {
    /// Not a sample, cut off, or of another format.
    #[error("not a sample: {0}")]
    Malformed(String),
    /// Of another model or other candidate exits.
    #[error("a sample of another {0}")]
    OtherPlan(&'static str),
    /// Features missing or of another width.
    #[error("exit {exit}: {got} features, {want} expected")]
    Width {
        /// Depth of the exit, from 1.
        exit: usize,
        /// Features there.
        got: usize,
        /// Features that the plan has.
        want: usize,
    },
    /// NaN or infinite features (or too large for `f16`), probabilities that are none.
    #[error("{0} that is not a usable number")]
    Number(&'static str),
    /// A class that the backbone does not have.
    #[error("class {class} of a backbone with {classes}")]
    Class {
        /// The index.
        class: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A capture time that cannot be, or far from the camera's last one.
    #[error("capture time {captured_at_ms} ms cannot be or jumps")]
    Clock {
        /// Milliseconds since the Unix epoch.
        captured_at_ms: i64,
    },
    /// The same frame again (Kafka delivers at least once).
    #[error("the same frame again")]
    Duplicate,
    /// At or before a log position that was already read.
    #[error("position {position} was already read")]
    Replayed {
        /// Offset in the samples log.
        position: i64,
    },
}

impl SampleRejection {
    /// Every word that [`SampleRejection::as_str`] can say.
    pub const REASONS: [&'static str; 8] =
        ["malformed", "other-plan", "width", "number", "class", "clock", "duplicate", "replayed"];

    /// The word for a metric label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::OtherPlan(_) => "other-plan",
            Self::Width { .. } => "width",
            Self::Number(_) => "number",
            Self::Class { .. } => "class",
            Self::Clock { .. } => "clock",
            Self::Duplicate => "duplicate",
            Self::Replayed { .. } => "replayed",
        }
    }
}

/// The payload as it travels.
#[derive(Serialize, Deserialize)]
struct Wire {
    features: Vec<Vec<u16>>,
    probabilities: Vec<(u32, f32)>,
    camera: String,
    captured_at_ms: Option<i64>,
    frame: Option<u64>,
    weight: f32,
    copy: bool,
}

/// One audited frame, checked against a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    features: Vec<Vec<f16>>,
    probabilities: Vec<(u32, f32)>,
    camera: String,
    captured_at_ms: Option<i64>,
    frame: Option<u64>,
    weight: f32,
    copy: bool,
}

impl Sample {
    /// A sample of one row of an audit run: `features` holds the pooled features at every candidate, `probabilities` the
    /// backbone's answer (a value per class). `weight` is one over the audit rate at which the frame was drawn.
    ///
    /// # Errors
    /// When widths are not the plan's or a number is not usable (too large for `f16` included).
    pub fn from_audit(
        plan: &Plan,
        features: &[&[f32]],
        probabilities: &[f32],
        camera: &str,
        captured_at_ms: Option<i64>,
        weight: f32,
        copy: bool,
    ) -> Result<Self, SampleRejection> {
        if probabilities.len() != plan.classes() {
            return Err(SampleRejection::Class {
                class: u32::try_from(probabilities.len()).unwrap_or(u32::MAX),
                classes: plan.classes(),
            });
        }
        if !probabilities.iter().all(|p| (0.0..=1.001).contains(p)) {
            return Err(SampleRejection::Number("a probability"));
        }
        let mut top: Vec<(u32, f32)> = (0u32..).zip(probabilities.iter().copied()).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(TOP_CLASSES);
        let round = |row: &&[f32]| {
            let mut rounded = vec![f16::ZERO; row.len()];
            rounded.convert_from_f32_slice(row);
            rounded
        };
        let mut camera = camera.to_owned();
        truncate(&mut camera);
        let sample = Self {
            features: features.iter().map(round).collect(),
            probabilities: top,
            camera,
            captured_at_ms,
            frame: None,
            weight,
            copy,
        };
        sample.check(plan)?;
        Ok(sample)
    }

    /// Names the frame, so that a sample that Kafka delivers twice counts once, and no copy of a frame trains heads that
    /// the frame itself then certifies.
    #[must_use]
    pub fn with_origin(mut self, origin: &Origin) -> Self {
        let hash = blake3::hash(origin.to_string().as_bytes());
        self.frame = hash.as_bytes().first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        self
    }

    /// The record's value.
    ///
    /// # Errors
    /// When it is larger than any record may be (no plan of ours has such widths).
    pub fn encode(&self, plan: &Plan) -> Result<Vec<u8>, SampleRejection> {
        let wire = Wire {
            features: self.features.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect(),
            probabilities: self.probabilities.clone(),
            camera: self.camera.clone(),
            captured_at_ms: self.captured_at_ms,
            frame: self.frame,
            weight: self.weight,
            copy: self.copy,
        };
        let payload = codec::encode(&wire).map_err(|why| SampleRejection::Malformed(why.to_string()))?;
        let mut bytes = Vec::with_capacity(70 + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(plan.backbone.0);
        bytes.extend(plan.plan.0);
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Takes a record's value apart and checks it against the plan.
    ///
    /// # Errors
    /// With the first check that fails.
    pub fn decode(plan: &Plan, bytes: &[u8]) -> Result<Self, SampleRejection> {
        let short = || SampleRejection::Malformed("it is cut off".to_owned());
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let (format, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        if *magic != MAGIC || u16::from_le_bytes(*format) != FORMAT {
            return Err(SampleRejection::Malformed("other first bytes or another format".to_owned()));
        }
        let (backbone, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let (cuts, payload) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        if *backbone != plan.backbone.0 {
            return Err(SampleRejection::OtherPlan("backbone"));
        }
        if *cuts != plan.plan.0 {
            return Err(SampleRejection::OtherPlan("plan"));
        }
        let wire: Wire = codec::decode(payload).map_err(|why| SampleRejection::Malformed(why.to_string()))?;
        let half = |row: Vec<u16>| row.into_iter().map(f16::from_bits).collect();
        let sample = Self {
            features: wire.features.into_iter().map(half).collect(),
            probabilities: wire.probabilities,
            camera: wire.camera,
            captured_at_ms: wire.captured_at_ms,
            frame: wire.frame,
            weight: wire.weight,
            copy: wire.copy,
        };
        sample.check(plan)?;
        Ok(sample)
    }

    fn check(&self, plan: &Plan) -> Result<(), SampleRejection> {
        for (index, point) in plan.candidates.iter().enumerate() {
            let (got, want) = (self.features.get(index).map_or(0, Vec::len), point.feature_width);
            if got != want {
                return Err(SampleRejection::Width { exit: index + 1, got, want });
            }
        }
        if self.features.len() > plan.candidates.len() {
            return Err(SampleRejection::OtherPlan("number of exits"));
        }
        if !self.features.iter().flatten().all(|value| value.is_finite()) {
            return Err(SampleRejection::Number("a feature"));
        }
        for (class, probability) in &self.probabilities {
            if *class as usize >= plan.classes() {
                return Err(SampleRejection::Class { class: *class, classes: plan.classes() });
            }
            if !(0.0..=1.001).contains(probability) {
                return Err(SampleRejection::Number("a probability"));
            }
        }
        // Descending, so that the first one is the backbone's answer.
        let sorted = self.probabilities.windows(2).all(|pair| pair[0].1 >= pair[1].1);
        let some = self.probabilities.first().is_some_and(|(_, p)| *p > 0.0);
        if !sorted || !some || self.probabilities.len() > TOP_CLASSES {
            return Err(SampleRejection::Number("a list of probabilities"));
        }
        // Nobody signs samples: a weight beyond what an audit can stand for would alarm all by itself.
        if !(1.0..=(1.0 / LEAST_AUDIT_RATE) as f32).contains(&self.weight) {
            return Err(SampleRejection::Number("a weight"));
        }
        match self.captured_at_ms {
            Some(at) if !(0..LATEST_MS).contains(&at) => Err(SampleRejection::Clock { captured_at_ms: at }),
            _ => Ok(()),
        }
    }

    /// The class that the backbone answered.
    #[must_use]
    pub fn answer(&self) -> usize {
        // `check` refuses an empty list.
        self.probabilities.first().map_or(0, |(class, _)| *class as usize)
    }

    /// Pooled features at the candidate with this index.
    #[must_use]
    pub fn features(&self, candidate: usize) -> Option<&[f16]> {
        self.features.get(candidate).map(Vec::as_slice)
    }

    /// The backbone's top classes with their probabilities, most likely first.
    #[must_use]
    pub fn probabilities(&self) -> &[(u32, f32)] {
        &self.probabilities
    }

    /// The camera's id.
    #[must_use]
    pub fn camera(&self) -> &str {
        &self.camera
    }

    /// Capture time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn captured_at_ms(&self) -> Option<i64> {
        self.captured_at_ms
    }

    /// One over the audit rate at which the frame was drawn, at least 1 and at most one over [`LEAST_AUDIT_RATE`].
    #[must_use]
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// Whether it is a mirrored or shifted copy: it trains and never certifies.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.copy
    }

    /// Hash of the frame's place in Kafka, if known; a copy has its original's.
    #[must_use]
    pub fn frame(&self) -> Option<u64> {
        self.frame
    }

    /// Memory of its features.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.features.iter().map(|row| row.len() * 2).sum::<usize>() + self.probabilities.len() * 8 + self.camera.len()
    }
}

/// Cuts a camera id at a character boundary.
fn truncate(camera: &mut String) {
    let mut end = camera.len().min(CAMERA_BYTES_MAX);
    while !camera.is_char_boundary(end) {
        end -= 1;
    }
    camera.truncate(end);
}
