//! Who learns, and with what: the worker that Kafka assigns the one partition of the samples topic.
//!
//! Two threads. This one polls Kafka, so that membership never depends on how long a training takes; the other learns
//! (`learning`). The learner begins with an empty window and reads the samples log back: its state is a function of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;

use super::learning::{Entry, QUEUE, learn};
use super::log_end::LogEnd;
use super::term::{Leader, LeaderError};
use crate::kafka::{Consequence, Quiet, REQUEST_TIMEOUT, consequence};
use crate::learn::Sample;

const POLL: Duration = Duration::from_millis(100);
/// How long a failed term waits before it stands for election again.
const BACKOFF: Duration = Duration::from_secs(10);

impl Leader {
    /// Stands for election until `stop`. A term that fails is logged and followed by another.
    pub fn run(&self, stop: &Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.stand(stop) {
                tracing::warn!(%error, "learning interrupted; the stream is not affected");
                let until = Instant::now() + BACKOFF;
                while Instant::now() < until && !stop.load(Ordering::Acquire) {
                    std::thread::sleep(POLL);
                }
            }
            self.telemetry.learner(false);
        }
    }

    /// Membership from joining the group to leaving it.
    fn stand(&self, stop: &Arc<AtomicBool>) -> Result<(), LeaderError> {
        let failed = |source| LeaderError::Samples { topic: self.samples_topic.clone(), source };
        let consumer: BaseConsumer<Quiet> = self.samples_client.create_with_context(Quiet).map_err(failed)?;
        consumer.subscribe(&[&self.samples_topic]).map_err(failed)?;
        let mut term: Option<Term> = None;
        while !stop.load(Ordering::Acquire) {
            if let Some(term) = &mut term {
                if term.thread.is_finished() {
                    break;
                }
                // Nothing is polled while the learning thread is behind: the samples wait in librdkafka's prefetch, which is
                // bounded, and in Kafka. No partition is paused, for after a pause it takes a second to fetch again.
                if !term.hand_over() {
                    continue;
                }
            }
            let record = consumer.poll(POLL);
            let elected = consumer.assignment().map_err(failed)?.count() > 0;
            match (elected, term.is_some()) {
                (true, false) => {
                    let end = LogEnd::of(&consumer, &self.samples_topic, REQUEST_TIMEOUT).map_err(failed)?;
                    term = Some(Term::begin(self.clone(), end));
                }
                (false, true) => {
                    tracing::info!("another worker learns now");
                    term.take().map_or(Ok(()), Term::end)?;
                    self.telemetry.learner(false);
                }
                _ => {}
            }
            // Says that the log has no more just now, so more than was there when the term began has been read.
            let drained = matches!(record, Some(Err(KafkaError::PartitionEOF(_))));
            match record {
                Some(Ok(message)) => {
                    if let (Some(term), Some(bytes)) = (&mut term, message.payload()) {
                        term.waiting = self.sample(bytes, message.offset());
                    }
                }
                Some(Err(source)) if consequence(&source) == Consequence::Stop => return Err(failed(source)),
                Some(Err(error)) if !drained => tracing::debug!(%error, "reading samples"),
                Some(Err(_)) | None => {}
            }
            if let Some(term) = &mut term {
                term.note_end(&consumer, &self.samples_topic, drained).map_err(failed)?;
            }
        }
        term.map_or(Ok(()), Term::end)
    }

    /// Takes a record apart, at the budget's cost.
    fn sample(&self, bytes: &[u8], offset: i64) -> Option<Entry> {
        match self.budget.charge(|| Sample::decode(&self.plan, bytes)) {
            Ok(sample) => Some(Entry::Sample(Box::new(sample), offset)),
            Err(rejection) => {
                tracing::debug!(offset, "sample ignored: {rejection}");
                self.telemetry.sample_rejected(&rejection);
                None
            }
        }
    }
}

/// A term as the learner: the learning thread and the way to it.
struct Term {
    thread: JoinHandle<Result<(), LeaderError>>,
    samples: Sender<Entry>,
    /// A sample on its way. No other is read before it has gone.
    waiting: Option<Entry>,
    /// Where the log ended when the term began; none once it was read so far.
    end: Option<LogEnd>,
    over: Arc<AtomicBool>,
}

impl Term {
    #[allow(clippy::expect_used, reason = "a panic that the supervisor hears: without a thread there is no worker")]
    fn begin(leader: Leader, end: LogEnd) -> Self {
        tracing::info!("this worker learns for the fleet now");
        leader.telemetry.learner(true);
        let (samples, inbox) = crossbeam_channel::bounded(QUEUE);
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::Builder::new()
            .name("learner".into())
            .spawn(move || learn(&leader, &inbox, &ends, end.next()))
            .expect("the system has room for one more thread, or the worker could not run at all");
        Self { thread, samples, waiting: None, end: Some(end), over }
    }

    /// Passes on what waits, and waits for room for it, a little; false while there is none.
    fn hand_over(&mut self) -> bool {
        let Some(entry) = self.waiting.take() else { return true };
        match self.samples.send_timeout(entry, POLL) {
            // Nobody listens any more: the term is over, and the next one reads the log again.
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => true,
            Err(SendTimeoutError::Timeout(entry)) => {
                self.waiting = Some(entry);
                false
            }
        }
    }

    /// Tells the learning thread, once, that the log was read as far as it reached when the term began.
    fn note_end(&mut self, consumer: &BaseConsumer<Quiet>, topic: &str, drained: bool) -> Result<(), KafkaError> {
        if let Some(end) = &self.end
            && self.waiting.is_none()
            && (drained || end.is_reached(consumer, topic)?)
        {
            self.end = None;
            self.waiting = Some(Entry::End);
        }
        Ok(())
    }

    fn end(self) -> Result<(), LeaderError> {
        self.over.store(true, Ordering::Release);
        drop(self.samples);
        self.thread.join().map_err(|_| LeaderError::Panicked)?
    }
}
