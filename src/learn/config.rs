//! What learning may be told from outside. Plain numbers; [`crate::learn::Learner`] clamps nothing and proves nothing here.

use crate::heads::SUSPICIOUS_RATE;
use crate::plan::HEAD_HIDDEN;

/// Settings of the learner.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnConfig {
    /// Promised share of frames whose answer differs from the backbone's, in (0, 1).
    pub epsilon: f64,
    /// Probability that a certificate is wrong, in (0, 1).
    pub delta: f64,
    /// Share of frames audited once all is learned, in (0, 1].
    pub audit_floor: f64,
    /// Share of frames audited between the first certificate and the end of youth.
    pub audit_young: f64,
    /// Share of frames audited under suspicion.
    pub audit_suspicion: f64,
    /// Training audits of the version that ends youth; from then on `audit_floor` holds. While exits save less than half,
    /// one more version follows: an audit costs what an exit would have saved.
    pub young_training: usize,
    /// Training audits of the first version.
    pub first_training: usize,
    /// Each version of youth trains on at least this many times the audits of the one before.
    pub growth: f64,
    /// The same for the versions that follow. The first of them still belongs to youth while exits save little: with three
    /// copies a training audit the window holds just what it trains on.
    pub growth_later: f64,
    /// Most samples kept, copies included.
    pub window_samples: usize,
    /// Most bytes of features kept.
    pub window_bytes: usize,
    /// Hidden units of a head.
    pub hidden: usize,
    /// Passes over the training audits.
    pub epochs: usize,
    /// Frames per gradient step.
    pub minibatch: usize,
    /// Highest step size of Adam; falls to nothing along a cosine.
    pub step_size: f32,
    /// A class needs this many training audits before a head may answer it.
    pub class_audits_min: usize,
    /// How many copies of an audit serving should make while heads are young (they train and never certify).
    pub copies: usize,
    /// At most one certifying audit per camera in this time. Frames of one camera a few milliseconds apart show the same
    /// scene and are not independent trials. 0 (the default) takes all: replayed and synthetic streams carry capture
    /// times that say nothing about the scene, and would starve. Set it to the time your scenes take to change.
    pub camera_interval_ms: i64,
    /// A policy replaces a certified one only if it costs less than this share of it.
    pub hysteresis: f64,
    /// A worker cries wolf at most once in this many frames while the promise holds.
    pub frames_per_false_alarm: f64,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for LearnConfig {
    fn default() -> Self {
        Self {
            epsilon: 0.01,
            delta: 0.05,
            audit_floor: 0.01,
            audit_young: 0.9,
            audit_suspicion: SUSPICIOUS_RATE,
            young_training: 2_600,
            first_training: 450,
            growth: 2.45,
            growth_later: 1.9,
            window_samples: 20_000,
            window_bytes: 512 << 20,
            hidden: HEAD_HIDDEN,
            epochs: 20,
            minibatch: 64,
            step_size: 2e-3,
            class_audits_min: 10,
            copies: 3,
            camera_interval_ms: 0,
            hysteresis: 0.97,
            frames_per_false_alarm: 1e6,
            seed: 0,
        }
    }
}
