//! One stream through engine and learner, with the plain model beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::backbone::{Audited, Chain};
use crate::batch::{draw_of_copy, is_audited};
use crate::cascade::{self, Auditor, Fate, Mind, Segments};
use crate::decode::{self, DecodeLimits, Decoder};
use crate::frame::Origin;
use crate::heads::{HeadSet, PolicyState, SUSPICION_WINDOW, SUSPICIOUS_RATE, Scratch, Suspicion};
use crate::lane::flops;
use crate::learn::{LearnConfig, Learner, Sample, Unpaced};
use crate::plan::{ExitId, Plan};
use crate::source::Picture;
use crate::worker::Engine;

/// What became of one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Played {
    /// The class that was served.
    pub(super) served: usize,
    /// The class that the full model gives.
    pub(super) full: usize,
    /// Where it left.
    pub(super) exit: Option<ExitId>,
    /// Whether it was audited.
    pub(super) audited: bool,
    /// FLOPs spent on it: backbone, heads, and the copy of an audit.
    pub(super) flops: u64,
    /// Seconds of offramp's engine and of the plain model, its share of the batch.
    pub(super) seconds: f64,
    pub(super) plain_seconds: f64,
}

/// An alarm of the watch.
#[derive(Debug, Clone)]
pub(super) struct Alarm {
    pub(super) frame: usize,
    pub(super) audits: u64,
    pub(super) disagreements: u64,
    pub(super) exits_back_at: Option<usize>,
}

/// Everything that a replay found.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) played: Vec<Played>,
    pub(super) heads: Arc<HeadSet>,
    pub(super) alarms: Vec<Alarm>,
    pub(super) learn_seconds: f64,
    pub(super) why: String,
}

/// The stream while it plays.
pub(super) struct Stream<'a> {
    engine: &'a Engine,
    plan: Arc<Plan>,
    decoder: Decoder,
    plain: Chain,
    segments: Chain,
    auditor: Audited,
    heads: Arc<HeadSet>,
    learner: Learner,
    mind: Mind,
    seed: u64,
    batch: usize,
    topic: Arc<str>,
    outcome: Outcome,
}

impl<'a> Stream<'a> {
    pub(super) fn new(engine: &'a Engine, config: LearnConfig, batch: usize) -> anyhow::Result<Self> {
        let plan = Arc::clone(engine.backbone.plan());
        let heads = Arc::new(HeadSet::empty());
        let limits = DecodeLimits { max_bytes: 256 << 20, max_pixels: 1 << 28 };
        Ok(Self {
            engine,
            decoder: Decoder::new(plan.input.clone(), limits),
            plain: engine.backbone.chain(&[])?,
            segments: engine.backbone.chain(&[])?,
            auditor: engine.backbone.auditor()?,
            mind: Mind { scratch: Scratch::default(), suspicion: Suspicion::new(SUSPICION_WINDOW) },
            seed: config.seed,
            learner: Learner::new(&plan, engine.costs.clone(), config),
            batch,
            topic: Arc::from("replay"),
            outcome: Outcome {
                played: Vec::new(),
                heads: Arc::clone(&heads),
                alarms: Vec::new(),
                learn_seconds: 0.0,
                why: String::new(),
            },
            heads,
            plan,
        })
    }

    /// Plays frames `first` and following.
    pub(super) fn batch(&mut self, pictures: &[&Picture], first: usize) -> anyhow::Result<()> {
        let width = self.plan.input.len();
        let mut pixels = vec![0.0; pictures.len() * width];
        for (picture, row) in pictures.iter().zip(pixels.chunks_exact_mut(width)) {
            let decoded = self.decoder.decode(&picture.bytes, Some(&picture.content_type), row);
            decoded.with_context(|| format!("frame {}", picture.name))?;
        }
        let mut played =
            vec![
                Played { served: 0, full: 0, exit: None, audited: false, flops: 0, seconds: 0.0, plain_seconds: 0.0 };
                pictures.len()
            ];
        // In turns: whoever runs second finds warm caches.
        if (first / self.batch).is_multiple_of(2) {
            self.plain(&pixels, &mut played)?;
            self.serve(&pixels, first, &mut played)?;
        } else {
            self.serve(&pixels, first, &mut played)?;
            self.plain(&pixels, &mut played)?;
        }
        self.outcome.played.extend(played);
        self.learn(first + pictures.len())
    }

    fn plain(&mut self, pixels: &[f32], played: &mut [Played]) -> anyhow::Result<()> {
        let rows = played.len();
        let started = Instant::now();
        self.plain.load(rows)[..pixels.len()].copy_from_slice(pixels);
        let empty = HeadSet::empty();
        cascade::serve(&mut self.plain, &empty, rows, &mut self.mind, |fate| {
            if let Fate::Answered(answer) = fate {
                played[answer.row].full = answer.class;
            }
        })?;
        let share = started.elapsed().as_secs_f64() / rows as f64;
        for frame in played {
            frame.plain_seconds = share;
        }
        Ok(())
    }

    /// What a lane does with a batch: audited rows on the whole model, the others through the exits.
    fn serve(&mut self, pixels: &[f32], first: usize, played: &mut [Played]) -> anyhow::Result<()> {
        let suspicious = self.mind.suspicion.is_suspicious() && !self.heads.exits().is_empty();
        let rate = self.heads.audit_rate().max(if suspicious { SUSPICIOUS_RATE } else { 0.0 });
        let drawn = |row: &usize| is_audited(&self.origin(first + row), self.seed, rate);
        let (audited, served): (Vec<usize>, Vec<usize>) = (0..played.len()).partition(drawn);
        let started = Instant::now();
        if !served.is_empty() {
            gather(pixels, &served, self.plan.input.len(), self.segments.load(served.len()));
            let (plan, heads) = (&self.plan, &self.heads);
            cascade::serve(&mut self.segments, heads, served.len(), &mut self.mind, |fate| {
                if let Fate::Answered(answer) = fate {
                    let frame = &mut played[served[answer.row]];
                    (frame.served, frame.exit) = (answer.class, answer.exit);
                    frame.flops = flops(plan, heads, answer.exit, false);
                }
            })?;
        }
        let mut seconds = started.elapsed();
        if !audited.is_empty() {
            seconds += self.audit(pixels, &audited, first, rate, played)?;
        }
        let share = seconds.as_secs_f64() / played.len() as f64;
        for frame in played {
            frame.seconds = share;
        }
        Ok(())
    }

    fn audit(
        &mut self,
        pixels: &[f32],
        rows: &[usize],
        first: usize,
        rate: f64,
        played: &mut [Played],
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let width = self.plan.input.len();
        gather(pixels, rows, width, self.auditor.load(rows.len()));
        let mut samples = Vec::new();
        let (plan, heads) = (Arc::clone(&self.plan), Arc::clone(&self.heads));
        let topic = Arc::clone(&self.topic);
        let seed = self.seed;
        let origin =
            |row: usize| Origin { topic: Arc::clone(&topic), partition: 0, offset: (first + rows[row]) as i64 };
        let sample = |audit: &cascade::Audit<'_>, row: usize, copy: bool| {
            Sample::from_audit(&plan, &audit.features, audit.probabilities, "replay", None, (1.0 / rate) as f32, copy)
                .map(|sample| sample.with_origin(&origin(row)))
        };
        let Mind { scratch, suspicion } = &mut self.mind;
        cascade::audit(&mut self.auditor, &heads, rows.len(), scratch, Some(suspicion), |audit| {
            if let Fate::Answered(answer) = audit.fate {
                let frame = &mut played[rows[answer.row]];
                (frame.served, frame.audited) = (answer.class, true);
                frame.flops = flops(&plan, &heads, None, true);
                samples.push(sample(audit, answer.row, false));
            }
        })?;
        let frames = self.auditor.load(rows.len())[..rows.len() * width].to_vec();
        for number in 0..heads.copies() {
            let draw = |row: usize| draw_of_copy(&origin(row), seed, number);
            decode::copies(&plan.input, &frames, number, draw, self.auditor.load(rows.len()));
            cascade::audit(&mut self.auditor, &heads, rows.len(), &mut self.mind.scratch, None, |audit| {
                if let Fate::Answered(answer) = audit.fate {
                    played[rows[answer.row]].flops += plan.flops;
                    samples.push(sample(audit, answer.row, true));
                }
            })?;
        }
        let elapsed = started.elapsed();
        for (place, sample) in samples.into_iter().enumerate() {
            // Room for every copy of every row before the next batch.
            let position = (first * 256 + place) as i64;
            self.learner.observe(sample?, position)?;
        }
        Ok(elapsed)
    }

    fn origin(&self, frame: usize) -> Origin {
        Origin { topic: Arc::clone(&self.topic), partition: 0, offset: frame as i64 }
    }

    /// Lets the learner work, and takes over what it publishes.
    fn learn(&mut self, frame: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        let publication = self.learner.work(&mut Unpaced);
        self.outcome.learn_seconds += started.elapsed().as_secs_f64();
        let Some(publication) = publication else { return Ok(()) };
        let before = std::mem::replace(&mut self.heads, Arc::clone(publication.set()));
        if before.exits() != self.heads.exits() {
            self.segments = self.engine.backbone.chain(self.heads.exits())?;
        }
        if publication.policy().state == PolicyState::Alarm {
            let (audits, disagreements) = self.learner.status().alarmed_at;
            self.outcome.alarms.push(Alarm { frame, audits, disagreements, exits_back_at: None });
        } else if let (Some(alarm), false) = (self.outcome.alarms.last_mut(), self.heads.exits().is_empty()) {
            alarm.exits_back_at.get_or_insert(frame);
        }
        Ok(())
    }

    /// One line for the progress bar.
    pub(super) fn note(&self) -> String {
        self.learner.status().why
    }

    pub(super) fn finish(self) -> Outcome {
        Outcome { heads: self.heads, why: self.learner.status().why, ..self.outcome }
    }
}

fn gather(pixels: &[f32], rows: &[usize], width: usize, into: &mut [f32]) {
    for (row, slot) in rows.iter().zip(into.chunks_exact_mut(width)) {
        slot.copy_from_slice(&pixels[row * width..(row + 1) * width]);
    }
}
