//! A world in which the truth is known: a plan, a cost table and a stream of frames for the learner's tests.

#![allow(unreachable_pub, reason = "a module of several test binaries, public to none")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::expect_used, reason = "a failing helper is a failing test")]

use std::sync::Arc;

use offramp::frame::{Channels, InputSpec, Layout, Resize};
use offramp::heads::{Accepted, HeadSet, Registry, SUSPICION_WINDOW, Scratch, Suspicion};
use offramp::learn::{LearnConfig, Learner, Pace, Sample};
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
            mirror: true,
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
    /// Drift of the input: all noise is larger by this share.
    pub shift: f64,
    pub dice: Dice,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self { widths: vec![12, 16], classes: 4, noise: vec![0.5, 0.25], hard: 0.2, shift: 0.0, dice: Dice(seed) }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.widths, self.classes)
    }

    /// A frame whose class centres are turned with this probability.
    pub fn frame(&mut self, turned: f64) -> Frame {
        let answer = self.dice.below(self.classes);
        let seen = if self.dice.unit() < turned { (answer + 1) % self.classes } else { answer };
        let factor = if self.dice.unit() < self.hard { 3.0 } else { 1.0 } * (1.0 + self.shift);
        let mut features = Vec::new();
        for (width, noise) in self.widths.iter().zip(&self.noise) {
            let row = (0..*width).map(|i| {
                let centre = ((seen * 37 + i * 11) % 13) as f64 / 6.5 - 1.0;
                (centre + self.dice.normal() * noise * factor) as f32
            });
            features.push(row.collect());
        }
        let rest = 0.02 / (self.classes - 1) as f32;
        let probabilities = (0..self.classes).map(|class| if class == answer { 0.98 } else { rest }).collect();
        Frame { features, probabilities, answer }
    }
}

/// A small learner for small worlds.
pub fn quick() -> LearnConfig {
    LearnConfig { hidden: 32, epochs: 12, first_training: 300, young_training: 900, ..LearnConfig::default() }
}

/// A worker and a learner: serves through a registry, audits by the rate in force, tells of its suspicions.
pub struct Fleet {
    pub plan: Plan,
    pub learner: Learner,
    pub registry: Registry,
    pub set: Arc<HeadSet>,
    pub suspicion: Suspicion,
    pub suspects: bool,
    pub dice: Dice,
    pub position: i64,
    pub served: u64,
    pub audited: u64,
    pub exited: u64,
    pub wrong: u64,
    pub keep_log: bool,
    pub log: Vec<(i64, Sample)>,
}

impl Fleet {
    pub fn new(world: &World, config: LearnConfig) -> Self {
        let plan = world.plan();
        Self {
            learner: Learner::new(&plan, costs(plan.candidates.len()), config),
            registry: Registry::new(&plan, None),
            plan,
            set: Arc::new(HeadSet::empty()),
            suspicion: Suspicion::new(SUSPICION_WINDOW),
            suspects: true,
            dice: Dice(99),
            position: 0,
            served: 0,
            audited: 0,
            exited: 0,
            wrong: 0,
            keep_log: false,
            log: Vec::new(),
        }
    }

    /// One frame. Returns the sets that were adopted because of it.
    pub fn step(&mut self, world: &mut World, turned: f64, pace: &mut dyn Pace) -> Vec<Arc<HeadSet>> {
        let frame = world.frame(turned);
        let mut scratch = Scratch::default();
        self.served += 1;
        if let (Some(reference), Some(first), true) = (self.set.reference(), self.set.exits().first(), self.suspects) {
            let sure = self.set.head(0).judge(&frame.features[first.index()], &mut scratch).confidence;
            let _ = self.suspicion.observe(self.set.version(), reference, sure);
        }
        // As a lane does: nothing but the audits tells the learner.
        let rate = self.set.audit_rate_under(&self.suspicion);
        if self.dice.unit() < rate {
            self.position += 1;
            self.audited += 1;
            let sample = frame.sample(&self.plan, 1.0 / rate as f32);
            if self.keep_log {
                self.log.push((self.position, sample.clone()));
            }
            self.learner.observe(sample, self.position).expect("a sound sample");
        } else if let Some(answer) = self.set.path(&frame.rows(), &mut scratch) {
            self.exited += 1;
            self.wrong += u64::from(answer.class != frame.answer);
        }
        let mut adopted = Vec::new();
        while let Some(publication) = self.learner.work(pace) {
            for (key, value) in publication.records(&self.plan, None).expect("small heads") {
                if let Accepted::Adopt(set) = self.registry.accept(key.as_bytes(), Some(&value)).expect("our own") {
                    self.set = Arc::clone(&set);
                    adopted.push(set);
                }
            }
            assert_eq!(self.set.version(), publication.sequence(), "a publication is complete by itself");
        }
        adopted
    }

    pub fn reset_counts(&mut self) {
        (self.served, self.audited, self.exited, self.wrong) = (0, 0, 0, 0);
    }
}

/// Share of frames of this world that a set answers otherwise than the backbone.
pub fn true_risk(set: &HeadSet, world: &mut World, frames: usize) -> f64 {
    let mut scratch = Scratch::default();
    let wrong = (0..frames).filter(|_| {
        let frame = world.frame(0.0);
        set.path(&frame.rows(), &mut scratch).is_some_and(|answer| answer.class != frame.answer)
    });
    wrong.count() as f64 / frames as f64
}

/// One stream of the proof: frames through a whole fleet, with every certificate held against the truth.
/// Returns (certificates, of which wrong, largest true risk).
pub fn proof_stream(seed: u64, frames: usize, judged: usize) -> (u32, u32, f64) {
    let vary = |world: &mut World| {
        world.hard = [0.05, 0.2, 0.4][seed as usize % 3];
        world.noise = vec![0.35 + 0.1 * (seed % 4) as f64, 0.25];
    };
    let (mut world, mut truth) = (World::new(seed * 2 + 1), World::new(seed * 2 + 1_000_002));
    vary(&mut world);
    vary(&mut truth);
    let mut fleet = Fleet::new(&world, LearnConfig { seed, ..quick() });
    fleet.dice = Dice(seed ^ 0xabcd);
    let (mut certificates, mut broken, mut worst) = (0, 0, 0.0f64);
    let mut last = None;
    for _ in 0..frames {
        for set in fleet.step(&mut world, 0.0, &mut offramp::learn::Unpaced) {
            let mark = set.certificate().map(|c| (set.head(0).sequence(), c.n));
            if mark.is_some() && mark != last {
                let risk = true_risk(&set, &mut truth, judged);
                certificates += 1;
                broken += u32::from(risk > 0.01);
                worst = worst.max(risk);
                last = mark;
            }
        }
    }
    (certificates, broken, worst)
}
