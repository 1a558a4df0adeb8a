//! A flow between vectors: an engine that passes rows on, and an outlet that collects.

use proptest::prelude::*;

use super::*;
use crate::cascade::tests::{CLASSES, Echo, WIDTH, heads_with};
use crate::decode::DecodeLimits;
use crate::frame::{Channels, InputSpec, Layout, Origin, Resize};
use crate::heads::Policy;
use crate::heads::set::tests::some_policy;
use crate::plan::{ExitPoint, Fingerprint};

const MAX_BATCH: usize = 4;
const OVERTAKEN_MAX: usize = 3;
/// A threshold that no head reaches.
pub(crate) const NOBODY: f32 = 1.0;
/// A threshold that every head reaches.
pub(crate) const EVERYBODY: f32 = 0.01;
const SEED: u64 = 1;

/// One exit after half of the FLOPs.
pub(crate) fn plan() -> Plan {
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

pub(crate) fn heads(threshold: f32, audit_rate: f64) -> Arc<HeadSet> {
    Arc::new(heads_with(&[threshold], &Policy { audit_rate, ..some_policy() }))
}

pub(crate) fn parts(heads: Arc<HeadSet>) -> Parts<Echo, Echo> {
    let plan = Arc::new(plan());
    let echo = || Echo::cut_at(&[ExitId(1)]);
    let limits = DecodeLimits { max_bytes: 1 << 10, max_pixels: 1 << 10 };
    let decoder = Decoder::new(plan.input.clone(), limits);
    Parts { plan, decoder, segments: echo(), auditor: Some(echo()), heads }
}

pub(crate) fn options(copies: u8) -> FlowOptions {
    FlowOptions { max_batch: MAX_BATCH, overtaken_max: OVERTAKEN_MAX, seed: SEED, copies }
}

/// A frame whose bytes are the backbone's input.
pub(crate) fn frame(offset: i64, row: &[f32]) -> RawFrame {
    let content_type = format!("application/x-raw; dtype=f32; shape=1x{WIDTH}x1");
    RawFrame {
        origin: Origin { topic: "frames".into(), partition: 0, offset },
        key: Some(b"door".to_vec()),
        payload: row.iter().flat_map(|value| value.to_le_bytes()).collect(),
        captured_at_ms: Some(offset),
        headers: vec![("content-type".into(), Some(content_type.into_bytes()))],
        headers_left_out: 0,
    }
}

/// What came out of a flow, by the number that a frame was sent with.
#[derive(Debug, Default, PartialEq)]
struct Collected {
    answers: Vec<(usize, cascade::Answer, Option<AuditNote>)>,
    rejected: Vec<(usize, RejectReason)>,
    samples: Vec<Sample>,
    copied: Vec<i64>,
    flops: u64,
    parts: Vec<(Part, bool)>,
    /// Answers that are taken before one is refused.
    room: Option<usize>,
}

impl Outlet<usize> for Collected {
    type Error = &'static str;

    fn answer(&mut self, entered: Entered<usize>, answered: &Answered<'_>) -> Result<(), Self::Error> {
        if self.room == Some(self.answers.len()) {
            return Err("full");
        }
        assert_eq!(entered.camera, "door");
        self.answers.push((entered.carried, answered.answer, answered.note.cloned()));
        self.flops += answered.flops;
        Ok(())
    }

    fn reject(&mut self, entered: Entered<usize>, why: &Rejection, flops: u64) -> Result<(), Self::Error> {
        self.rejected.push((entered.carried, why.reason()));
        self.flops += flops;
        Ok(())
    }

    fn sample(&mut self, sample: Result<Sample, SampleRejection>) {
        self.samples.push(sample.expect("numbers that fit"));
    }

    fn copied(&mut self, of: &Subject, flops: u64) {
        self.copied.push(of.origin.offset);
        self.flops += flops;
    }

    fn begins(&mut self, part: Part) {
        self.parts.push((part, true));
    }

    fn ends(&mut self, part: Part) {
        self.parts.push((part, false));
    }
}

type Bench = Flow<usize, Echo, Echo>;

/// What is played: rows, and among them frames that cannot be decoded and frames to which the model gives no number.
#[derive(Debug, Clone)]
enum Sent {
    Row([f32; WIDTH]),
    Broken,
    Unanswerable,
}

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    let row = prop::array::uniform(0.0..1.0_f32).prop_map(Sent::Row);
    prop::collection::vec(prop_oneof![8 => row, 1 => Just(Sent::Broken), 1 => Just(Sent::Unanswerable)], 1..40)
}

/// Plays frames in batches, each with the one behind it waiting, and then the rest.
fn play(flow: &mut Bench, sent: &[Sent], batch: usize) -> Collected {
    let mut out = Collected::default();
    let numbers: Vec<usize> = (0..sent.len()).collect();
    for some in numbers.chunks(batch) {
        let incoming = some.iter().map(|number| {
            let row = match &sent[*number] {
                Sent::Row(row) => row.as_slice(),
                Sent::Broken => &[0.0; 2],
                Sent::Unanswerable => &[f32::MAX; WIDTH],
            };
            Incoming { frame: frame(*number as i64, row), carried: *number }
        });
        let behind = sent.len() - some[some.len() - 1] - 1;
        flow.batch(incoming.collect(), &|| behind.min(MAX_BATCH), &mut out).expect("the echo never fails");
    }
    flow.flush(&mut out).expect("the echo never fails");
    assert!(flow.is_empty());
    out
}

proptest! {
    /// Goal: every frame comes out once, as it would alone; it is audited if and only if it was drawn; audited ones make one
    /// sample, and one for each copy; every FLOP of frames and copies is counted once.
    #[test]
    fn every_frame_comes_out_once(
        sent in sent(), batch in 1..=MAX_BATCH, rate in 0.0..=1.0_f64, threshold in 0.34..1.0_f32, copies in 0..3_u8,
    ) {
        let policy = Policy { audit_rate: rate, copies: 2, ..some_policy() };
        let heads = Arc::new(heads_with(&[threshold], &policy));
        let mut out = play(&mut Flow::new(parts(Arc::clone(&heads)), options(copies)), &sent, batch);
        let mut numbers: Vec<usize> = out.answers.iter().map(|(number, ..)| *number).collect();
        numbers.extend(out.rejected.iter().map(|(number, _)| *number));
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..sent.len()).collect::<Vec<_>>());

        let drawn = |number: usize| draw(&frame(number as i64, &[]).origin, SEED) < rate;
        let (mut flops, mut audits) = (0, 0);
        out.answers.sort_by_key(|(number, ..)| *number);
        let head = heads.head(0).flops();
        let served = Arc::new(heads_with(&[threshold], &Policy { audit_rate: 0.0, ..policy }));
        for (number, answer, note) in &out.answers {
            let mut alone = Flow::new(parts(Arc::clone(&served)), options(0));
            let alone = play(&mut alone, std::slice::from_ref(&sent[*number]), 1);
            prop_assert_eq!(note.is_some(), drawn(*number));
            match note {
                None => prop_assert_eq!(*answer, alone.answers[0].1),
                Some(note) => prop_assert_eq!((answer.exit, note.exit), (None, alone.answers[0].1.exit)),
            }
            audits += usize::from(note.is_some());
            flops += if answer.exit.is_some() { 500 + head } else { 1_000 + head };
        }
        for (number, reason) in &out.rejected {
            let broken = matches!(sent[*number], Sent::Broken);
            prop_assert_eq!(*reason, if broken { RejectReason::BadTensor } else { RejectReason::BadOutput });
            flops += if broken { 0 } else { 1_000 + head };
        }
        // Frames without an answer are copied with the others, and teach nothing.
        let copied = out.copied.len();
        prop_assert_eq!(out.samples.iter().filter(|sample| !sample.is_copy()).count(), audits);
        prop_assert_eq!(out.samples.iter().filter(|sample| sample.is_copy()).count(), audits * usize::from(copies));
        prop_assert_eq!(out.flops, flops + 1_000 * copied as u64);
        prop_assert!(out.samples.iter().all(|sample| (f64::from(sample.weight()) * rate - 1.0).abs() < 1e-5));
        prop_assert!(out.parts.chunks(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 && !pair[1].1));
    }
}

/// One test for a bug: with every frame audited, rows behind an exit waited for ever, and their partitions with them.
#[test]
fn rows_behind_an_exit_go_on_though_every_frame_is_audited() {
    let (mut flow, mut out) = (Bench::new(parts(heads(NOBODY, 0.0)), options(0)), Collected::default());
    let mut offset = 0;
    let mut batch = |flow: &mut Bench, out: &mut Collected| {
        offset += 1;
        let incoming = vec![Incoming { frame: frame(offset, &[0.8, 0.1, 0.1, 0.1, 0.1, 0.1]), carried: 0 }];
        flow.batch(incoming, &|| 1, out).expect("the echo never fails");
    };
    batch(&mut flow, &mut out);
    assert_eq!((flow.is_empty(), out.answers.len()), (false, 0), "the row waits for more rows");
    flow.heads = heads(NOBODY, 1.0);
    (0..=OVERTAKEN_MAX).for_each(|_| batch(&mut flow, &mut out));
    assert!(flow.is_empty(), "overtaken often enough");
    assert_eq!(out.answers.len(), OVERTAKEN_MAX + 2);
    assert!(out.answers.iter().all(|(_, answer, _)| answer.exit.is_none()));
}

/// Goal: frames do not wait for copies of others.
#[test]
fn copies_are_not_made_while_the_input_lags() {
    let policy = Policy { audit_rate: 1.0, copies: 2, ..some_policy() };
    let mut flow = Bench::new(parts(Arc::new(heads_with(&[NOBODY], &policy))), options(2));
    for (waiting, copied) in [(MAX_BATCH, 2), (MAX_BATCH + 1, 0)] {
        let mut out = Collected::default();
        let incoming = vec![Incoming { frame: frame(1, &[0.8, 0.1, 0.1, 0.1, 0.1, 0.1]), carried: 0 }];
        flow.batch(incoming, &|| waiting, &mut out).expect("the echo never fails");
        assert_eq!((out.answers.len(), out.samples.len(), out.copied.len()), (1, 1 + copied, copied));
    }
}

/// Goal: where nothing learns nothing is audited. Method: a policy that would have every frame audited.
#[test]
fn without_an_auditor_no_frame_is_audited() {
    let parts = Parts { auditor: None, ..parts(heads(EVERYBODY, 1.0)) };
    let out = play(&mut Flow::new(parts, options(2)), &vec![Sent::Row([0.5; WIDTH]); 9], MAX_BATCH);
    assert_eq!((out.answers.len(), out.samples.len()), (9, 0));
    assert!(out.answers.iter().all(|(_, answer, note)| answer.exit == Some(ExitId(1)) && note.is_none()));
}

/// Goal: after a failure of the outlet nothing more is given out. Method: an outlet with room for one answer, for served and
/// for audited frames.
#[test]
fn a_flow_whose_outlet_fails_gives_nothing_more_out() {
    for rate in [0.0, 1.0] {
        let mut flow = Bench::new(parts(heads(EVERYBODY, rate)), options(2));
        let mut out = Collected { room: Some(1), ..Collected::default() };
        let incoming = |offset| Incoming { frame: frame(offset, &[0.5; WIDTH]), carried: 0 };
        let failed = flow.batch((0..3).map(incoming).collect(), &|| 0, &mut out);
        assert!(matches!(failed, Err(FlowError::Outlet("full"))), "{failed:?}");
        assert_eq!((out.answers.len(), out.copied.len()), (1, 0));
    }
}

/// Goal: a policy without exits lets not even those rows out that wait behind an exit for the next one.
#[test]
fn rows_on_their_way_go_to_the_end_when_exits_go_off() {
    let policy = Policy { audit_rate: 0.0, ..some_policy() };
    let two = Arc::new(heads_with(&[NOBODY, EVERYBODY], &policy));
    let cut = Echo::cut_at(two.exits());
    let mut flow = Bench::new(Parts { segments: cut, ..parts(Arc::clone(&two)) }, options(0));
    let mut out = Collected::default();
    let incoming = Incoming { frame: frame(1, &[0.5; WIDTH]), carried: 0 };
    flow.batch(vec![incoming], &|| 1, &mut out).expect("the echo never fails");
    assert!(!flow.is_empty());
    flow.adopt(Arc::new(heads_with(&[], &policy)), None, &mut out).expect("the echo never fails");
    assert!(flow.is_empty());
    assert!(matches!(out.answers.as_slice(), [(0, cascade::Answer { exit: None, .. }, None)]), "{out:?}");
}
