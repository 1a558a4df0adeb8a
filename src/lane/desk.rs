//! The part of a lane that turns bytes into rows, fates into records, and audits into samples.

use std::time::{Duration, Instant};

use crate::cascade::{Answer, Audit, Fate};
use crate::decode::Decoder;
use crate::frame::{Origin, RawFrame, RejectReason, Rejection};
use crate::heads::HeadSet;
use crate::ingest::Taken;
use crate::learn::{Sample, SampleRejection};
use crate::observe::health::Heartbeat;
use crate::observe::metrics::Stage;
use crate::observe::telemetry::Telemetry;
use crate::plan::{ExitId, Plan};
use crate::prediction::{self, AuditNote, FrameRef, Latency, Prediction};
use crate::promise::served::Shown;
use crate::publish::{CAMERA_CHARS_MAX, PublishError, Publisher};

/// A decoded frame that has no answer yet; dropped, it is read again.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) taken: Taken,
    /// When its batch began.
    started: Instant,
    /// The probability with which it was to be audited.
    probability: f64,
}

/// The part of a lane that turns fates into records: it borrows what it needs, so that the engine stays free to run.
pub(super) struct Desk<'a> {
    pub(super) plan: &'a Plan,
    pub(super) heads: &'a HeadSet,
    pub(super) publisher: &'a Publisher,
    pub(super) telemetry: &'a Telemetry,
    pub(super) heartbeat: &'a Heartbeat,
    pub(super) audited: bool,
}

impl Desk<'_> {
    /// Decodes into consecutive rows of `buffer`; frames that can't be decoded become dead letters and take no row.
    pub(super) fn decode(
        &self,
        taken: Vec<Taken>,
        (started, probability): (Instant, f64),
        decoder: &mut Decoder,
        buffer: &mut [f32],
    ) -> Result<Vec<Open>, PublishError> {
        let timer = Instant::now();
        let mut rows = buffer.chunks_exact_mut(self.plan.input.len());
        let mut row = rows.next();
        let mut open = Vec::with_capacity(taken.len());
        for taken in taken {
            let Some(pixels) = row.as_deref_mut() else { break };
            match decoder.decode(&taken.frame.payload, taken.frame.content_type(), pixels) {
                Ok(()) => {
                    open.push(Open { taken, started, probability });
                    row = rows.next();
                }
                Err(why) => self.reject(taken, &why)?,
            }
        }
        self.telemetry.stage(Stage::Decode, timer.elapsed());
        Ok(open)
    }

    fn reject(&self, taken: Taken, why: &Rejection) -> Result<(), PublishError> {
        tracing::debug!(origin = %taken.frame.origin, %why, "dead letter");
        self.telemetry.dead_letter(why.reason());
        self.publisher.dead_letter(&taken.frame, why, taken.ticket, &|| self.heartbeat.beat(Instant::now()))
    }

    pub(super) fn settle(&self, open: Open, fate: Fate, note: Option<AuditNote>) -> Result<(), PublishError> {
        match fate {
            Fate::Answered(answer) => {
                let prediction = self.prediction(&open, answer, note);
                let alive = || self.heartbeat.beat(Instant::now());
                self.publisher.prediction(&open.taken.frame, &prediction, open.taken.ticket, &alive)
            }
            Fate::NotFinite => {
                let why =
                    Rejection::new(RejectReason::BadOutput, "the model's output for this frame is NaN or infinite");
                self.reject(open.taken, &why)
            }
        }
    }

    fn prediction(&self, open: &Open, answer: Answer, note: Option<AuditNote>) -> Prediction {
        let Open { taken: Taken { frame, arrived, .. }, started, probability } = open;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let queue = started.saturating_duration_since(*arrived);
        let total = arrived.elapsed();
        self.telemetry.answered(answer.exit, total, queue, frame.captured_at_ms);
        let shown = match &note {
            Some(note) if !note.agrees => Shown::Wrong,
            _ => Shown::Right,
        };
        self.telemetry.served(*probability, answer.exit.is_some(), self.audited.then_some(shown));
        if self.audited {
            self.telemetry.audited(note.as_ref());
        }
        self.telemetry.flops(flops(self.plan, self.heads, answer.exit, self.audited), self.plan.flops);
        Prediction {
            camera: frame.camera().chars().take(CAMERA_CHARS_MAX).collect(),
            frame: FrameRef {
                topic: frame.origin.topic.to_string(),
                partition: frame.origin.partition,
                offset: frame.origin.offset,
                captured_at: frame.captured_at_ms.and_then(prediction::rfc3339),
            },
            label: self.plan.labels.get(answer.class).cloned().unwrap_or_default(),
            class: answer.class,
            confidence: f64::from(answer.confidence),
            exit: answer.exit,
            exits: self.heads.exits().len(),
            audited: self.audited,
            audit: note,
            model: self.plan.backbone.short(),
            policy: self.heads.version(),
            latency_ms: Latency { queue: ms(queue), infer: ms(started.elapsed()), total: ms(total) },
        }
    }
}

/// FLOPs spent on a frame: the backbone up to where it left, and every head that looked at it.
pub(crate) fn flops(plan: &Plan, heads: &HeadSet, exit: Option<ExitId>, audited: bool) -> u64 {
    let tried = (0..heads.exits().len()).map(|position| heads.head(position));
    let tried = tried.filter(|head| audited || exit.is_none_or(|left| head.exit() <= left));
    let heads_flops: u64 = tried.map(|head| head.flops()).sum();
    let share = exit.and_then(|e| Some(plan.candidates.get(e.index())?.flops_fraction)).unwrap_or(1.0);
    (plan.flops as f64 * share) as u64 + heads_flops
}

/// What a sample says of its frame.
pub(super) struct About {
    pub(super) origin: Origin,
    camera: String,
    captured_at_ms: Option<i64>,
}

impl About {
    pub(super) fn of(frame: &RawFrame) -> Self {
        Self { origin: frame.origin.clone(), camera: frame.camera(), captured_at_ms: frame.captured_at_ms }
    }

    /// The sample of an audit, weighted by how many frames it stands for, as it goes on the wire.
    pub(super) fn sample(
        &self,
        plan: &Plan,
        audit: &Audit<'_>,
        rate: f64,
        copy: bool,
    ) -> Result<Vec<u8>, SampleRejection> {
        let weight = (1.0 / rate) as f32;
        let (features, scores) = (&audit.features, audit.probabilities);
        let sample = Sample::from_audit(plan, features, scores, &self.camera, self.captured_at_ms, weight, copy)?;
        sample.with_origin(&self.origin).encode(plan)
    }
}

pub(super) fn audit_note(audit: &Audit<'_>, heads: &HeadSet) -> Option<AuditNote> {
    let Fate::Answered(answer) = audit.fate else { return None };
    let early = || audit.early.is_none_or(|(_, class)| class == answer.class);
    (!heads.exits().is_empty()).then(|| AuditNote { exit: audit.early.map(|(exit, _)| exit), agrees: early() })
}
