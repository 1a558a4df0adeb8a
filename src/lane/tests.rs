use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientConfig;

use super::*;
use crate::cascade::tests::{Echo, WIDTH, heads_with};
use crate::flow::tests::{EVERYBODY, frame, heads, options, parts};
use crate::heads::set::tests::some_policy;
use crate::heads::{HeadSet, Policy};
use crate::ingest::Ledger;
use crate::publish::Outputs;

/// A lane on an engine that passes rows on, whose answers nobody takes, and the way to its inbox.
struct Bench {
    lane: Lane<Echo, Echo>,
    frames: crossbeam_channel::Sender<Queued>,
    ledger: Ledger,
    /// Raised, answers are given up.
    alarm: Arc<AtomicBool>,
    offset: i64,
}

impl Bench {
    fn new(heads: Arc<HeadSet>) -> Self {
        Self::with_client(heads, &ClientConfig::new())
    }

    fn with_client(heads: Arc<HeadSet>, client: &ClientConfig) -> Self {
        let parts = parts(heads);
        let telemetry = Arc::new(Telemetry::new("lane", &parts.plan).expect("metrics"));
        let outputs = Outputs { predictions: "p".into(), dead_letters: "d".into(), worker: "lane".into() };
        let alarm = Arc::default();
        let publisher =
            Publisher::new(client, outputs, Arc::clone(&alarm), Arc::clone(&telemetry)).expect("a producer");
        let samples = SampleSink::new(client, "s", Arc::clone(&telemetry)).expect("a producer");
        let (frames, inbox) = crossbeam_channel::bounded(64);
        let links = Links {
            inbox,
            handover: Arc::default(),
            publisher: Arc::new(publisher),
            samples: Some(Arc::new(samples)),
            heartbeat: telemetry.heartbeat("lane"),
            telemetry,
        };
        let lane = Lane::new(parts, links, options(0));
        let ledger = Ledger::default();
        ledger.assign(0);
        Self { lane, frames, ledger, alarm, offset: 0 }
    }

    fn frame(&mut self) -> Queued {
        self.offset += 1;
        let row: [f32; WIDTH] = std::array::from_fn(|at| if at == 0 { 0.8 } else { 0.1 });
        let ticket = self.ledger.take(0, self.offset, 0).expect("ours");
        let taken = Taken { frame: frame(self.offset, &row), ticket, arrived: Instant::now() };
        Queued::new(taken, &self.lane.outbox.telemetry)
    }

    /// One batch, while another frame waits.
    fn batch(&mut self) {
        let taken = vec![self.frame()];
        if self.lane.inbox.is_empty() {
            let next = self.frame();
            self.frames.send(next).expect("room");
        }
        self.lane.batch(taken).expect("the echo never fails");
    }

    fn answered(&self) -> (u64, u64) {
        let totals = self.lane.outbox.telemetry.metrics().totals();
        (totals.early(), totals.full)
    }
}

/// One test for a bug: on an alarm exits went on answering until every lane's backbone was cut anew.
#[test]
fn exits_are_off_before_the_backbone_is_cut_anew() {
    let mut bench = Bench::new(heads(EVERYBODY, 0.0));
    bench.batch();
    assert_eq!(bench.answered(), (1, 0), "the exit answers");
    let policy = Policy { audit_rate: 0.0, ..some_policy() };
    let (off, lanes) = (Arc::new(heads_with(&[], &policy)), [Arc::clone(&bench.lane.handover)]);
    let bench = std::cell::RefCell::new(bench);
    let cut = bench.borrow().lane.flow.heads().exits().to_vec();
    let refused = hand_over(&lanes, &off, &cut, |_| {
        bench.borrow_mut().lane.adopt().expect("the echo never fails");
        Err("the backbone is being cut, and that takes a while")
    });
    assert!(refused.is_err());
    let mut bench = bench.into_inner();
    bench.batch();
    assert_eq!(bench.answered(), (1, 1), "nobody leaves early");
}

/// One test for a bug: while answers found no room, for a broker that was away, the lane gave no sign of life.
#[test]
fn a_lane_that_waits_for_room_shows_that_it_lives() {
    let mut client = ClientConfig::new();
    client.set("queue.buffering.max.messages", "1");
    let mut bench = Bench::with_client(heads(EVERYBODY, 0.0), &client);
    bench.batch();
    let (alarm, health) = (Arc::clone(&bench.alarm), Arc::clone(bench.lane.outbox.telemetry.health()));
    let queued = vec![bench.frame()];
    // It owes no sign of life until it gives one, and none is later than an hour from now.
    bench.lane.outbox.heartbeat.park();
    let (started, later) = (Instant::now(), Instant::now() + Duration::from_hours(1));
    let beaten = std::thread::spawn(move || {
        while health.live(later).ok && started.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        alarm.store(true, Ordering::Release);
        !health.live(later).ok
    });
    assert!(bench.lane.batch(queued).is_err(), "the answer was given up in the end");
    assert!(beaten.join().expect("no panic"), "no sign of life");
}
