//! One stream through the flow that a worker's lane runs, with a learner behind it and the plain model beside it.

use std::sync::Arc;

use super::played::{Alarm, Opinion, Outcome};
use super::record::Record;
use crate::backbone::{Audited, Chain, Clock};
use crate::cascade::{self, Auditor, Cascade, Fate, OVERTAKEN_MAX, Pass, Segments};
use crate::decode::{DecodeLimits, Decoder};
use crate::engine::Engine;
use crate::flow::{Flow, FlowError, FlowOptions, Incoming, Parts};
use crate::frame::RawFrame;
use crate::heads::{HeadSet, PolicyState, Scratch};
use crate::learn::{Learner, Publication, Sample, SampleRejection, Unpaced};
use crate::plan::ExitId;

/// Recorded frames are the user's own: only what would exhaust memory is refused.
pub(super) const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 256 << 20, max_pixels: 1 << 28 };

/// Batches that offramp serves before the plain model has its turn with them: in shorter turns each would mostly find the
/// other's tensors in the caches, in longer ones a busy machine may treat them differently.
const TURN: usize = 16;

/// How to play.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most frames in a batch.
    pub batch: usize,
    /// Seed of the audits.
    pub seed: u64,
    /// Most copies of an audited frame.
    pub copies: u8,
    /// From this frame on every exit's opinion is noted, outside the timing; `None`: nowhere.
    pub opinions_from: Option<usize>,
}

/// What the audits of a stream go to, and where its policies come from.
pub trait Learning {
    /// The policy in force.
    fn set(&self) -> Arc<HeadSet>;

    /// Takes a sample. Positions ascend.
    ///
    /// # Errors
    /// When the sample is not to be used.
    fn observe(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection>;

    /// The next policy, if there is one.
    fn work(&mut self) -> Option<Publication>;

    /// Why exits are off, or what is going on, in one sentence.
    fn why(&self) -> String;

    /// Audits and disagreements on which the last alarm was raised.
    fn alarmed_at(&self) -> (u64, u64);
}

impl Learning for Learner {
    fn set(&self) -> Arc<HeadSet> {
        Arc::clone(Self::set(self))
    }

    fn observe(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection> {
        Self::observe(self, sample, position)
    }

    fn work(&mut self) -> Option<Publication> {
        Self::work(self, &mut Unpaced)
    }

    fn why(&self) -> String {
        self.status().why
    }

    fn alarmed_at(&self) -> (u64, u64) {
        self.status().alarmed_at
    }
}

/// The stream while it plays.
#[derive(Debug)]
pub struct Stream<'a, L> {
    engine: &'a Engine,
    clock: Clock,
    flow: Flow<usize, Chain, Audited>,
    record: Record,
    plain: Chain,
    /// What the plain model has yet to see: batches of pixels, and which frames they are.
    unseen: Vec<(Vec<f32>, Vec<usize>)>,
    /// Asks the exits where opinions are wanted.
    asked: Option<Audited>,
    learner: L,
    rules: Rules,
    alarms: Vec<Alarm>,
    learn_seconds: f64,
}

impl<'a, L: Learning> Stream<'a, L> {
    /// A stream that starts with the learner's policy.
    ///
    /// # Errors
    /// When the backbone cannot be cut.
    pub fn new(engine: &'a Engine, learner: L, rules: Rules) -> anyhow::Result<Self> {
        let (backbone, heads) = (&engine.backbone, learner.set());
        let parts = Parts {
            plan: Arc::clone(backbone.plan()),
            decoder: Decoder::new(backbone.plan().input.clone(), LIMITS),
            segments: backbone.chain(heads.exits())?,
            auditor: Some(backbone.auditor()?),
            heads,
        };
        let Rules { batch, seed, copies, opinions_from } = rules;
        let options = FlowOptions { max_batch: batch, overtaken_max: OVERTAKEN_MAX, seed, copies };
        Ok(Self {
            engine,
            clock: backbone.clock(),
            flow: Flow::new(parts, options),
            record: Record::new(backbone.clock()),
            plain: backbone.uncut()?,
            unseen: Vec::new(),
            asked: opinions_from.map(|_| backbone.auditor()).transpose()?,
            learner,
            rules,
            alarms: Vec::new(),
            learn_seconds: 0.0,
        })
    }

    /// Plays the next frames, at most [`Rules::batch`]; one that cannot be had says why.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn batch(&mut self, frames: Vec<Result<RawFrame, String>>) -> anyhow::Result<()> {
        let mut incoming = Vec::with_capacity(frames.len());
        for frame in frames {
            match frame {
                Ok(frame) => incoming.push(Incoming { carried: self.record.begin(&frame.origin), frame }),
                Err(why) => self.record.skip(why),
            }
        }
        // A recording has always as much to come as a lane takes: rows wait for those behind them, and nothing lags.
        let waiting = || self.rules.batch;
        self.flow.batch(incoming, &waiting, &mut self.record).map_err(engine_error)?;
        let (pixels, numbers) = self.record.take_decoded();
        self.record.charge(&numbers);
        if !numbers.is_empty() {
            self.note_opinions(&pixels, &numbers)?;
            self.unseen.push((pixels, numbers));
        }
        if self.unseen.len() >= TURN {
            self.turn()?;
        }
        self.learn()
    }

    /// Asks every exit in force about every frame of the batch; costs a run of the whole model.
    fn note_opinions(&mut self, pixels: &[f32], numbers: &[usize]) -> anyhow::Result<()> {
        let (Some(asked), Some(from)) = (&mut self.asked, self.rules.opinions_from) else { return Ok(()) };
        if numbers.iter().all(|number| *number < from) {
            return Ok(());
        }
        let mut opinions = vec![Vec::new(); numbers.len()];
        let heads = self.flow.heads();
        if !heads.exits().is_empty() {
            asked.load(numbers.len())[..pixels.len()].copy_from_slice(pixels);
            cascade::audit(asked, heads, numbers.len(), &mut Scratch::default(), |row, audit, scratch| {
                let mut ask = |(position, exit): (usize, &ExitId)| {
                    let said = heads.decide(position, audit.features.get(exit.index())?, scratch);
                    let (class, confidence) = (said.verdict.class, said.verdict.confidence.get());
                    Some(Opinion { exit: *exit, class, confidence, leaves: said.leaves })
                };
                opinions[row] = heads.exits().iter().enumerate().filter_map(&mut ask).collect();
            })?;
        }
        let noted = opinions.into_iter().zip(numbers).filter(|(_, number)| **number >= from);
        noted.for_each(|(opinions, number)| self.record.opinions(*number, opinions));
        Ok(())
    }

    /// The plain model's turn.
    fn turn(&mut self) -> anyhow::Result<()> {
        std::mem::take(&mut self.unseen).iter().try_for_each(|(pixels, numbers)| self.plain(pixels, numbers))
    }

    fn plain(&mut self, pixels: &[f32], numbers: &[usize]) -> anyhow::Result<()> {
        let rows = numbers.len();
        // Offramp's frames are decoded into the place where the model finds them; so this copy is not timed either.
        self.plain.load(rows)[..pixels.len()].copy_from_slice(pixels);
        let (heads, mut scratch) = (HeadSet::empty(), Scratch::default());
        let mut full = vec![None; rows];
        let started = self.clock.now();
        let mut pass = Pass { segments: &mut self.plain, heads: &heads, scratch: &mut scratch };
        Cascade::new(rows, 0).serve(&mut pass, 0..rows, false, &mut |row: usize, fate| {
            if let Fate::Answered(answer) = fate {
                full[row] = Some(answer.class);
            }
        })?;
        let share = self.clock.since(started).as_secs_f64() / rows as f64;
        numbers.iter().zip(full).for_each(|(number, class)| self.record.plain(*number, class, share));
        Ok(())
    }

    /// Gives the learner what was audited, lets it work, and takes over all that it publishes.
    fn learn(&mut self) -> anyhow::Result<()> {
        for (position, sample) in self.record.take_samples() {
            // What is unfit to learn from is left out, as in the worker.
            if let Err(rejection) = sample.and_then(|sample| self.learner.observe(sample, position)) {
                tracing::debug!(%rejection, position, "a sample is left out");
            }
        }
        loop {
            let started = self.clock.now();
            let publication = self.learner.work();
            self.learn_seconds += self.clock.since(started).as_secs_f64();
            match publication {
                Some(publication) => self.adopt(&publication)?,
                None => return Ok(()),
            }
        }
    }

    fn adopt(&mut self, publication: &Publication) -> anyhow::Result<()> {
        let heads = publication.set();
        let cut = heads.exits() != self.flow.heads().exits();
        let segments = cut.then(|| self.engine.backbone.chain(heads.exits())).transpose()?;
        self.flow.adopt(Arc::clone(heads), segments, &mut self.record).map_err(engine_error)?;
        self.record.charge(&[]);
        let frame = self.record.frames();
        if publication.policy().state == PolicyState::Alarm {
            let (audits, disagreements) = self.learner.alarmed_at();
            self.alarms.push(Alarm { frame, audits, disagreements, exits_back_at: None });
        } else if let (Some(alarm), false) = (self.alarms.last_mut(), heads.exits().is_empty()) {
            alarm.exits_back_at.get_or_insert(frame);
        }
        Ok(())
    }

    /// One line for the progress bar.
    #[must_use]
    pub fn note(&self) -> String {
        self.learner.why()
    }

    /// Brings all frames to their answers.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn finish(mut self) -> anyhow::Result<Outcome> {
        self.flow.flush(&mut self.record).map_err(engine_error)?;
        self.record.charge(&[]);
        self.turn()?;
        let (heads, why) = (Arc::clone(self.flow.heads()), self.learner.why());
        Ok(self.record.outcome(heads, self.alarms, self.learn_seconds, why))
    }
}

/// A record always takes what it is given.
fn engine_error(error: FlowError<std::convert::Infallible>) -> cascade::EngineError {
    match error {
        FlowError::Engine(error) => error,
        FlowError::Outlet(never) => match never {},
    }
}
