//! Goal: `offramp replay` as it is typed: what it counts, what it refuses, and that its report stands alone.
//! Method: run the program on small recordings with the demo's backbone; read its JSON and its words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SIDE: usize = 28;

fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-resnet18").join(file)
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_offramp")).arg("replay").args(arguments).env("PATH", "").output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = replay(&[arguments, &["--json"]].concat());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {words}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"))
}

/// Frames of one grey value each, as IDX.
fn frames(folder: &Path, values: impl Iterator<Item = u8>) -> String {
    let pixels: Vec<u8> = values.flat_map(|value| [value; SIDE * SIDE]).collect();
    let count = u32::try_from(pixels.len() / SIDE / SIDE).unwrap().to_be_bytes();
    let path = folder.join("frames.idx");
    std::fs::write(&path, [&[0, 0, 8, 3][..], &count, &[0, 0, 0, 28, 0, 0, 0, 28], &pixels].concat()).unwrap();
    path.display().to_string()
}

/// Goal: frames to which the model gives no number are in no share.
/// Method: a scale at which white overflows to infinity and black stays zero; every fourth frame is white.
#[test]
fn frames_without_an_answer_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(demo("backbone.onnx"), folder.path().join("backbone.onnx")).unwrap();
    let manifest = "[model]\nfile = \"backbone.onnx\"\noutput = \"logits\"\n[input]\nscale = 1e37\n";
    std::fs::write(folder.path().join("model.toml"), manifest).unwrap();
    let frames = frames(folder.path(), (0..40).map(|at| if at % 4 == 0 { 255 } else { 0 }));
    let labels = folder.path().join("labels.txt");
    std::fs::write(&labels, "1\n".repeat(40)).unwrap();
    let model = folder.path().display().to_string();
    let found = json(&["--model", &model, "--frames", &frames, "--labels", &labels.display().to_string()]);
    assert_eq!((&found["measured"], &found["unanswered"], &found["rejected"]), (&20.into(), &5.into(), &0.into()));
    // All are audited while nothing is known, copies included: their FLOPs were spent all the same.
    assert_eq!(found["flops_ratio"], 2.0);
    assert_eq!((&found["disagreement"], &found["hit_rate"]), (&0.0.into(), &0.0.into()));
    // The same answer to the same black frame, right or wrong.
    let right = found["accuracy"]["served"].as_f64().unwrap();
    assert!(right == 0.0 || (right - 1.0).abs() < 1e-9, "{right}");
    assert_eq!(found["accuracy"]["served"], found["accuracy"]["backbone"]);
}

/// Goal: one frame that cannot be decoded costs that frame only, as in the worker.
#[test]
fn a_corrupt_frame_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |name: &str, value: u8| {
        let image = image::GrayImage::from_pixel(40, 30, image::Luma([value]));
        image.save(folder.path().join(name)).unwrap();
    };
    std::fs::create_dir(folder.path().join("Bag")).unwrap();
    (0..9).for_each(|at| picture(&format!("Bag/{at}.png"), at * 20));
    std::fs::write(folder.path().join("Bag/5a.png"), b"\x89PNG\r\n\x1a\nno more").unwrap();
    let frames = folder.path().display().to_string();
    let model = demo("").display().to_string();
    let found = json(&["--model", &model, "--frames", &frames, "--drift", "rotate"]);
    assert_eq!((&found["frames"], &found["measured"], &found["rejected"]), (&10.into(), &4.into(), &1.into()));
    assert!(found["accuracy"]["served"].is_number());
    let output = replay(&["--model", &model, "--frames", &frames]);
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("Bag/5a.png") && words.lines().all(|line| line.chars().count() <= 120), "{words}");
}

/// Goal: a seed gives the same run, learned exits included. Method: the demo's first pictures twice by FLOPs, from two
/// processes; everything but times must agree.
#[test]
fn a_seed_gives_the_same_run() {
    let (images, labels) = (demo("data/t10k-images-idx3-ubyte.gz"), demo("data/t10k-labels-idx1-ubyte.gz"));
    let (images, labels) = (images.display().to_string(), labels.display().to_string());
    let model = demo("").display().to_string();
    let arguments = ["--model", &model, "--frames", &images, "--labels", &labels, "--order", "shuffle", "--seed", "3"];
    let arguments = [&arguments[..], &["--costs", "flops", "--limit", "1400", "--epsilon", "0.05"]].concat();
    let [one, two] = std::thread::scope(|scope| {
        [0, 1].map(|_| scope.spawn(|| json(&arguments))).map(|run| run.join().expect("a replay"))
    });
    for key in one.as_object().expect("an object").keys() {
        if !["time_ratio", "throughput", "learn_cpu_share"].contains(&key.as_str()) {
            assert_eq!(one[key], two[key], "{key}");
        }
    }
    assert!(one["hit_rate"].as_f64().expect("a share") > 0.0, "nothing was learned: {one}");
}

fn made(model: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(model).display().to_string()
}

/// Coloured slopes under noise, `side` x `side` x 3, as an .npy file.
fn slopes(folder: &Path, count: usize, side: usize) -> String {
    let mut state = 1_u32;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 16_777_216.0
    };
    let mut pixels = Vec::with_capacity(count * side * side * 3);
    for _ in 0..count {
        let planes: [[f32; 3]; 3] = std::array::from_fn(|_| [unit(), 4.0 * unit() - 2.0, 4.0 * unit() - 2.0]);
        for at in 0..side * side {
            let (y, x) = ((at / side) as f32 / side as f32 - 0.5, (at % side) as f32 / side as f32 - 0.5);
            pixels.extend(planes.map(|[base, down, right]| {
                let value = base + down * y + right * x + 0.4 * (unit() - 0.5);
                (value.clamp(0.0, 1.0) * 255.0) as u8
            }));
        }
    }
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {side}, {side}, 3), }}");
    let path = folder.join("slopes.npy");
    let header = [&b"\x93NUMPY\x01\x00\x76\x00"[..], format!("{header:<117}\n").as_bytes()].concat();
    std::fs::write(&path, [header, pixels].concat()).unwrap();
    path.display().to_string()
}

/// Goal: where no exit pays none is chosen, and offramp costs at most one per cent: audits, copies and heads included.
/// Method: `AlexNet` in small, 365 classes, by FLOPs. An exit could pay if its head were nearly always sure.
#[test]
fn a_model_on_which_no_exit_pays_costs_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let frames = slopes(folder.path(), 10_000, 32);
    let found = json(&["--model", &made("alexnet.onnx"), "--frames", &frames, "--costs", "flops"]);
    assert_eq!((&found["exits"], &found["hit_rate"]), (&serde_json::json!([]), &0.0.into()), "{found}");
    assert!(found["flops_ratio"].as_f64().unwrap() <= 1.01, "{found}");
    assert!(found["audit_share"].as_f64().unwrap() < 0.02, "{found}");
    assert!(found["learn_cpu_share"].as_f64().unwrap() > 0.01, "nothing was tried: {found}");
}

/// One test for a bug: a model that cannot be cut was audited for ever, with copies, though there was nothing to learn.
#[test]
fn a_model_without_exits_is_not_audited() {
    let folder = tempfile::tempdir().unwrap();
    let frames = slopes(folder.path(), 400, 16);
    let found = json(&["--model", &made("shallow.onnx"), "--frames", &frames, "--costs", "flops"]);
    assert_eq!(found["flops_ratio"], 1.0);
    assert!(found["audit_share"].as_f64().unwrap() < 0.05, "{found}");
}

/// Goal: the JSON names the drift, and the report needs nothing but itself.
#[test]
fn a_drift_is_told_and_the_report_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html").display().to_string();
    let (images, labels) = (demo("data/t10k-images-idx3-ubyte.gz"), demo("data/t10k-labels-idx1-ubyte.gz"));
    let (images, labels) = (images.display().to_string(), labels.display().to_string());
    let model = demo("").display().to_string();
    let common = ["--model", &model, "--frames", &images, "--labels", &labels, "--limit", "120", "--report", &report];
    let found = json(&[&common[..], &["--drift", "noise", "--drift-from", "0.75"]].concat());
    assert_eq!(found["drift"], serde_json::json!({"kind": "noise", "from": 90}));
    assert_eq!(found["perfect"]["flops_ratio"], 1.0, "no exit was on");
    let page = std::fs::read_to_string(&report).unwrap();
    for foreign in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(foreign), "the report holds {foreign}");
    }
    assert!(page.contains("data:image/png;base64,") && page.contains("noise, sigma 25") && page.contains("Sneaker"));
    assert!(json(&common)["drift"].is_null());
}

/// Goal: every fault of the input is named with its fix, and the program ends with 1.
#[test]
fn faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let frames = frames(folder.path(), (0..4).map(|_| 9));
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (three, big) = (write("three.txt", b"1\n2\n3\n"), write("big.txt", b"1\n2\n3\n12\n"));
    let video = write("a.mp4", b"\0\0\0\x18ftypmp42 and no more");
    let floats = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 2), }        \n";
    let floats = write("floats.npy", floats);
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let model = demo("").display().to_string();
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = replay(&[&["--model", &model], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: no {word:?} in {said}");
        }
    };
    refused(&["--frames", "/absent"], &["/absent", "check the path"]);
    refused(&["--frames", &frames, "--labels", "/absent"], &["/absent", "check the path"]);
    refused(&["--frames", &frames, "--labels", &three], &["3 labels for 4 frames"]);
    refused(&["--frames", &frames, "--labels", &big], &["label 12", "0 to 9"]);
    refused(&["--frames", &empty.display().to_string()], &["no pictures", ".png"]);
    refused(&["--frames", &video], &["ffmpeg", "install"]);
    refused(&["--frames", &floats, "--drift", "blur"], &["f4", "uint8"]);
    refused(&["--frames", &frames, "--order", "bursts"], &["--labels"]);
    refused(&["--frames", &frames, "--report", "/absent/report.html"], &["/absent/report.html"]);
}
