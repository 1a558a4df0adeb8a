//! The backbone on tiny models of every make (`tests/models/make.py`, and `export.py` for those of real exporters), and on
//! what is no usable model.
//!
//! Needs ONNX Runtime (`make runtime`); without it every test fails with the message that says so.
#![allow(clippy::panic, unreachable_pub, reason = "a test's helpers fail like the test")]

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

#[path = "common/engine.rs"]
mod engine;

use engine::{assert_close, frames, run_through};
use offramp::backbone::{Backbone, LoadOptions, SplitChoice};
use offramp::cascade::{Auditor, Segments};
use offramp::frame::Layout;
use offramp::plan::ExitId;
use proptest::prelude::*;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

fn refusal(path: &Path) -> String {
    match Backbone::load(path, &LoadOptions::default()) {
        Ok(_) => panic!("{} must be refused", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Goal: cut points are found in every kind of body, and cutting there changes no answer, batched or alone.
/// Method: both ways to cut; at all candidates, at the first and at the last; audit; against the uncut model row by row.
fn cuts_cleanly(name: &str, candidates: RangeInclusive<usize>, tolerance: f32) -> Backbone {
    cuts_cleanly_by(SplitChoice::Plain, name, &candidates, tolerance);
    cuts_cleanly_by(SplitChoice::Optimised, name, &candidates, tolerance)
}

fn cuts_cleanly_by(split: SplitChoice, name: &str, candidates: &RangeInclusive<usize>, tolerance: f32) -> Backbone {
    const ROWS: usize = 5;
    let options = LoadOptions { split, ..LoadOptions::default() };
    let path = models().join(format!("{name}.onnx"));
    let backbone = Backbone::load(&path, &options).unwrap_or_else(|error| panic!("{error}"));
    if split == SplitChoice::Optimised && !backbone.plan().candidates.is_empty() {
        assert_eq!(backbone.engine(), "cut after optimisation", "{name}");
    }
    let plan = backbone.plan();
    let exits: Vec<ExitId> = plan.candidates.iter().map(|point| point.exit).collect();
    assert!(candidates.contains(&exits.len()), "{name}: {:#?}", plan.candidates);
    assert_eq!(plan.classes(), 5, "{name}");
    let length = plan.input.len();
    let input = frames(ROWS, length, 3);
    let mut whole = backbone.uncut().unwrap_or_else(|error| panic!("{name}: {error}"));
    let alone: Vec<f32> = input.chunks_exact(length).flat_map(|frame| run_through(&mut whole, frame, 1).1).collect();
    let close = |a: &[f32], b: &[f32], what: &str| assert_close(a, b, tolerance, &format!("{name}: {what}"));
    let mut seen = Vec::new();
    for some in [exits.clone(), exits.iter().take(1).copied().collect(), exits.last().copied().into_iter().collect()] {
        let mut chain = backbone.chain(&some).unwrap_or_else(|error| panic!("{name} at {some:?}: {error}"));
        let (features, answers) = run_through(&mut chain, &input, ROWS);
        close(&answers, &alone, "cut and batched");
        if some == exits {
            seen = features;
        }
        // Rows 0, 2 and 4 go on, and wait for 1 and 3.
        if !some.is_empty() {
            chain.load(ROWS).copy_from_slice(&input);
            chain.run(0, ROWS).unwrap_or_else(|error| panic!("{name}: {error}"));
            chain.compact(0, &[0, 2, 4]);
            let order = [0, 2, 4, 1, 3];
            let late: Vec<f32> = [1, 3].iter().flat_map(|row| input[row * length..][..length].to_vec()).collect();
            chain.load(2).copy_from_slice(&late);
            chain.run(0, 2).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut rest = Vec::new();
            for segment in 1..=some.len() {
                match chain.run(segment, order.len()).unwrap_or_else(|error| panic!("{name}: {error}")) {
                    offramp::cascade::StepOutput::Probabilities(values) => rest = values.to_vec(),
                    offramp::cascade::StepOutput::Features(_) => {}
                }
            }
            let wanted: Vec<f32> = order.iter().flat_map(|row| alone[row * 5..(row + 1) * 5].to_vec()).collect();
            close(&rest, &wanted, "compacted and put together");
        }
    }
    let mut auditor = backbone.auditor().unwrap_or_else(|error| panic!("{name}: {error}"));
    auditor.load(ROWS).copy_from_slice(&input);
    let audit = auditor.run(ROWS).unwrap_or_else(|error| panic!("{name}: {error}"));
    close(audit.probabilities, &alone, "audited");
    for (at, (audit, chain)) in audit.features.iter().zip(&seen).enumerate() {
        assert_eq!(audit.len(), ROWS * plan.candidates[at].feature_width, "{name}: width of exit {}", at + 1);
        close(audit, chain, "features");
    }
    backbone
}

#[test]
fn residual_with_unfolded_batch_norm() {
    let backbone = cuts_cleanly("residual_bn", 3..=4, 1e-4);
    assert!(backbone.cut_points().iter().all(|cut| cut.op != "BatchNormalization" && cut.op != "Add"), "before Relu");
}

#[test]
fn weights_among_the_inputs() {
    cuts_cleanly("old_ir", 3..=4, 1e-4);
}

#[test]
fn external_weights() {
    cuts_cleanly("external", 3..=4, 1e-4);
}

#[test]
fn half_precision() {
    cuts_cleanly("half", 3..=4, 5e-3);
}

#[test]
fn dense_blocks_are_cut_where_they_join() {
    cuts_cleanly("dense", 4..=5, 1e-4);
}

#[test]
fn inverted_residuals() {
    cuts_cleanly("inverted", 4..=8, 1e-4);
}

#[test]
fn inception_branches() {
    cuts_cleanly("inception", 2..=3, 1e-4);
}

#[test]
fn transformer_asking_for_the_batch() {
    let backbone = cuts_cleanly("transformer", 3..=5, 1e-4);
    assert!(backbone.plan().candidates.iter().all(|point| point.feature_width == 32), "mean and first token");
}

#[test]
fn pads_computed_from_shapes() {
    let backbone = cuts_cleanly("computed_pads", 2..=3, 1e-4);
    let chained = backbone.cut_points().iter().filter(|cut| cut.op == "Identity").count();
    assert_eq!(chained, 1, "a chain of Identity is one place: {:?}", backbone.cut_points());
}

#[test]
fn a_fixed_batch_is_freed_or_run_row_by_row() {
    cuts_cleanly("fixed_reshape", 3..=4, 1e-4);
    cuts_cleanly("fixed_batch", 3..=4, 1e-4);
}

#[test]
fn pixels_last() {
    let backbone = cuts_cleanly("nhwc", 1..=2, 1e-4);
    assert_eq!(backbone.plan().input.layout, Layout::Nhwc);
}

#[test]
fn scores_among_several_outputs() {
    cuts_cleanly("outputs", 3..=4, 1e-4);
}

#[test]
fn control_flow_is_passed_over() {
    cuts_cleanly("branch", 2..=4, 1e-4);
}

#[test]
fn quantised() {
    // One step of rounding in an activation, where fusing moves a value across the middle between two steps.
    cuts_cleanly("int8", 2..=3, 2e-2);
}

/// Goal: what PyTorch's exporter makes of a residual network, of one whose batch norms it did not fold, of squeeze-and-excitation
/// with `SiLU`, and of its own attention.
#[test]
fn exported_by_pytorch() {
    cuts_cleanly("torch_residual", 3..=4, 1e-4);
    let unfolded = cuts_cleanly("torch_unfolded", 3..=4, 1e-4);
    let early = ["BatchNormalization", "Add", "Identity"];
    assert!(unfolded.cut_points().iter().all(|cut| !early.contains(&cut.op.as_str())), "{:?}", unfolded.cut_points());
    let squeeze = cuts_cleanly("torch_squeeze", 2..=3, 1e-4);
    assert!(squeeze.cut_points().iter().filter(|cut| cut.op == "Add").count() == 2, "{:?}", squeeze.cut_points());
    let vision = cuts_cleanly("torch_vision", 4..=7, 1e-4);
    assert!(vision.plan().candidates.iter().all(|point| point.feature_width == 32), "mean and first token");
}

/// Goal: what PyTorch's new exporter makes of a residual network, of a vision transformer whose class token is
/// expanded to the batch and whose attention is one operator, and of a network whose batch nobody told it to leave free.
#[test]
fn exported_by_pytorch_dynamo() {
    let residual = cuts_cleanly("dynamo_residual", 3..=4, 1e-4);
    assert!(residual.cut_points().iter().all(|cut| cut.op != "Add" && cut.op != "Conv"), "{:?}", residual.cut_points());
    let vision = cuts_cleanly("dynamo_vision", 5..=7, 1e-4);
    assert!(vision.plan().candidates.iter().all(|point| point.feature_width == 32), "mean and first token");
    let sums = vision.cut_points().iter().filter(|cut| cut.op == "Add").count();
    assert_eq!(sums, 7, "behind both halves of every layer: {:?}", vision.cut_points());
    let fixed = cuts_cleanly("dynamo_fixed", 3..=4, 1e-4);
    assert_eq!(fixed.view().flops, residual.view().flops);
}

/// Goal: Paddle through `Paddle2ONNX`: weights in Constant nodes, sums behind an Identity, biases added apart, a flatten
/// that asks for the shape, a pool that rounds up.
#[test]
fn exported_by_paddle() {
    let backbone = cuts_cleanly("paddle_mobile", 5..=7, 1e-4);
    assert_eq!(backbone.view().params, 5_443, "what Constant nodes hold are weights");
    let ops: Vec<String> = backbone.cut_points().into_iter().map(|cut| cut.op).collect();
    assert_eq!(ops.iter().filter(|op| *op == "Identity").count(), 3, "both sums and the scores: {ops:?}");
    assert!(ops.iter().all(|op| op != "HardSigmoid" && op != "Add"), "half of an activation is no place: {ops:?}");
}

/// Goal: Keras through tf2onnx, pixels last and a name for the batch that means nothing.
#[test]
fn exported_by_tf2onnx() {
    let backbone = cuts_cleanly("keras_inverted", 4..=8, 1e-4);
    assert_eq!(backbone.plan().input.layout, Layout::Nhwc);
    assert!(backbone.cut_points().iter().any(|cut| cut.op == "Add"), "{:?}", backbone.cut_points());
}

/// Goal: a model that cannot be cut still serves.
#[test]
fn shallow_model_runs_whole() {
    cuts_cleanly("shallow", 0..=0, 1e-4);
}

/// Goal: where no way to cut can be shown to answer as the uncut model does, nothing is cut.
#[test]
fn a_model_that_answers_at_random_runs_whole() {
    for split in [SplitChoice::Measured, SplitChoice::Plain, SplitChoice::Optimised] {
        let options = LoadOptions { split, ..LoadOptions::default() };
        let backbone =
            Backbone::load(&models().join("random.onnx"), &options).unwrap_or_else(|error| panic!("{error}"));
        assert!(backbone.cut_points().len() > 1, "it could be cut");
        assert_eq!(backbone.plan().candidates, [], "{split:?}");
        assert!(backbone.engine().starts_with("whole"), "{}", backbone.engine());
    }
}

/// Goal: every refusal says what is wrong, in the user's words.
#[test]
fn refusals_name_the_reason() {
    let says = |name: &str, words: &[&str]| {
        let text = refusal(&models().join(name));
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
    };
    says("nan.onnx", &["NaN", "Div"]);
    says("nan_half.onnx", &["NaN", "Div"]);
    says("two_inputs.onnx", &["no image classifier", "mask"]);
    says("vector.onnx", &["no image classifier", "\"image\""]);
    says("no_scores.onnx", &["no image classifier", "[1, 8, 16, 16]"]);
    says("unknown_op.onnx", &["Wonder"]);
    says("absent.onnx", &["absent.onnx"]);
    says("make.py", &["make.py"]);
}

/// Goal: lost, shortened or smuggled external weights are named.
#[test]
fn external_weights_that_are_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("external.onnx");
    fs::copy(models().join("external.onnx"), &model).expect("copied");
    assert!(refusal(&model).contains("external.bin"));
    let weights = fs::read(models().join("external.bin")).expect("read");
    fs::write(folder.path().join("external.bin"), &weights[..weights.len() / 2]).expect("written");
    assert!(refusal(&model).contains("too short"));
    // Nobody reads three gigabytes to find that they are too many: the file has no blocks on the disk.
    let large = fs::File::create(folder.path().join("external.bin")).expect("created");
    large.set_len(3 << 30).expect("a sparse file");
    assert!(refusal(&model).contains("2 GB"), "{}", refusal(&model));
    let bytes = fs::read(&model).expect("read");
    let at = bytes.windows(12).position(|window| window == b"external.bin").expect("it names its weights");
    let mut outside = bytes.clone();
    outside[at..at + 12].copy_from_slice(b"../../secret");
    fs::write(&model, outside).expect("written");
    assert!(refusal(&model).contains("outside"));
}

/// Goal: a manifest's problems are all told at once.
#[test]
fn manifest_problems_come_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::copy(models().join("residual_bn.onnx"), folder.path().join("backbone.onnx")).expect("copied");
    let text = "[model]\noutput = \"scores\"\nlabls = \"x\"\nlabels = \"none.txt\"\n[input]\nwidth = 0\nstd = [0.0]\n[extra]\n";
    fs::write(folder.path().join("model.toml"), text).expect("written");
    let text = refusal(folder.path());
    for word in ["model.output", "model.labls", "none.txt", "input.width", "input.std", "[extra]"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    fs::write(folder.path().join("model.toml"), "[input]\nwidth = 17\nchannels = \"gray\"\n").expect("written");
    let text = refusal(folder.path());
    assert!(text.contains("width = 17") && text.contains("input.channels"), "{text}");
}

/// Goal: what only the graph shows to be wrong is told together with what is wrong in the manifest itself.
#[test]
fn a_manifests_problems_come_in_one_round() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = "[model]\nlabels = \"two.txt\"\n[input]\nwidth = 17\nchannels = \"gray\"\nstd = [0.0]\n[extra]\n";
    fs::write(folder.path().join("model.toml"), text).expect("written");
    fs::write(folder.path().join("two.txt"), "one\ntwo").expect("written");
    let told = refusal(folder.path());
    for word in ["input.std", "[extra]", "model.file"] {
        assert!(told.contains(word), "{word} in {told}");
    }
    fs::copy(models().join("residual_bn.onnx"), folder.path().join("backbone.onnx")).expect("copied");
    let told = refusal(folder.path());
    for word in ["input.std", "[extra]", "width = 17", "input.channels", "model.labels"] {
        assert!(told.contains(word), "{word} in {told}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: no bytes crash the reader. Method: models cut short, bytes overwritten, and plain noise.
    #[test]
    fn foreign_bytes_never_crash(
        name in prop::sample::select(vec!["residual_bn", "old_ir", "branch", "transformer", "int8"]),
        cut in 0.0f64..1.0,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        noise in prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..400)),
    ) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.onnx");
        let mut bytes = fs::read(models().join(format!("{name}.onnx"))).expect("read");
        for (at, value) in &edits {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if edits.is_empty() {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        fs::write(&path, noise.unwrap_or(bytes)).expect("written");
        if let Err(error) = Backbone::load(&path, &LoadOptions::default()) {
            prop_assert!(error.to_string().contains("model.onnx") || error.to_string().contains("segment"), "{}", error);
        }
    }
}
