//! Where a lane's frames go: answers and dead letters to their topics, audits to the learner, times and counts to the telemetry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::flow::{Answered, Entered, Outlet, Part, Subject};
use crate::frame::{RawFrame, Rejection};
use crate::ingest::Ticket;
use crate::learn::{Sample, SampleRejection};
use crate::observe::health::Heartbeat;
use crate::observe::metrics::Stage;
use crate::observe::telemetry::Telemetry;
use crate::plan::Plan;
use crate::prediction::{self, FrameRef, Latency, Prediction};
use crate::promise::served::Shown;
use crate::publish::{CAMERA_CHARS_MAX, PublishError, Publisher, SampleSink};

/// What a lane keeps of a frame beside its record. Dropped without an answer, the frame is read again.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ticket: Ticket,
    /// When the frame arrived in this worker.
    pub(super) arrived: Instant,
    /// When its batch began.
    pub(super) started: Instant,
}

/// A lane's way out.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) plan: Arc<Plan>,
    pub(super) publisher: Arc<Publisher>,
    /// None: nothing is learned.
    pub(super) samples: Option<Arc<SampleSink>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) heartbeat: Heartbeat,
    /// When the present part of the work began.
    pub(super) began: Instant,
}

impl Outbox {
    fn prediction(&self, entered: &Entered<Held>, answered: &Answered<'_>) -> Prediction {
        let Entered { frame, carried: Held { arrived, started, .. }, camera, draw } = entered;
        let Answered { answer, note, heads, flops } = *answered;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let queue = started.saturating_duration_since(*arrived);
        let total = arrived.elapsed();
        self.telemetry.answered(answer.exit, total, queue, frame.captured_at_ms);
        let shown = if note.is_some_and(|note| !note.agrees) { Shown::Wrong } else { Shown::Right };
        self.telemetry.served(draw.probability, answer.exit.is_some(), draw.is_audited().then_some(shown));
        if draw.is_audited() {
            self.telemetry.audited(note);
        }
        self.telemetry.flops(flops, self.plan.flops);
        Prediction {
            camera: camera.chars().take(CAMERA_CHARS_MAX).collect(),
            frame: place(frame),
            label: self.plan.labels.get(answer.class).cloned().unwrap_or_default(),
            class: answer.class,
            confidence: f64::from(answer.confidence),
            exit: answer.exit,
            exits: heads.exits().len(),
            audited: draw.is_audited(),
            audit: note.cloned(),
            model: self.plan.backbone.short(),
            policy: heads.version(),
            latency_ms: Latency { queue: ms(queue), infer: ms(started.elapsed()), total: ms(total) },
        }
    }
}

fn place(frame: &RawFrame) -> FrameRef {
    FrameRef {
        topic: frame.origin.topic.to_string(),
        partition: frame.origin.partition,
        offset: frame.origin.offset,
        captured_at: frame.captured_at_ms.and_then(prediction::rfc3339),
    }
}

impl Outlet<Held> for Outbox {
    type Error = PublishError;

    fn answer(&mut self, entered: Entered<Held>, answered: &Answered<'_>) -> Result<(), PublishError> {
        let prediction = self.prediction(&entered, answered);
        let Entered { frame, carried: Held { ticket, .. }, .. } = entered;
        self.publisher.prediction(&frame, &prediction, ticket, &|| self.heartbeat.beat(Instant::now()))
    }

    fn reject(&mut self, entered: Entered<Held>, why: &Rejection, _: u64) -> Result<(), PublishError> {
        let Entered { frame, carried: Held { ticket, .. }, .. } = entered;
        tracing::debug!(origin = %frame.origin, %why, "dead letter");
        self.telemetry.dead_letter(why.reason());
        self.publisher.dead_letter(&frame, why, ticket, &|| self.heartbeat.beat(Instant::now()))
    }

    fn sample(&mut self, sample: Result<Sample, SampleRejection>) {
        if let Some(sink) = &self.samples {
            sink.offer(sample.and_then(|sample| sample.encode(&self.plan)));
        }
    }

    fn copied(&mut self, _: &Subject, flops: u64) {
        self.telemetry.flops(flops, 0);
    }

    fn begins(&mut self, _: Part) {
        self.began = Instant::now();
    }

    fn ends(&mut self, part: Part) {
        let stage = match part {
            Part::Decode => Stage::Decode,
            Part::Serve => Stage::Serve,
            Part::Audit => Stage::Audit,
            // Copies have no figure of their own.
            Part::Copy => return,
        };
        self.telemetry.stage(stage, self.began.elapsed());
    }
}
