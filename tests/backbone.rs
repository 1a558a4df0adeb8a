//! The backbone on the demo model: what is found in it, and that cutting changes no answer.
//!
//! Needs ONNX Runtime (`make runtime`); without it every test fails with the message that says so.
#![allow(clippy::panic, unreachable_pub, reason = "a test's helpers fail like the test")]

use std::path::{Path, PathBuf};

#[path = "common/engine.rs"]
mod engine;

use engine::{assert_close, frames, run_through};
use offramp::backbone::{Audited, Backbone, BackboneError, Chain, LoadOptions};
use offramp::cascade::{Auditor, Segments, StepOutput, due};
use offramp::frame::Channels;
use offramp::plan::ExitId;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

fn load(path: &Path) -> Backbone {
    Backbone::load(path, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-resnet18")
}

/// Goal: the demo model's block ends are found. Method: look at the plan.
#[test]
fn finds_the_blocks_of_the_demo_model() {
    let backbone = load(&demo());
    let plan = backbone.plan();
    assert_eq!(plan.classes(), 10);
    assert_eq!(plan.labels.first().map(String::as_str), Some("T-shirt/top"));
    assert_eq!((plan.input.width, plan.input.height, plan.input.channels), (28, 28, Channels::Gray));
    assert!((7..=8).contains(&plan.candidates.len()), "{:#?}", plan.candidates);
    assert!(plan.candidates.is_sorted_by(|a, b| a.flops_fraction < b.flops_fraction));
    assert!(plan.feature_widths().iter().all(|width| (64..=1024).contains(width)), "{:?}", plan.feature_widths());
    let macs = plan.flops as f64 / 2.0;
    assert!((macs / 28.6e6 - 1.0).abs() < 0.02, "28.6 M MACs by hand, found {macs}");
}

/// Goal: two loads agree on who they are, and another file is another backbone.
#[test]
fn fingerprints_are_stable() {
    let (first, second) = (load(&demo()), load(&demo().join("backbone.onnx")));
    assert_eq!(first.plan().backbone, second.plan().backbone);
    assert_eq!(first.plan().plan, load(&demo()).plan().plan);
}

/// Goal: the auditor's features and answers are the cut chain's.
#[test]
fn auditor_sees_what_the_chain_sees() {
    let backbone = load(&demo());
    let all: Vec<ExitId> = backbone.plan().candidates.iter().map(|point| point.exit).collect();
    let input = frames(5, backbone.plan().input.len(), 7);
    let mut chain = backbone.chain(&all).unwrap_or_else(|error| panic!("{error}"));
    let (features, probabilities) = run_through(&mut chain, &input, 5);
    let mut auditor = backbone.auditor().unwrap_or_else(|error| panic!("{error}"));
    auditor.load(5).copy_from_slice(&input);
    let audit = auditor.run(5).unwrap_or_else(|error| panic!("{error}"));
    assert_close(audit.probabilities, &probabilities, 1e-4, "probabilities");
    assert_eq!(audit.features.len(), features.len());
    for (at, (audit, chain)) in audit.features.iter().zip(&features).enumerate() {
        assert_eq!(audit.len(), 5 * backbone.plan().feature_widths()[at]);
        assert_close(audit, chain, 1e-4, "features");
    }
    for row in probabilities.chunks_exact(10) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "probabilities add up to one");
    }
}

/// Goal: the cost table has a sane entry for every part.
#[test]
fn measures_every_part() {
    let mut backbone = load(&demo());
    let costs = backbone.measure(|width, _| width as f64 * 1e-6).unwrap_or_else(|error| panic!("{error}"));
    let candidates = backbone.plan().candidates.len();
    assert_eq!(costs.piece_ms.len(), candidates + 1);
    assert_eq!((costs.cut_ms.len(), costs.head_ms.len()), (candidates, candidates));
    assert!(costs.piece_ms.iter().chain(&costs.head_ms).all(|ms| ms.is_finite() && *ms > 0.0), "{costs:?}");
    assert!((costs.piece_ms.iter().sum::<f64>() / costs.whole_ms - 1.0).abs() < 1e-6);
}

/// Goal: both ways to use two cores are run, and what was loaded for more threads answers alike.
#[test]
fn lanes_are_measured_both_ways() {
    let backbone = load(&demo());
    let rates = backbone.lane_rates(2).unwrap_or_else(|error| panic!("{error}"));
    assert!(rates.many > 0.0 && rates.one > 0.0, "{rates:?}");
    let input = frames(3, backbone.plan().input.len(), 5);
    let answers = |backbone: &Backbone| {
        let mut chain = backbone.chain(&[ExitId(3)]).unwrap_or_else(|error| panic!("{error}"));
        run_through(&mut chain, &input, 3).1
    };
    assert_close(&answers(&backbone.with_threads(2)), &answers(&backbone), 1e-4, "two threads");
}

/// Goal: lanes may own chains on threads of their own and share the backbone. Method: the compiler's.
#[test]
fn parts_may_cross_threads() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    send::<Chain>();
    send::<Audited>();
    shared::<Backbone>();
}

/// Goal: asking for exits that are not there is an error, not a crash.
#[test]
fn refuses_unknown_exits() {
    let backbone = load(&demo());
    for asked in [vec![ExitId(0)], vec![ExitId(200)], vec![ExitId(2), ExitId(1)], vec![ExitId(1), ExitId(1)]] {
        assert!(matches!(backbone.chain(&asked), Err(BackboneError::Exits { .. })), "{asked:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Goal: rows that travel on answer as if they were alone in an uncut model, whatever the cuts, whoever leaves, and however
    /// many rows run at a time. Method: random cuts, parts and leavers, against the uncut model row by row.
    #[test]
    fn a_row_in_a_batch_is_the_row_alone(
        exits in subsequence((1..=7u8).collect::<Vec<_>>(), 0..=4),
        rows in 1usize..17,
        parts in prop::collection::vec(1usize..9, 5),
        seed in 1u32..1000,
        leave in prop::collection::vec(any::<Index>(), 4),
    ) {
        let backbone = load(&demo());
        let length = backbone.plan().input.len();
        let exits: Vec<ExitId> = exits.into_iter().map(ExitId).collect();
        let input = frames(rows, length, seed);
        let mut whole = backbone.uncut().unwrap_or_else(|error| panic!("{error}"));
        let alone: Vec<Vec<f32>> =
            input.chunks_exact(length).map(|frame| run_through(&mut whole, frame, 1).1).collect();

        let mut chain = backbone.chain(&exits).unwrap_or_else(|error| panic!("{error}"));
        chain.load(rows).copy_from_slice(&input);
        let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); exits.len() + 1];
        waiting[0] = (0..rows).collect();
        let mut ended = 0;
        while let Some((segment, count)) =
            due(waiting.iter().map(Vec::len), |segment| parts[segment], |_| true)
        {
            let mut ran: Vec<usize> = waiting[segment].drain(..count).collect();
            match chain.run(segment, count).unwrap_or_else(|error| panic!("{error}")) {
                StepOutput::Features(features) => {
                    prop_assert_eq!(features.len(), count * backbone.plan().feature_widths()[exits[segment].index()]);
                    let gone = leave[segment].index(count);
                    let keep: Vec<usize> = (0..count).filter(|&at| at != gone).collect();
                    chain.compact(segment, &keep);
                    ran.remove(gone);
                    waiting[segment + 1].extend(ran);
                }
                StepOutput::Probabilities(values) => {
                    for (row, values) in ran.iter().zip(values.chunks_exact(10)) {
                        assert_close(values, &alone[*row], 1e-4, "a row that travelled");
                        ended += 1;
                    }
                }
            }
        }
        prop_assert!(!exits.is_empty() || ended == rows);
    }
}
