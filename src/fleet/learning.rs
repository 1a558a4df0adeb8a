//! The learning thread of a term: takes samples in, works when there is something to do, publishes what is certified.
//!
//! It owns the [`Learner`] and the transactional producer, whose start fences an earlier learner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::budget::{ThreadPace, Turn};
use super::cap::Cap;
use super::term::{Leader, LeaderError};
use super::{priority, store};
use crate::heads::Registry;
use crate::kafka::{Quiet, REQUEST_TIMEOUT};
use crate::learn::{Learner, LearnerState, Publication, Sample};

const POLL: Duration = Duration::from_millis(100);
/// Samples on their way to this thread, some 10 to 30 kB each. A training takes seconds, and what piles up meanwhile should
/// not wait in Kafka.
pub(super) const QUEUE: usize = 8192;

/// What the samples log showed.
pub(super) enum Entry {
    /// A sample and its place.
    Sample(Box<Sample>, i64),
    /// The end that it had when the term began.
    End,
}

/// Learns until `over`, the end of the inbox, or a reset. `log_end` is the offset after the log's newest sample.
pub(super) fn learn(
    leader: &Leader,
    inbox: &Receiver<Entry>,
    over: &AtomicBool,
    log_end: i64,
) -> Result<(), LeaderError> {
    let failed = |source| LeaderError::Heads { topic: leader.heads_topic.clone(), source };
    let producer: BaseProducer<Quiet> = leader.heads_client.create_with_context(Quiet).map_err(failed)?;
    producer.init_transactions(REQUEST_TIMEOUT).map_err(failed)?;
    let registry = read_heads(leader)?;
    let mut learner = Learner::new(&leader.plan, leader.costs.clone(), leader.config.clone());
    learner.resume(Arc::clone(registry.adopted()), registry.high_water(), log_end);
    let mut learning = Learning {
        cap: Cap::new(leader.samples_per_s, learner.audit_limit()),
        pace: ThreadPace::new(&leader.budget, over),
        leader,
        learner,
        producer,
        over,
        caught_up: false,
        started: Instant::now(),
    };
    let mut known = leader.learned.heads().version();
    while !over.load(Ordering::Acquire) && learning.take_in(inbox) {
        if learning.caught_up {
            learning.work()?;
        }
        learning.report();
        let version = leader.learned.heads().version();
        if version == 0 && known > 0 {
            tracing::info!("what was learned has been reset: starting anew");
            break;
        }
        known = version;
    }
    Ok(())
}

/// What the heads topic holds at this moment. Read after the transactions of an earlier learner are fenced: what the worker
/// itself has adopted may lag behind, and two policies of one number would divide the fleet.
fn read_heads(leader: &Leader) -> Result<Registry, LeaderError> {
    let mut registry = Registry::new(&leader.plan, leader.hmac_key.clone());
    let records = store::read_all(&mut leader.reader_client.clone(), &leader.heads_topic, REQUEST_TIMEOUT)?;
    for record in records {
        // Refusals are counted where the topic is followed.
        if let Err(rejection) = registry.accept(&record.key, record.value.as_deref()) {
            tracing::debug!(offset = record.offset, %rejection, "snapshot ignored");
        }
    }
    Ok(registry)
}

struct Learning<'a> {
    leader: &'a Leader,
    learner: Learner,
    producer: BaseProducer<Quiet>,
    pace: ThreadPace<'a>,
    over: &'a AtomicBool,
    cap: Cap,
    /// Decisions wait until the log was read back: half of the past is no ground for an alarm.
    caught_up: bool,
    started: Instant,
}

impl Learning<'_> {
    /// Takes in what has come; waits for something a little where there is no work. False when nothing comes any more.
    fn take_in(&mut self, inbox: &Receiver<Entry>) -> bool {
        let works = self.learner.is_training() && self.pace.turn(&self.learner) != Turn::Rest;
        match inbox.recv_timeout(if works { Duration::ZERO } else { POLL }) {
            Ok(first) => {
                for entry in std::iter::once(first).chain(inbox.try_iter().take(QUEUE)) {
                    self.note(entry);
                }
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    fn note(&mut self, entry: Entry) {
        let Entry::Sample(sample, offset) = entry else {
            self.caught_up = true;
            return;
        };
        self.cap.note(sample.weight(), sample.is_copy());
        if let Err(rejection) = self.learner.observe(*sample, offset) {
            tracing::debug!(offset, "sample ignored: {rejection}");
            self.leader.telemetry.sample_rejected(&rejection);
        }
    }

    /// One stretch of work. Training beside exits that are on, beyond what the budget promises it, is done at low priority.
    fn work(&mut self) -> Result<(), LeaderError> {
        if let Some(share) = self.cap.share(self.started.elapsed()) {
            self.learner.limit_audits(share);
        }
        self.pace.begin();
        loop {
            let turn = self.pace.turn(&self.learner);
            let publication = if turn == Turn::Low && self.learner.is_training() {
                let (learner, budget, over) = (&mut self.learner, &self.leader.budget, self.over);
                priority::at_low(|| ThreadPace::new(budget, over).work(learner, turn)).map_err(LeaderError::Thread)?
            } else {
                self.pace.work(&mut self.learner, turn)
            };
            match publication {
                Some(publication) => self.publish(&publication)?,
                None => return Ok(()),
            }
        }
    }

    fn report(&self) {
        let mut status = self.learner.status();
        if !self.caught_up {
            status.learner = LearnerState::CatchingUp;
        }
        self.leader.telemetry.learning(status, self.leader.budget.spent());
    }

    /// All records of a publication in one transaction: a reader sees the policy only together with its heads.
    fn publish(&self, publication: &Publication) -> Result<(), LeaderError> {
        let Leader { heads_topic, plan, hmac_key, .. } = self.leader;
        let failed = |source| LeaderError::Heads { topic: heads_topic.clone(), source };
        let records = publication.records(plan, hmac_key.as_ref())?;
        self.producer.begin_transaction().map_err(failed)?;
        for (key, value) in &records {
            let record = BaseRecord::to(heads_topic).key(key).payload(value).partition(0);
            self.producer.send(record).map_err(|(source, _)| failed(source))?;
        }
        self.producer.commit_transaction(REQUEST_TIMEOUT).map_err(failed)?;
        let state = publication.policy().state.as_str();
        tracing::info!(policy = publication.sequence(), state, records = records.len(), "published");
        Ok(())
    }
}
