//! The lane: one thread that owns its sessions and carries frames from decoding to publishing.
//!
//! It is the flow of the library's picture in one place: batch, decode, cascade, publish. Generic over the engine, so
//! that tests run it without ONNX Runtime.

mod desk;
mod handover;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::batch::{self, Next};
use crate::cascade::{self, Auditor, Cascade, EngineError, Fate, Mind, Pass, Segments};
use crate::decode::{self, Decoder};
use crate::heads::{HeadSet, SUSPICION_WINDOW, Scratch, Suspicion};
use crate::ingest::{Queued, Taken};
use crate::observe::health::Heartbeat;
use crate::observe::metrics::Stage;
use crate::observe::telemetry::Telemetry;
use crate::plan::Plan;
use crate::publish::{PublishError, Publisher, SampleSink};

pub(crate) use desk::flops;
use desk::{About, Desk, Open};
pub use handover::{Handover, Serving, hand_over};

/// How long an idle lane sleeps before it shows that it lives.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// A lane can't go on; the worker stops and its frames are read again.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// ONNX Runtime failed on a batch.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Answers can't be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Settings that all lanes share.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// Most frames in one run.
    pub max_batch: usize,
    /// Most batches that may overtake a frame which waits behind an exit.
    pub overtaken_max: usize,
    /// Seed of the audits.
    pub seed: u64,
    /// Most copies, mirrored and shifted, from which young heads learn.
    pub copies: u8,
}

/// Everything a lane thread owns or shares.
#[derive(Debug)]
pub struct Lane<S, A> {
    /// The backbone's plan.
    pub plan: Arc<Plan>,
    /// Frames to classify.
    pub inbox: Receiver<Queued>,
    /// Bytes to pixels.
    pub decoder: Decoder,
    /// The backbone, cut.
    pub segments: S,
    /// The backbone, whole, with the features of every candidate.
    pub auditor: A,
    /// The policy in force.
    pub heads: Arc<HeadSet>,
    /// Where the next policy comes from.
    pub handover: Arc<Handover<S>>,
    /// Where answers go.
    pub publisher: Arc<Publisher>,
    /// Where audits go; none: nothing is learned.
    pub samples: Option<Arc<SampleSink>>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Its sign of life.
    pub heartbeat: Heartbeat,
    /// Settings.
    pub options: LaneOptions,
}

impl<S: Segments, A: Auditor> Lane<S, A> {
    /// Works until the inbox is closed and empty.
    ///
    /// # Errors
    /// When the engine or the output fails; unfinished frames keep their offsets back.
    pub fn run(mut self) -> Result<(), LaneError> {
        let mind = Mind { scratch: Scratch::default(), suspicion: Suspicion::new(SUSPICION_WINDOW) };
        let mut work = Work { mind, cascade: Cascade::new(self.options.max_batch, self.options.overtaken_max) };
        loop {
            self.heartbeat.beat(Instant::now());
            self.adopt(&mut work)?;
            // Rows wait for company only while frames are there to be it.
            let patience = if work.cascade.is_empty() { HEARTBEAT } else { Duration::ZERO };
            match batch::next(&self.inbox, self.options.max_batch, patience) {
                Next::Closed => {
                    self.flush(&mut work)?;
                    self.heartbeat.retire();
                    return Ok(());
                }
                Next::Idle => self.flush(&mut work)?,
                Next::Batch(queued) => self.batch(queued, &mut work)?,
            }
        }
    }

    fn adopt(&mut self, work: &mut Work) -> Result<(), LaneError> {
        if let Some(next) = self.handover.take() {
            // Exits that are off let nobody out any more, those that wait behind one of them included.
            if next.heads.exits().is_empty() {
                self.heads = Arc::clone(&next.heads);
            }
            self.flush(work)?;
            if let Some(segments) = next.segments {
                self.segments = segments;
            }
            self.heads = next.heads;
        }
        Ok(())
    }

    /// The policy's audit rate, or what suspicion makes of it; nothing is audited for nobody.
    fn audit_rate(&self, mind: &Mind) -> f64 {
        if self.samples.is_some() { self.heads.audit_rate_under(&mind.suspicion) } else { 0.0 }
    }

    fn batch(&mut self, queued: Vec<Queued>, work: &mut Work) -> Result<(), LaneError> {
        let started = Instant::now();
        self.telemetry.batch(queued.len());
        let rate = self.audit_rate(&work.mind);
        let (audited, served): (Vec<Taken>, Vec<Taken>) = queued
            .into_iter()
            .map(Queued::start)
            .partition(|t| batch::is_audited(&t.frame.origin, self.options.seed, rate));
        // Rows that wait go on with every batch: under suspicion all frames are audited, and none would come to them.
        if !served.is_empty() || !work.cascade.is_empty() {
            self.serve(served, (started, rate), work)?;
        }
        if !audited.is_empty() {
            self.audit(audited, started, rate, &mut work.mind)?;
        }
        Ok(())
    }

    fn serve(&mut self, taken: Vec<Taken>, batch: (Instant, f64), work: &mut Work) -> Result<(), LaneError> {
        let Self { segments, decoder, publisher, telemetry, heartbeat, plan, .. } = self;
        let desk = Desk { plan, heads: &self.heads, publisher, telemetry, heartbeat, audited: false };
        let open = match taken.len() {
            0 => Vec::new(),
            _ => desk.decode(taken, batch, decoder, segments.load(self.options.max_batch))?,
        };
        if open.is_empty() && work.cascade.is_empty() {
            return Ok(());
        }
        let wait = !self.inbox.is_empty();
        self.pass(open, wait, work)
    }

    /// Brings the frames that wait within the cascade to their answers.
    fn flush(&mut self, work: &mut Work) -> Result<(), LaneError> {
        if work.cascade.is_empty() { Ok(()) } else { self.pass(Vec::new(), false, work) }
    }

    fn pass(&mut self, rows: Vec<Open>, wait: bool, work: &mut Work) -> Result<(), LaneError> {
        let Self { segments, publisher, telemetry, heartbeat, plan, heads, .. } = self;
        let desk = Desk { plan, heads, publisher, telemetry, heartbeat, audited: false };
        let timer = Instant::now();
        let mut published = Ok(());
        let mut pass = Pass { segments, heads, mind: &mut work.mind };
        work.cascade.serve(&mut pass, rows, wait, |open, fate| {
            if published.is_ok() {
                published = desk.settle(open, fate, None);
            }
        })?;
        telemetry.stage(Stage::Serve, timer.elapsed());
        Ok(published?)
    }

    fn audit(&mut self, taken: Vec<Taken>, started: Instant, rate: f64, mind: &mut Mind) -> Result<(), LaneError> {
        let Self { auditor, decoder, publisher, telemetry, heartbeat, plan, heads, samples, .. } = self;
        let desk = Desk { plan, heads, publisher, telemetry, heartbeat, audited: true };
        let open = desk.decode(taken, (started, rate), decoder, auditor.load(self.options.max_batch))?;
        if open.is_empty() {
            return Ok(());
        }
        // What a sample says of its frame outlives the frame: the copy is sent after the answer.
        let about: Vec<About> = open.iter().map(|open| About::of(&open.taken.frame)).collect();
        let mut open = open.into_iter();
        let timer = Instant::now();
        let mut published = Ok(());
        let Mind { scratch, suspicion } = mind;
        cascade::audit(auditor, heads, about.len(), scratch, Some(suspicion), |row, audit| {
            if let (Some(sink), Fate::Answered(_)) = (samples.as_ref(), audit.fate) {
                sink.offer(about[row].sample(plan, audit, rate, false));
            }
            if let (Ok(()), Some(open)) = (&published, open.next()) {
                published = desk.settle(open, audit.fate, desk::audit_note(audit, heads));
            }
        })?;
        telemetry.stage(Stage::Audit, timer.elapsed());
        published?;
        self.copy(&about, rate, mind)
    }

    /// Runs the audited rows again, mirrored and shifted: more to train on while heads are young and frames do not wait.
    fn copy(&mut self, about: &[About], rate: f64, mind: &mut Mind) -> Result<(), LaneError> {
        let copies = self.options.copies.min(self.heads.copies());
        let Some(sink) = self.samples.as_ref().filter(|_| copies > 0) else { return Ok(()) };
        let (plan, rows, seed) = (&self.plan, about.len(), self.options.seed);
        let width = rows * plan.input.len();
        let frames = self.auditor.load(rows)[..width].to_vec();
        for number in 0..copies {
            // Copies are the first thing to go when the input lags.
            if self.inbox.len() > self.options.max_batch {
                break;
            }
            let draw = |row: usize| batch::draw_of_copy(&about[row].origin, seed, number);
            decode::copies(&plan.input, &frames, number, draw, self.auditor.load(rows));
            cascade::audit(&mut self.auditor, &self.heads, rows, &mut mind.scratch, None, |row, audit| {
                if let Fate::Answered(_) = audit.fate {
                    sink.offer(about[row].sample(plan, audit, rate, true));
                }
            })?;
            self.telemetry.flops(plan.flops * rows as u64, 0);
        }
        Ok(())
    }
}

/// What a lane carries from batch to batch.
struct Work {
    mind: Mind,
    cascade: Cascade<Open>,
}

#[cfg(test)]
mod tests;
