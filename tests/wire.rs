//! Goal: what the released program wrote is read for as long as a fleet may hold some of its workers.
//! Method: bytes that the released program made, as files in `tests/wire/`: a sample of format 2, and of format 3 a head and
//! the policy that needs it. They are read, and say what they said. No program of today makes these files again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod learn_support;

use offramp::heads::snapshot::{RecordKind, record_key};
use offramp::heads::{Accepted, PolicyState, Registry, Scratch};
use offramp::learn::Sample;
use offramp::plan::ExitId;

#[test]
fn a_sample_of_format_2_is_read() {
    let plan = learn_support::plan(&[4, 4], 4);
    let sample = Sample::decode(&plan, include_bytes!("wire/sample-2.bin")).expect("a released program's");
    assert_eq!((sample.answer(), sample.camera(), sample.captured_at_ms()), (1, "front", Some(1_700_000_000_000)));
    assert!((sample.weight() - 2.0).abs() < 1e-6 && !sample.is_copy() && sample.frame().is_some());
    assert_eq!(sample.probabilities(), [(1, 0.7), (0, 0.1), (2, 0.1), (3, 0.1)]);
    let features =
        |exit| sample.features(exit).expect("both exits").iter().map(|value| value.to_f32()).collect::<Vec<_>>();
    assert_eq!([features(0), features(1)], [vec![0.5, -0.25, 8.0, 0.0], vec![1.0, 2.0, 3.0, 4.0]]);
}

#[test]
fn a_head_and_a_policy_of_format_3_are_read() {
    let plan = learn_support::World::new(11).plan();
    let mut registry = Registry::new(&plan, None);
    let head = record_key(&plan, RecordKind::Head(ExitId(2)));
    let stored =
        registry.accept(head.as_bytes(), Some(include_bytes!("wire/head-3.bin"))).expect("a released program's");
    assert!(matches!(stored, Accepted::Stored));
    let policy = record_key(&plan, RecordKind::Policy);
    let adopted =
        registry.accept(policy.as_bytes(), Some(include_bytes!("wire/policy-3.bin"))).expect("a released program's");
    let Accepted::Adopt(set) = adopted else { panic!("{adopted:?}") };
    let certificate = set.certificate().expect("its exit is certified");
    assert_eq!((set.exits(), set.version()), (&[ExitId(2)][..], 1));
    assert_eq!(registry.newest_policy().map(|(_, policy)| policy.state), Some(PolicyState::Certified));
    assert_eq!((certificate.n, certificate.disagreements), (528, 0));
    assert_eq!(set.threshold(0).get().to_bits(), 1_064_815_156);
    assert!((set.audit_rate() - 0.9).abs() < 1e-12 && set.reference().is_some());
    let verdict = set.head(0).judge(&[0.5; 16], &mut Scratch::default());
    assert_eq!(verdict.class, 0);
    // Sums are exact everywhere; the exponential of the softmax is the system's own.
    assert!((verdict.confidence.get() - 0.909_857_63).abs() < 1e-6, "{verdict:?}");
}
