use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientConfig;

use super::*;
use crate::cascade::tests::{CLASSES, Echo, WIDTH, heads_with};
use crate::decode::DecodeLimits;
use crate::frame::{Channels, InputSpec, Layout, Origin, RawFrame, Resize};
use crate::heads::Policy;
use crate::heads::set::tests::some_policy;
use crate::ingest::{Ledger, Taken};
use crate::plan::{ExitId, ExitPoint, Fingerprint};
use crate::publish::Outputs;

const MAX_BATCH: usize = 4;
const OVERTAKEN_MAX: usize = 3;
/// A threshold that no head reaches.
const NOBODY: f32 = 1.0;
/// A threshold that every head reaches.
const EVERYBODY: f32 = 0.01;

fn plan() -> Plan {
    let point = ExitPoint {
        exit: ExitId(1),
        tensor: "block1".into(),
        flops_fraction: 0.5,
        feature_width: WIDTH,
        head_flops: 10,
    };
    let input = InputSpec {
        width: WIDTH,
        height: 1,
        channels: Channels::Gray,
        layout: Layout::Nchw,
        scale: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
        resize: Resize::Stretch,
        mirror: false,
    };
    Plan {
        backbone: Fingerprint([7; 32]),
        plan: Fingerprint([9; 32]),
        input,
        labels: (0..CLASSES).map(|class| format!("class-{class}")).collect(),
        candidates: vec![point],
        flops: 1_000,
    }
}

fn heads(threshold: f32, audit_rate: f64) -> Arc<HeadSet> {
    Arc::new(heads_with(&[threshold], &Policy { audit_rate, ..some_policy() }))
}

/// A lane on an engine that passes rows on, whose answers nobody takes, and the way to its inbox.
struct Bench {
    lane: Lane<Echo, Echo>,
    work: Work,
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
        let plan = Arc::new(plan());
        let telemetry = Arc::new(Telemetry::new("lane", &plan).expect("metrics"));
        let outputs = Outputs { predictions: "p".into(), dead_letters: "d".into(), worker: "lane".into() };
        let alarm = Arc::default();
        let publisher =
            Publisher::new(client, outputs, Arc::clone(&alarm), Arc::clone(&telemetry)).expect("a producer");
        let samples = SampleSink::new(client, "s", Arc::clone(&telemetry)).expect("a producer");
        let (frames, inbox) = crossbeam_channel::bounded(64);
        let echo = || Echo::cut_at(&[ExitId(1)]);
        let lane = Lane {
            inbox,
            decoder: Decoder::new(plan.input.clone(), DecodeLimits { max_bytes: 1 << 10, max_pixels: 1 << 10 }),
            plan,
            segments: echo(),
            auditor: echo(),
            heads,
            handover: Arc::default(),
            publisher: Arc::new(publisher),
            samples: Some(Arc::new(samples)),
            heartbeat: telemetry.heartbeat("lane"),
            telemetry,
            options: LaneOptions { max_batch: MAX_BATCH, overtaken_max: OVERTAKEN_MAX, seed: 1, copies: 0 },
        };
        let mind = Mind { scratch: Scratch::default(), suspicion: Suspicion::new(SUSPICION_WINDOW) };
        let ledger = Ledger::default();
        ledger.assign(0);
        let work = Work { mind, cascade: Cascade::new(MAX_BATCH, OVERTAKEN_MAX) };
        Self { lane, work, frames, ledger, alarm, offset: 0 }
    }

    fn frame(&mut self) -> Queued {
        self.offset += 1;
        let row: [f32; WIDTH] = std::array::from_fn(|at| if at == 0 { 0.8 } else { 0.1 });
        let content_type = format!("application/x-raw; dtype=f32; shape=1x{WIDTH}x1");
        let frame = RawFrame {
            origin: Origin { topic: "frames".into(), partition: 0, offset: self.offset },
            key: None,
            payload: row.iter().flat_map(|value| value.to_le_bytes()).collect(),
            captured_at_ms: None,
            headers: vec![("content-type".into(), Some(content_type.into_bytes()))],
            headers_left_out: 0,
        };
        let ticket = self.ledger.take(0, self.offset, 0).expect("ours");
        Queued::new(Taken { frame, ticket, arrived: Instant::now() }, &self.lane.telemetry)
    }

    /// One batch, while another frame waits.
    fn batch(&mut self) {
        let taken = vec![self.frame()];
        if self.lane.inbox.is_empty() {
            let next = self.frame();
            self.frames.send(next).expect("room");
        }
        self.lane.batch(taken, &mut self.work).expect("the echo never fails");
    }

    fn answered(&self) -> (u64, u64) {
        let totals = self.lane.telemetry.metrics().totals();
        (totals.early(), totals.full)
    }
}

/// One test for a bug: with every frame audited, rows behind an exit waited for ever, and their partitions with them.
#[test]
fn rows_behind_an_exit_go_on_though_every_frame_is_audited() {
    let mut bench = Bench::new(heads(NOBODY, 0.0));
    bench.batch();
    assert_eq!((bench.work.cascade.is_empty(), bench.answered()), (false, (0, 0)), "the row waits for company");
    bench.lane.heads = heads(NOBODY, 1.0);
    (0..=OVERTAKEN_MAX).for_each(|_| bench.batch());
    assert!(bench.work.cascade.is_empty(), "overtaken often enough");
    assert_eq!(bench.answered(), (0, OVERTAKEN_MAX as u64 + 2));
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
    let cut = bench.borrow().lane.heads.exits().to_vec();
    let refused = hand_over(&lanes, &off, &cut, |_| {
        let Bench { lane, work, .. } = &mut *bench.borrow_mut();
        lane.adopt(work).expect("the echo never fails");
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
    let (alarm, health) = (Arc::clone(&bench.alarm), Arc::clone(bench.lane.telemetry.health()));
    let queued = vec![bench.frame()];
    // It owes no sign of life until it gives one, and none is later than an hour from now.
    bench.lane.heartbeat.park();
    let (started, later) = (Instant::now(), Instant::now() + Duration::from_hours(1));
    let beaten = std::thread::spawn(move || {
        while health.live(later).ok && started.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        alarm.store(true, Ordering::Release);
        !health.live(later).ok
    });
    assert!(bench.lane.batch(queued, &mut bench.work).is_err(), "the answer was given up in the end");
    assert!(beaten.join().expect("no panic"), "no sign of life");
}
