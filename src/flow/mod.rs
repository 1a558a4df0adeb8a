//! The flow of frames, whole: enter, decode, audit or cascade, copy, sample, answer.
//!
//! It knows neither Kafka nor files, and has no clock: frames come in by [`Flow::batch`], and all that becomes of them goes out
//! through an [`Outlet`]. So what `replay` measures is what a worker does. This is the one place where an audit is drawn, a copy
//! is made and FLOPs are counted.

mod draw;
mod entrance;
mod outlet;

use std::sync::Arc;

pub use draw::draw;
pub use entrance::{Entered, Subject};
pub use outlet::{Answered, Outlet, Part};

use entrance::Entrance;

use crate::cascade::{self, Audit, Auditor, Cascade, EngineError, Fate, Fates, Pass, Segments};
use crate::decode::{self, Decoder};
use crate::frame::{RawFrame, RejectReason, Rejection};
use crate::heads::{Confidence, HeadSet, Scratch};
use crate::learn::{Sample, SampleRejection};
use crate::plan::{ExitId, Plan};
use crate::prediction::AuditNote;

/// Settings of a flow.
#[derive(Debug, Clone)]
pub struct FlowOptions {
    /// Most rows in one run.
    pub max_batch: usize,
    /// Most batches that may overtake a frame which waits behind an exit.
    pub overtaken_max: usize,
    /// Seed of the audits.
    pub seed: u64,
    /// Most copies, mirrored and shifted, from which young heads learn.
    pub copies: u8,
}

/// What a flow works with.
#[derive(Debug)]
pub struct Parts<S, A> {
    /// The backbone's plan.
    pub plan: Arc<Plan>,
    /// Bytes to pixels.
    pub decoder: Decoder,
    /// The backbone, cut at the exits of `heads`.
    pub segments: S,
    /// The backbone, whole, with the features of every candidate. None: no frame is audited.
    pub auditor: Option<A>,
    /// The policy in force.
    pub heads: Arc<HeadSet>,
}

/// A frame that comes in, and what its sender knows it by: it comes out again with the answer.
#[derive(Debug)]
pub struct Incoming<T> {
    /// The frame.
    pub frame: RawFrame,
    /// The sender's own.
    pub carried: T,
}

/// A flow has failed; frames without an answer stay without one.
#[derive(Debug)]
pub enum FlowError<E> {
    /// The runtime failed on a batch.
    Engine(EngineError),
    /// Answers cannot be given out.
    Outlet(E),
}

impl<E> From<EngineError> for FlowError<E> {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// Carries frames from their bytes to their answers, batch by batch. Owned by one thread.
#[derive(Debug)]
pub struct Flow<T, S, A> {
    plan: Arc<Plan>,
    decoder: Decoder,
    segments: S,
    auditor: Option<A>,
    heads: Arc<HeadSet>,
    entrance: Entrance,
    cascade: Cascade<Entered<T>>,
    scratch: Scratch,
    options: FlowOptions,
}

impl<T, S: Segments, A: Auditor> Flow<T, S, A> {
    /// A flow in which nothing is on its way.
    #[must_use]
    pub fn new(parts: Parts<S, A>, options: FlowOptions) -> Self {
        let Parts { plan, decoder, segments, auditor, heads } = parts;
        let entrance = Entrance::new(options.seed);
        let cascade = Cascade::new(options.max_batch, options.overtaken_max);
        Self { plan, decoder, segments, auditor, heads, entrance, cascade, scratch: Scratch::default(), options }
    }

    /// The policy in force.
    #[must_use]
    pub fn heads(&self) -> &Arc<HeadSet> {
        &self.heads
    }

    /// Whether no frame is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cascade.is_empty()
    }

    /// Takes over another policy, between two batches. `segments` is cut at its exits; none: the present cut is, or the policy
    /// has no exits and goes with any.
    ///
    /// # Errors
    /// Those of the frames on their way, which are answered first.
    pub fn adopt<O: Outlet<T>>(
        &mut self,
        heads: Arc<HeadSet>,
        segments: Option<S>,
        outlet: &mut O,
    ) -> Result<(), FlowError<O::Error>> {
        // Exits that are off let no frame out any more, not even one that waits behind another exit.
        if heads.exits().is_empty() {
            self.heads = Arc::clone(&heads);
        }
        self.flush(outlet)?;
        if let Some(segments) = segments {
            self.segments = segments;
        }
        self.heads = heads;
        Ok(())
    }

    /// Takes in a batch of at most [`FlowOptions::max_batch`] frames. Audited ones are answered when it returns; others may wait
    /// behind an exit for rows of later batches while `waiting` says that frames are waiting behind this batch.
    ///
    /// # Errors
    /// When the engine or the outlet fails.
    pub fn batch<O: Outlet<T>>(
        &mut self,
        frames: Vec<Incoming<T>>,
        waiting: &dyn Fn() -> usize,
        outlet: &mut O,
    ) -> Result<(), FlowError<O::Error>> {
        let audits = self.auditor.is_some();
        let enter = |Incoming { frame, carried }| self.entrance.enter(frame, carried, &self.heads, audits);
        let (audited, served): (Vec<_>, Vec<_>) =
            frames.into_iter().map(enter).partition(|entered| entered.draw.is_audited());
        // Rows that wait go on with every batch: under suspicion all frames are audited, and no more rows would come to them.
        if !served.is_empty() || !self.cascade.is_empty() {
            self.serve(served, waiting, outlet)?;
        }
        if !audited.is_empty() {
            self.audit(audited, waiting, outlet)?;
        }
        Ok(())
    }

    /// Brings the frames that wait behind exits to their answers.
    ///
    /// # Errors
    /// When the engine or the outlet fails.
    pub fn flush<O: Outlet<T>>(&mut self, outlet: &mut O) -> Result<(), FlowError<O::Error>> {
        if self.cascade.is_empty() { Ok(()) } else { self.pass(Vec::new(), false, outlet) }
    }

    fn serve<O: Outlet<T>>(
        &mut self,
        entered: Vec<Entered<T>>,
        waiting: &dyn Fn() -> usize,
        outlet: &mut O,
    ) -> Result<(), FlowError<O::Error>> {
        let Self { decoder, segments, plan, .. } = self;
        let rows = match entered.len() {
            0 => entered,
            count => decode(decoder, plan, entered, segments.load(count), outlet).map_err(FlowError::Outlet)?,
        };
        if rows.is_empty() && self.cascade.is_empty() {
            return Ok(());
        }
        self.pass(rows, waiting() > 0, outlet)
    }

    fn pass<O: Outlet<T>>(
        &mut self,
        rows: Vec<Entered<T>>,
        wait: bool,
        outlet: &mut O,
    ) -> Result<(), FlowError<O::Error>> {
        let Self { segments, heads, plan, entrance, cascade, scratch, .. } = self;
        outlet.begins(Part::Serve);
        let mut passing = Passing { plan, heads, entrance, outlet, given: Ok(()) };
        cascade.serve(&mut Pass { segments, heads, scratch }, rows, wait, &mut passing)?;
        let Passing { outlet, given, .. } = passing;
        outlet.ends(Part::Serve);
        given.map_err(FlowError::Outlet)
    }

    fn audit<O: Outlet<T>>(
        &mut self,
        entered: Vec<Entered<T>>,
        waiting: &dyn Fn() -> usize,
        outlet: &mut O,
    ) -> Result<(), FlowError<O::Error>> {
        let Self { auditor: Some(auditor), decoder, plan, heads, entrance, scratch, .. } = self else { return Ok(()) };
        let buffer = auditor.load(entered.len());
        let rows = decode(decoder, plan, entered, buffer, outlet).map_err(FlowError::Outlet)?;
        if rows.is_empty() {
            return Ok(());
        }
        outlet.begins(Part::Audit);
        let copies = self.options.copies.min(heads.copies());
        let kept = if copies > 0 { buffer[..rows.len() * plan.input.len()].to_vec() } else { Vec::new() };
        let subjects: Vec<Subject> = rows.iter().map(Entered::subject).collect();
        let (mut rows, mut given) = (rows.into_iter(), Ok(()));
        cascade::audit(auditor, heads, subjects.len(), scratch, |row, audit, scratch| {
            if heads.reference().is_some()
                && let Some(confidence) = audit.judged(heads, scratch)
            {
                entrance.judged(heads, confidence);
            }
            if let Fate::Answered(_) = audit.fate {
                outlet.sample(sample(plan, &subjects[row], audit, false));
            }
            if let (Ok(()), Some(entered)) = (&given, rows.next()) {
                let note = audit_note(audit, heads);
                given = settle(plan, heads, entered, audit.fate, note.as_ref(), outlet);
            }
        })?;
        outlet.ends(Part::Audit);
        given.map_err(FlowError::Outlet)?;
        Ok(self.copy(&subjects, &kept, copies, waiting, outlet)?)
    }

    /// Runs the audited rows again, mirrored and shifted: more to train on while heads are young and frames do not wait.
    fn copy<O: Outlet<T>>(
        &mut self,
        subjects: &[Subject],
        frames: &[f32],
        copies: u8,
        waiting: &dyn Fn() -> usize,
        outlet: &mut O,
    ) -> Result<(), EngineError> {
        let Some(auditor) = self.auditor.as_mut().filter(|_| copies > 0) else { return Ok(()) };
        let (plan, heads, rows, seed) = (&self.plan, &self.heads, subjects.len(), self.options.seed);
        outlet.begins(Part::Copy);
        for number in 0..copies {
            // Copies are the first thing to go when the input lags.
            if waiting() > self.options.max_batch {
                break;
            }
            let draw = |row: usize| draw::bits_of_copy(&subjects[row].origin, seed, number);
            decode::copies(&plan.input, frames, number, draw, auditor.load(rows));
            cascade::audit(auditor, heads, rows, &mut self.scratch, |row, audit, _| {
                outlet.copied(&subjects[row], plan.flops);
                if let Fate::Answered(_) = audit.fate {
                    outlet.sample(sample(plan, &subjects[row], audit, true));
                }
            })?;
        }
        outlet.ends(Part::Copy);
        Ok(())
    }
}

/// What the cascade tells of rows goes to the entrance and to the outlet.
struct Passing<'a, T, O: Outlet<T>> {
    plan: &'a Plan,
    heads: &'a HeadSet,
    entrance: &'a mut Entrance,
    outlet: &'a mut O,
    /// After a first failure nothing more is given out.
    given: Result<(), O::Error>,
}

impl<T, O: Outlet<T>> Fates<Entered<T>> for Passing<'_, T, O> {
    fn judged(&mut self, _: &Entered<T>, confidence: Confidence) {
        self.entrance.judged(self.heads, confidence);
    }

    fn left(&mut self, entered: Entered<T>, fate: Fate) {
        if self.given.is_ok() {
            self.given = settle(self.plan, self.heads, entered, fate, None, self.outlet);
        }
    }
}

/// Decodes into consecutive rows of `buffer`; frames that cannot be decoded are rejected and take no row.
fn decode<T, O: Outlet<T>>(
    decoder: &mut Decoder,
    plan: &Plan,
    entered: Vec<Entered<T>>,
    buffer: &mut [f32],
    outlet: &mut O,
) -> Result<Vec<Entered<T>>, O::Error> {
    outlet.begins(Part::Decode);
    let mut free = buffer.chunks_exact_mut(plan.input.len());
    let mut row = free.next();
    let mut decoded = Vec::with_capacity(entered.len());
    for entered in entered {
        let Some(pixels) = row.as_deref_mut() else { break };
        match decoder.decode(&entered.frame.payload, entered.frame.content_type(), pixels) {
            Ok(()) => {
                outlet.decoded(&entered, pixels);
                decoded.push(entered);
                row = free.next();
            }
            Err(why) => outlet.reject(entered, &why, 0)?,
        }
    }
    outlet.ends(Part::Decode);
    Ok(decoded)
}

fn settle<T, O: Outlet<T>>(
    plan: &Plan,
    heads: &HeadSet,
    entered: Entered<T>,
    fate: Fate,
    note: Option<&AuditNote>,
    outlet: &mut O,
) -> Result<(), O::Error> {
    let audited = entered.draw.is_audited();
    match fate {
        Fate::Answered(answer) => {
            let flops = flops(plan, heads, answer.exit, audited);
            outlet.answer(entered, &Answered { answer, note, heads, flops })
        }
        Fate::NotFinite => {
            let why = Rejection::new(RejectReason::BadOutput, "the model's output for this frame is NaN or infinite");
            outlet.reject(entered, &why, flops(plan, heads, None, audited))
        }
    }
}

/// FLOPs spent on a frame: the backbone up to where it left, and every head that looked at it.
fn flops(plan: &Plan, heads: &HeadSet, exit: Option<ExitId>, audited: bool) -> u64 {
    let tried = (0..heads.exits().len()).map(|position| heads.head(position));
    let tried = tried.filter(|head| audited || exit.is_none_or(|left| head.exit() <= left));
    let heads_flops: u64 = tried.map(|head| head.flops()).sum();
    let share = exit.and_then(|e| Some(plan.candidates.get(e.index())?.flops_fraction)).unwrap_or(1.0);
    (plan.flops as f64 * share) as u64 + heads_flops
}

/// The sample of an audited frame, weighted by how many frames it stands for.
fn sample(plan: &Plan, of: &Subject, audit: &Audit<'_>, copy: bool) -> Result<Sample, SampleRejection> {
    let (features, scores, weight) = (&audit.features, audit.probabilities, (1.0 / of.draw.probability) as f32);
    let sample = Sample::from_audit(plan, features, scores, &of.camera, of.captured_at_ms, weight, copy)?;
    Ok(sample.with_origin(&of.origin))
}

fn audit_note(audit: &Audit<'_>, heads: &HeadSet) -> Option<AuditNote> {
    let Fate::Answered(answer) = audit.fate else { return None };
    let agrees = audit.early.is_none_or(|(_, class)| class == answer.class);
    (!heads.exits().is_empty()).then(|| AuditNote { exit: audit.early.map(|(exit, _)| exit), agrees })
}

#[cfg(test)]
pub(crate) mod tests;
