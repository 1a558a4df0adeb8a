//! The lane: one thread that owns its sessions and carries frames from Kafka through the [`Flow`] to Kafka.
//!
//! Generic over the engine, so that tests run it without ONNX Runtime.

mod handover;
mod outbox;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::batch::{self, Next};
use crate::cascade::{Auditor, EngineError, Segments};
use crate::flow::{Flow, FlowError, FlowOptions, Incoming, Parts};
use crate::ingest::{Queued, Taken};
use crate::observe::health::Heartbeat;
use crate::observe::telemetry::Telemetry;
use crate::publish::{PublishError, Publisher, SampleSink};

pub use handover::{Handover, Serving, hand_over};
use outbox::{Held, Outbox};

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

impl From<FlowError<PublishError>> for LaneError {
    fn from(error: FlowError<PublishError>) -> Self {
        match error {
            FlowError::Engine(error) => Self::Engine(error),
            FlowError::Outlet(error) => Self::Publish(error),
        }
    }
}

/// What connects a lane with the rest of its worker.
#[derive(Debug)]
pub struct Links<S> {
    /// Frames to classify.
    pub inbox: Receiver<Queued>,
    /// Where the next policy comes from.
    pub handover: Arc<Handover<S>>,
    /// Where answers go.
    pub publisher: Arc<Publisher>,
    /// Where audits go; none: nothing is audited.
    pub samples: Option<Arc<SampleSink>>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Its sign of life.
    pub heartbeat: Heartbeat,
}

/// Everything a lane thread owns or shares.
#[derive(Debug)]
pub struct Lane<S, A> {
    flow: Flow<Held, S, A>,
    inbox: Receiver<Queued>,
    handover: Arc<Handover<S>>,
    outbox: Outbox,
    max_batch: usize,
}

impl<S: Segments, A: Auditor> Lane<S, A> {
    /// A lane that works with `parts`. Where audits go nowhere, none are made.
    #[must_use]
    pub fn new(parts: Parts<S, A>, links: Links<S>, options: FlowOptions) -> Self {
        let Links { inbox, handover, publisher, samples, telemetry, heartbeat } = links;
        let parts = Parts { auditor: parts.auditor.filter(|_| samples.is_some()), ..parts };
        let (plan, began) = (Arc::clone(&parts.plan), Instant::now());
        let outbox = Outbox { plan, publisher, samples, telemetry, heartbeat, began };
        let max_batch = options.max_batch;
        Self { flow: Flow::new(parts, options), inbox, handover, outbox, max_batch }
    }

    /// Works until the inbox is closed and empty.
    ///
    /// # Errors
    /// When the engine or the output fails; unfinished frames keep their offsets back.
    pub fn run(mut self) -> Result<(), LaneError> {
        loop {
            self.outbox.heartbeat.beat(Instant::now());
            self.adopt()?;
            // Rows that wait behind an exit for more rows wait only while more frames are coming.
            let patience = if self.flow.is_empty() { HEARTBEAT } else { Duration::ZERO };
            match batch::next(&self.inbox, self.max_batch, patience) {
                Next::Closed => {
                    self.flow.flush(&mut self.outbox)?;
                    self.outbox.heartbeat.retire();
                    return Ok(());
                }
                Next::Idle => self.flow.flush(&mut self.outbox)?,
                Next::Batch(queued) => self.batch(queued)?,
            }
        }
    }

    fn adopt(&mut self) -> Result<(), LaneError> {
        match self.handover.take() {
            Some(Serving { heads, segments }) => Ok(self.flow.adopt(heads, segments, &mut self.outbox)?),
            None => Ok(()),
        }
    }

    fn batch(&mut self, queued: Vec<Queued>) -> Result<(), LaneError> {
        let started = Instant::now();
        self.outbox.telemetry.batch(queued.len());
        let incoming = |queued: Queued| {
            let Taken { frame, ticket, arrived } = queued.start();
            Incoming { frame, carried: Held { ticket, arrived, started } }
        };
        let frames = queued.into_iter().map(incoming).collect();
        Ok(self.flow.batch(frames, &|| self.inbox.len(), &mut self.outbox)?)
    }
}

#[cfg(test)]
mod tests;
