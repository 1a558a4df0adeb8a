//! Goal: no sample that is not sound reaches the window, each refusal has its word, and what is sound survives the wire
//! bit for bit. Method: a sound sample, damaged in every way; properties over random ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::let_underscore_must_use,
    clippy::float_cmp,
    reason = "a test fails by panicking"
)]

mod learn_support;

use learn_support::{World, costs, plan, quick};
use offramp::frame::Origin;
use offramp::heads::LEAST_AUDIT_RATE;
use offramp::learn::{Learner, Sample, SampleRejection, Unpaced};
use offramp::plan::{Fingerprint, Plan};
use proptest::prelude::*;

fn origin(offset: i64) -> Origin {
    Origin { topic: "frames".into(), partition: 0, offset }
}

fn sample(plan: &Plan, captured_at_ms: Option<i64>) -> Sample {
    let (a, b) = ([0.5f32; 12], [0.25f32; 16]);
    Sample::from_audit(plan, &[&a, &b], &[0.1, 0.7, 0.1, 0.1], "cam", captured_at_ms, 2.0, false).expect("sound")
}

fn word(result: Result<(), SampleRejection>) -> &'static str {
    result.map_or_else(|why| why.as_str(), |()| "taken")
}

proptest! {
    #[test]
    fn a_sound_sample_survives_the_wire(
        features in prop::collection::vec(-6e4f32..6e4, 28),
        raw in prop::collection::vec(0.001f32..1.0, 4),
        camera in ".{0,40}",
        at in prop::option::of(0i64..7_000_000_000_000),
        copy in any::<bool>(),
        offset in prop::option::of(any::<i64>()),
    ) {
        let plan = plan(&[12, 16], 4);
        let sum: f32 = raw.iter().sum();
        let probabilities: Vec<f32> = raw.iter().map(|p| p / sum).collect();
        let (a, b) = features.split_at(12);
        let mut sample = Sample::from_audit(&plan, &[a, b], &probabilities, &camera, at, 1.5, copy).expect("sound");
        if let Some(offset) = offset {
            sample = sample.with_origin(&origin(offset));
        }
        let decoded = Sample::decode(&plan, &sample.encode(&plan).expect("small")).expect("our own");
        prop_assert_eq!(&decoded, &sample);
        let best = probabilities.iter().copied().fold(0.0, f32::max);
        prop_assert_eq!(probabilities[decoded.answer()], best);
    }

    #[test]
    fn damaged_bytes_never_panic(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let plan = plan(&[12, 16], 4);
        let good = sample(&plan, Some(1)).encode(&plan).expect("small");
        let mut broken = good.clone();
        let index = at.index(broken.len());
        broken[index] ^= 1 << bit;
        let _ = Sample::decode(&plan, &broken);
        prop_assert!(Sample::decode(&plan, &good[..cut.index(good.len())]).is_err());
    }
}

#[test]
fn unsound_audits_are_refused() {
    let plan = plan(&[12, 16], 4);
    let (a, b) = ([0.5f32; 12], [0.25f32; 16]);
    let even = [0.25f32; 4];
    let try_with = |features: &[&[f32]], probabilities: &[f32], at, weight| {
        word(Sample::from_audit(&plan, features, probabilities, "cam", at, weight, false).map(|_| ()))
    };
    let nan = [f32::NAN; 12];
    let huge = [1e6f32; 12];
    assert_eq!(try_with(&[&a, &b], &even, None, 1.0), "taken");
    assert_eq!(try_with(&[&nan, &b], &even, None, 1.0), "number");
    assert_eq!(try_with(&[&huge, &b], &even, None, 1.0), "number");
    assert_eq!(try_with(&[&a, &a], &even, None, 1.0), "width");
    assert_eq!(try_with(&[&a], &even, None, 1.0), "width");
    assert_eq!(try_with(&[&a, &b, &b], &even, None, 1.0), "other-plan");
    assert_eq!(try_with(&[&a, &b], &[0.5, 0.5], None, 1.0), "class");
    assert_eq!(try_with(&[&a, &b], &[f32::NAN, 0.5, 0.2, 0.3], None, 1.0), "number");
    assert_eq!(try_with(&[&a, &b], &[-0.5, 0.5, 0.5, 0.5], None, 1.0), "number");
    assert_eq!(try_with(&[&a, &b], &[0.0; 4], None, 1.0), "number");
    assert_eq!(try_with(&[&a, &b], &even, Some(-5), 1.0), "clock");
    assert_eq!(try_with(&[&a, &b], &even, Some(i64::MAX), 1.0), "clock");
    assert_eq!(try_with(&[&a, &b], &even, None, f32::INFINITY), "number");
    // One test for a bug: one forged weight of a billion frames alarmed at once.
    assert_eq!(try_with(&[&a, &b], &even, None, 1e9), "number");
    assert_eq!(try_with(&[&a, &b], &even, None, 0.5), "number");
    assert_eq!(try_with(&[&a, &b], &even, None, (1.0 / LEAST_AUDIT_RATE) as f32), "taken");
}

#[test]
fn samples_of_other_plans_are_refused() {
    let ours = plan(&[12, 16], 4);
    let bytes = sample(&ours, None).encode(&ours).expect("small");
    let decode = |plan: &Plan| word(Sample::decode(plan, &bytes).map(|_| ()));
    assert_eq!(decode(&ours), "taken");
    assert_eq!(decode(&Plan { backbone: Fingerprint([1; 32]), ..ours.clone() }), "other-plan");
    assert_eq!(decode(&Plan { plan: Fingerprint([1; 32]), ..ours.clone() }), "other-plan");
    // A forged fingerprint does not help: widths and classes are checked too.
    assert_eq!(decode(&plan(&[12, 17], 4)), "width");
    assert_eq!(decode(&plan(&[12, 16], 1)), "class");
    assert_eq!(word(Sample::decode(&ours, b"{}").map(|_| ())), "malformed");
}

#[test]
fn the_log_is_read_once_and_clocks_may_not_jump() {
    let plan = plan(&[12, 16], 4);
    let mut learner = Learner::new(&plan, costs(2), quick());
    let hour = 3_600_000;
    let start = 1_700_000_000_000;
    let mut observe =
        |position, at, frame| word(learner.observe(sample(&plan, Some(at)).with_origin(&origin(frame)), position));
    assert_eq!(observe(5, start, 1), "taken");
    assert_eq!(observe(5, start, 2), "replayed");
    assert_eq!(observe(4, start, 3), "replayed");
    assert_eq!(observe(6, start, 1), "duplicate");
    assert_eq!(observe(7, start - 2 * hour, 4), "clock");
    assert_eq!(observe(8, start - 2 * hour + 40, 5), "taken");
    assert_eq!(observe(9, start + 1000 * 24 * hour, 6), "clock");
    assert_eq!(observe(10, start + 1000 * 24 * hour + 40, 7), "taken");
    assert_eq!(learner.status().audits, 3);
}

/// Goal: with an interval set, frames of one camera close in time train and do not certify.
#[test]
fn close_frames_of_a_camera_are_one_trial() {
    let mut world = World::new(21);
    let plan = world.plan();
    let mut run = |step_ms: i64| {
        let mut learner =
            Learner::new(&plan, costs(2), offramp::learn::LearnConfig { camera_interval_ms: 100, ..quick() });
        for position in 0..1500i64 {
            let frame = world.frame(0.0);
            let rows = frame.rows();
            let at = Some(1_700_000_000_000 + position * step_ms);
            let sample = Sample::from_audit(&plan, &rows, &frame.probabilities, "cam", at, 1.0, false).expect("sound");
            learner.observe(sample, position).expect("sound");
            let _ = learner.work(&mut Unpaced);
        }
        learner.status().exits
    };
    assert!(run(200) > 0, "far enough apart: all 1,200 certify");
    assert_eq!(run(20), 0, "one in five certifies: 240 are too few");
}

#[test]
fn copies_never_certify() {
    let mut world = World::new(22);
    let plan = world.plan();
    let mut learner = Learner::new(&plan, costs(2), quick());
    for position in 0..3000i64 {
        let frame = world.frame(0.0);
        let copy = position >= 300;
        let sample =
            Sample::from_audit(&plan, &frame.rows(), &frame.probabilities, "cam", None, 1.0, copy).expect("sound");
        learner.observe(sample, position).expect("sound");
        assert!(learner.work(&mut Unpaced).is_none());
    }
    let status = learner.status();
    assert_eq!((status.audits, status.exits), (300, 0));
    assert!(status.why.ends_with("has 0"), "{status:?}");
}
