//! A world in which the truth is known: a plan, a cost table and a stream of frames for the learner's tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use offramp::frame::{Channels, InputSpec, Layout, Resize};
use offramp::learn::Sample;
use offramp::plan::{CostTable, ExitId, ExitPoint, Fingerprint, Plan};

/// A plan with these feature widths and so many classes.
pub fn plan(widths: &[usize], classes: usize) -> Plan {
    let candidates = widths.iter().enumerate().map(|(index, width)| ExitPoint {
        exit: ExitId::from_index(index),
        tensor: format!("block{}", index + 1),
        flops_fraction: (index + 1) as f64 / (widths.len() + 1) as f64,
        feature_width: *width,
        head_flops: 2 * 128 * *width as u64,
    });
    Plan {
        backbone: Fingerprint([7; 32]),
        plan: Fingerprint([9; 32]),
        input: InputSpec {
            width: 8,
            height: 8,
            channels: Channels::Gray,
            layout: Layout::Nchw,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize: Resize::Stretch,
        },
        labels: (0..classes).map(|class| format!("class-{class}")).collect(),
        candidates: candidates.collect(),
        flops: 1_000_000,
    }
}

/// Pieces of equal cost, cheap heads, nearly free cuts.
pub fn costs(exits: usize) -> CostTable {
    let piece = 1.0 / (exits + 1) as f64;
    CostTable {
        piece_ms: vec![piece; exits + 1],
        cut_ms: vec![0.002; exits],
        head_ms: vec![0.005; exits],
        whole_ms: 1.0,
    }
}

/// splitmix64, for worlds that are the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }
}

/// One frame: features per candidate and the backbone's probabilities.
pub struct Frame {
    pub features: Vec<Vec<f32>>,
    pub probabilities: Vec<f32>,
    pub answer: usize,
}

impl Frame {
    pub fn rows(&self) -> Vec<&[f32]> {
        self.features.iter().map(Vec::as_slice).collect()
    }

    pub fn sample(&self, plan: &Plan, weight: f32) -> Sample {
        Sample::from_audit(plan, &self.rows(), &self.probabilities, "cam", None, weight, false).expect("a sound frame")
    }
}

/// Gaussian classes; deeper exits see them with less noise. A share of the frames is hard: noise of thrice the size
/// everywhere. `turn` moves the class centres by one: every answer that was learned becomes wrong.
pub struct World {
    pub widths: Vec<usize>,
    pub classes: usize,
    pub noise: Vec<f64>,
    pub hard: f64,
    pub dice: Dice,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            widths: vec![12, 16],
            classes: 4,
            noise: vec![0.5, 0.25],
            hard: 0.2,
            dice: Dice(seed),
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.widths, self.classes)
    }

    /// A frame whose class centres are turned with this probability.
    pub fn frame(&mut self, turned: f64) -> Frame {
        let answer = self.dice.below(self.classes);
        let seen = if self.dice.unit() < turned {
            (answer + 1) % self.classes
        } else {
            answer
        };
        let factor = if self.dice.unit() < self.hard { 3.0 } else { 1.0 };
        let mut features = Vec::new();
        for (width, noise) in self.widths.iter().zip(&self.noise) {
            let row = (0..*width).map(|i| {
                let centre = ((seen * 37 + i * 11) % 13) as f64 / 6.5 - 1.0;
                (centre + self.dice.normal() * noise * factor) as f32
            });
            features.push(row.collect());
        }
        let rest = 0.02 / (self.classes - 1) as f32;
        let probabilities = (0..self.classes)
            .map(|class| if class == answer { 0.98 } else { rest })
            .collect();
        Frame {
            features,
            probabilities,
            answer,
        }
    }
}
