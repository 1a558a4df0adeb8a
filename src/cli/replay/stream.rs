//! One stream through engine and learner, with the plain model beside it.

use std::sync::Arc;
use std::time::Duration;

use crate::backbone::{Audited, Chain, Clock};
use crate::batch::{draw_of_copy, is_audited};
use crate::cascade::{self, Auditor, Cascade, Fate, Mind, OVERTAKEN_MAX, Pass, Segments};
use crate::decode::{self, DecodeLimits, Decoder};
use crate::engine::Engine;
use crate::frame::Origin;
use crate::heads::{HeadSet, PolicyState, SUSPICION_WINDOW, Scratch, Suspicion};
use crate::lane::flops;
use crate::learn::{LearnConfig, Learner, Publication, Sample, Unpaced};
use crate::plan::{ExitId, Plan};
use crate::source::Picture;

use super::drift::Shift;
use super::played::{Alarm, Opinion, Outcome, Played};

/// Recorded frames are the user's own: only what would exhaust memory is refused.
pub(super) const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 256 << 20, max_pixels: 1 << 28 };

/// Batches that offramp serves before the plain model has its turn with them: in shorter turns each would mostly find the
/// other's tensors in the caches, in longer ones a busy machine may treat them differently.
const TURN: usize = 16;

/// How to play.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Frames in a batch.
    pub(super) batch: usize,
    /// A change of the camera.
    pub(super) shift: Option<Shift>,
    /// From this frame on every exit's opinion is noted, outside the timing; `None`: nowhere.
    pub(super) opinions_from: Option<usize>,
}

/// The stream while it plays.
pub(super) struct Stream<'a> {
    engine: &'a Engine,
    clock: Clock,
    plan: Arc<Plan>,
    decoder: Decoder,
    plain: Chain,
    /// What the plain model has yet to see: the pixels of batches, and where their frames are in the outcome.
    unseen: Vec<(Vec<f32>, usize)>,
    segments: Chain,
    auditor: Audited,
    heads: Arc<HeadSet>,
    learner: Learner,
    mind: Mind,
    /// Frames on their way, by their place in the outcome.
    cascade: Cascade<usize>,
    seed: u64,
    rules: Rules,
    topic: Arc<str>,
    outcome: Outcome,
}

impl<'a> Stream<'a> {
    pub(super) fn new(engine: &'a Engine, config: LearnConfig, rules: Rules) -> anyhow::Result<Self> {
        let plan = Arc::clone(engine.backbone.plan());
        let heads = Arc::new(HeadSet::empty());
        Ok(Self {
            engine,
            clock: engine.backbone.clock(),
            decoder: Decoder::new(plan.input.clone(), LIMITS),
            plain: engine.backbone.uncut()?,
            unseen: Vec::new(),
            segments: engine.backbone.chain(&[])?,
            auditor: engine.backbone.auditor()?,
            mind: Mind { scratch: Scratch::default(), suspicion: Suspicion::new(SUSPICION_WINDOW) },
            cascade: Cascade::new(rules.batch, OVERTAKEN_MAX),
            seed: config.seed,
            learner: Learner::new(&plan, engine.costs.clone(), config),
            rules,
            topic: Arc::from("replay"),
            outcome: Outcome {
                played: Vec::new(),
                opinions: Vec::new(),
                rejected: 0,
                first_rejection: None,
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
        let mut pixels = Vec::with_capacity(pictures.len() * self.plan.input.len());
        let mut played = Vec::with_capacity(pictures.len());
        for (picture, frame) in pictures.iter().zip(first..) {
            if self.decode(picture, frame, &mut pixels) {
                let (served, full, exit, audited) = (None, None, None, false);
                played.push(Played { frame, served, full, exit, audited, flops: 0, seconds: 0.0, plain_seconds: 0.0 });
            }
        }
        if played.is_empty() {
            return Ok(());
        }
        let place = self.outcome.played.len();
        self.outcome.played.extend(played);
        self.serve(&pixels, place)?;
        self.note_opinions(&pixels, place)?;
        self.unseen.push((pixels, place));
        if self.unseen.len() == TURN {
            self.turn()?;
        }
        self.learn(first + pictures.len())
    }

    /// Appends one frame's input row to `pixels`; false: it is rejected, and counted.
    fn decode(&mut self, picture: &Picture, frame: usize, pixels: &mut Vec<f32>) -> bool {
        let before = pixels.len();
        pixels.resize(before + self.plan.input.len(), 0.0);
        let row = &mut pixels[before..];
        let shifted = self.rules.shift.map_or(Ok(None), |shift| shift.apply(&mut self.decoder, picture, frame));
        let decoded = shifted.and_then(|shifted| {
            let (bytes, content_type) =
                shifted.as_ref().map_or((&picture.bytes, &picture.content_type), |(bytes, kind)| (bytes, kind));
            Ok(self.decoder.decode(bytes, Some(content_type), row)?)
        });
        if let Err(error) = &decoded {
            pixels.truncate(before);
            self.outcome.rejected += 1;
            self.outcome.first_rejection.get_or_insert_with(|| format!("{}: {error:#}", picture.name));
        }
        decoded.is_ok()
    }

    /// Asks every exit in force about every frame of the batch; costs a run of the whole model.
    fn note_opinions(&mut self, pixels: &[f32], place: usize) -> anyhow::Result<()> {
        let played = &self.outcome.played[place..];
        let from = self.rules.opinions_from.unwrap_or(usize::MAX);
        if played.last().is_none_or(|frame| frame.frame < from) {
            return Ok(());
        }
        let mut opinions = vec![Vec::new(); played.len()];
        if !self.heads.exits().is_empty() {
            self.auditor.load(played.len())[..pixels.len()].copy_from_slice(pixels);
            let (heads, mut scratch) = (Arc::clone(&self.heads), Scratch::default());
            cascade::audit(&mut self.auditor, &heads, played.len(), &mut self.mind.scratch, None, |row, audit| {
                let ask = |(position, exit): (usize, &ExitId)| {
                    let said = heads.decide(position, audit.features.get(exit.index())?, &mut scratch);
                    let (class, confidence) = (said.verdict.class, said.verdict.confidence.get());
                    Some(Opinion { exit: *exit, class, confidence, leaves: said.leaves })
                };
                opinions[row] = heads.exits().iter().enumerate().filter_map(ask).collect();
            })?;
        }
        let noted = opinions.into_iter().zip(played).filter(|(_, frame)| frame.frame >= from);
        self.outcome.opinions.extend(noted.map(|(opinions, _)| opinions));
        Ok(())
    }

    /// The plain model's turn.
    fn turn(&mut self) -> anyhow::Result<()> {
        std::mem::take(&mut self.unseen).iter().try_for_each(|(pixels, place)| self.plain(pixels, *place))
    }

    fn plain(&mut self, pixels: &[f32], place: usize) -> anyhow::Result<()> {
        let rows = pixels.len() / self.plan.input.len();
        let played = &mut self.outcome.played[place..place + rows];
        let started = self.clock.now();
        self.plain.load(rows)[..pixels.len()].copy_from_slice(pixels);
        let mut pass = Pass { segments: &mut self.plain, heads: &HeadSet::empty(), mind: &mut self.mind };
        Cascade::new(rows, 0).serve(&mut pass, 0..rows, false, |row, fate| {
            if let Fate::Answered(answer) = fate {
                played[row].full = Some(answer.class);
            }
        })?;
        let share = self.clock.since(started).as_secs_f64() / rows as f64;
        for frame in played {
            frame.plain_seconds = share;
        }
        Ok(())
    }

    /// What a lane that is behind its input does with a batch: audited rows on the whole model, the others through the exits.
    fn serve(&mut self, pixels: &[f32], place: usize) -> anyhow::Result<()> {
        let rate = self.heads.audit_rate_under(&self.mind.suspicion);
        let played = &self.outcome.played[place..];
        let rows = played.len();
        let drawn = |row: &usize| is_audited(&self.origin(played[*row].frame), self.seed, rate);
        let (audited, served): (Vec<usize>, Vec<usize>) = (0..rows).partition(drawn);
        let started = self.clock.now();
        if !served.is_empty() {
            gather(pixels, &served, self.plan.input.len(), self.segments.load(served.len()));
        }
        if !served.is_empty() || !self.cascade.is_empty() {
            self.pass(served.iter().map(|row| place + row).collect(), true)?;
        }
        let mut seconds = self.clock.since(started);
        if !audited.is_empty() {
            seconds += self.audit(pixels, &audited, rate, place)?;
        }
        let share = seconds.as_secs_f64() / rows as f64;
        for frame in &mut self.outcome.played[place..] {
            frame.seconds += share;
        }
        Ok(())
    }

    /// Sends frames, by their places in the outcome, through the exits.
    fn pass(&mut self, places: Vec<usize>, wait: bool) -> anyhow::Result<()> {
        let (plan, heads, played) = (&self.plan, &self.heads, &mut self.outcome.played);
        let mut pass = Pass { segments: &mut self.segments, heads, mind: &mut self.mind };
        self.cascade.serve(&mut pass, places, wait, |place, fate| {
            let (class, exit) = match fate {
                Fate::Answered(answer) => (Some(answer.class), answer.exit),
                Fate::NotFinite => (None, None),
            };
            let frame = &mut played[place];
            (frame.served, frame.exit) = (class, exit);
            frame.flops = flops(plan, heads, exit, false);
        })?;
        Ok(())
    }

    /// Brings the frames on their way to their answers: the newest frame is charged with it.
    fn flush(&mut self) -> anyhow::Result<()> {
        let started = self.clock.now();
        if !self.cascade.is_empty() {
            self.pass(Vec::new(), false)?;
        }
        if let Some(newest) = self.outcome.played.last_mut() {
            newest.seconds += self.clock.since(started).as_secs_f64();
        }
        Ok(())
    }

    fn audit(&mut self, pixels: &[f32], rows: &[usize], rate: f64, place: usize) -> anyhow::Result<Duration> {
        let played = &mut self.outcome.played[place..];
        let started = self.clock.now();
        let width = self.plan.input.len();
        gather(pixels, rows, width, self.auditor.load(rows.len()));
        let mut samples = Vec::new();
        let (plan, heads) = (Arc::clone(&self.plan), Arc::clone(&self.heads));
        let topic = Arc::clone(&self.topic);
        let numbers: Vec<usize> = rows.iter().map(|row| played[*row].frame).collect();
        let seed = self.seed;
        let origin = |row: usize| Origin { topic: Arc::clone(&topic), partition: 0, offset: numbers[row] as i64 };
        let sample = |audit: &cascade::Audit<'_>, row: usize, copy: bool| {
            Sample::from_audit(&plan, &audit.features, audit.probabilities, "replay", None, (1.0 / rate) as f32, copy)
                .map(|sample| sample.with_origin(&origin(row)))
        };
        let Mind { scratch, suspicion } = &mut self.mind;
        cascade::audit(&mut self.auditor, &heads, rows.len(), scratch, Some(suspicion), |row, audit| {
            let class = match audit.fate {
                Fate::Answered(answer) => Some(answer.class),
                Fate::NotFinite => None,
            };
            let frame = &mut played[rows[row]];
            (frame.served, frame.audited) = (class, true);
            frame.flops = flops(&plan, &heads, None, true);
            if class.is_some() {
                samples.push(sample(audit, row, false));
            }
        })?;
        let frames = self.auditor.load(rows.len())[..rows.len() * width].to_vec();
        for number in 0..heads.copies() {
            let draw = |row: usize| draw_of_copy(&origin(row), seed, number);
            decode::copies(&plan.input, &frames, number, draw, self.auditor.load(rows.len()));
            cascade::audit(&mut self.auditor, &heads, rows.len(), &mut self.mind.scratch, None, |row, audit| {
                played[rows[row]].flops += plan.flops;
                if matches!(audit.fate, Fate::Answered(_)) {
                    samples.push(sample(audit, row, true));
                }
            })?;
        }
        let elapsed = self.clock.since(started);
        let first = numbers.first().copied().unwrap_or_default();
        for (place, sample) in samples.into_iter().enumerate() {
            // Room for every copy of every row before the next batch.
            let position = (first * 256 + place) as i64;
            // What is unfit to learn from is left out, as in the worker.
            if let Err(rejection) = sample.and_then(|sample| self.learner.observe(sample, position)) {
                tracing::debug!(%rejection, position, "a sample is left out");
            }
        }
        Ok(elapsed)
    }

    fn origin(&self, frame: usize) -> Origin {
        Origin { topic: Arc::clone(&self.topic), partition: 0, offset: frame as i64 }
    }

    /// Lets the learner work, and takes over all that it publishes.
    fn learn(&mut self, frame: usize) -> anyhow::Result<()> {
        loop {
            let started = self.clock.now();
            let publication = self.learner.work(&mut Unpaced);
            self.outcome.learn_seconds += self.clock.since(started).as_secs_f64();
            match publication {
                Some(publication) => self.adopt(&publication, frame)?,
                None => return Ok(()),
            }
        }
    }

    fn adopt(&mut self, publication: &Publication, frame: usize) -> anyhow::Result<()> {
        self.flush()?;
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

    pub(super) fn finish(mut self) -> anyhow::Result<Outcome> {
        self.flush()?;
        self.turn()?;
        Ok(Outcome { heads: self.heads, why: self.learner.status().why, ..self.outcome })
    }
}

fn gather(pixels: &[f32], rows: &[usize], width: usize, into: &mut [f32]) {
    for (row, slot) in rows.iter().zip(into.chunks_exact_mut(width)) {
        slot.copy_from_slice(&pixels[row * width..(row + 1) * width]);
    }
}
