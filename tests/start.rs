//! Goal: a start that finds what an earlier one measured does not measure again, and believes nothing else that lies in its place.
//! Method: records are written by a first start, then told apart by a time that no machine would measure.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test fails by panicking; the mark is a whole number")]

use std::fs;
use std::path::{Path, PathBuf};

use offramp::backbone::Backbone;
use offramp::engine::{Cache, Engine};
use offramp::provider::Provider;
use serde_json::{Value, json};

/// Milliseconds that no machine measures for a frame of these models.
const MARK: f64 = 123_456.0;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

fn start(model: &Path, folder: &Path) -> Engine {
    let cache = Cache::from_setting(folder.to_str().unwrap());
    Engine::load_for(model, 1, 1, &Provider::default(), cache.as_ref()).unwrap().0
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn read(file: &Path) -> Value {
    serde_json::from_str(fs::read_to_string(file).unwrap().split_once('\n').unwrap().1).unwrap()
}

/// Two times measured apart differ by more.
fn near(kept: &Value, measured: f64) -> bool {
    kept.as_f64().is_some_and(|kept| (kept / measured - 1.0).abs() < 1e-12)
}

fn rows(engine: &Engine) -> Vec<usize> {
    engine.backbone.measured().timings.iter().map(|timing| timing.rows).collect()
}

/// Writes a record as offramp does, its checksum included.
fn write(file: &Path, record: &Value) {
    let body = record.to_string();
    fs::write(file, format!("{}\n{body}", blake3::hash(body.as_bytes()).to_hex())).unwrap();
}

#[test]
fn only_what_was_measured_for_just_this_is_believed() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, other) = (model("residual_bn.onnx"), model("inverted.onnx"));
    let first = start(&ours, folder.path());
    let file = files(folder.path()).pop().unwrap();
    let kept = read(&file);
    assert!(near(&kept["costs"]["whole_ms"], first.costs.whole_ms));

    let marked = |change: &dyn Fn(&mut Value)| {
        let mut record = kept.clone();
        record["costs"]["whole_ms"] = json!(MARK);
        change(&mut record);
        record
    };
    write(&file, &marked(&|_| {}));
    let second = start(&ours, folder.path());
    assert_eq!(second.costs.whole_ms, MARK, "found");
    assert_eq!(second.backbone.engine(), first.backbone.engine());
    assert_eq!(rows(&second), rows(&first));
    assert_eq!(second.backbone.plan().plan, first.backbone.plan().plan);

    start(&other, elsewhere.path());
    let mut foreign = read(&files(elsewhere.path()).pop().unwrap());
    foreign["costs"]["whole_ms"] = json!(MARK);
    let refused = [
        ("stale", marked(&|record| record["key"]["version"]["offramp"] = json!("0.0.1"))),
        ("stale runtime", marked(&|record| record["key"]["version"]["runtime"] = json!("1.0"))),
        ("foreign", foreign),
        ("another processor", marked(&|record| record["key"]["cpu"] = json!("of a museum"))),
        ("no lane", marked(&|record| record["lanes"] = json!(0))),
        (
            "a segment too few",
            marked(&|record| record["measured"]["timings"][0]["timing"]["segments_ms"] = json!([1.0])),
        ),
        ("a time below none", marked(&|record| record["costs"]["piece_ms"][0] = json!(-1.0))),
        ("another form", json!({"costs": {"whole_ms": MARK}})),
    ];
    for (what, record) in refused {
        write(&file, &record);
        measured_again(&ours, folder.path(), &file, what);
    }
    let text = fs::read_to_string(&file).unwrap();
    let edited = text.replacen(&read(&file)["costs"]["whole_ms"].to_string(), &MARK.to_string(), 1);
    assert_ne!(edited, text);
    for (what, bytes) in [
        ("edited by hand", edited.into_bytes()),
        ("cut short", text.as_bytes()[..text.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("no text", vec![0xFF; 300]),
        ("endless", vec![b'x'; 1 << 20]),
    ] {
        fs::write(&file, bytes).unwrap();
        measured_again(&ours, folder.path(), &file, what);
    }
}

/// The mark is not believed, and a sound record lies there afterwards, nothing else.
fn measured_again(model: &Path, folder: &Path, file: &Path, what: &str) {
    let engine = start(model, folder);
    assert_ne!(engine.costs.whole_ms, MARK, "{what}");
    assert!(near(&read(file)["costs"]["whole_ms"], engine.costs.whole_ms), "{what}");
    assert_eq!(files(folder), [file], "{what}");
}

/// Goal: a folder that cannot be had costs no start, none is used where none is wanted, and a full one stays bounded.
#[test]
fn a_start_never_hangs_on_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    start(&model("residual_bn.onnx"), &file);
    assert!(Cache::from_setting("").is_none());
    let crowded = folder.path().join("crowded");
    fs::create_dir(&crowded).unwrap();
    (0..100).for_each(|number| fs::write(crowded.join(format!("measured-{number}.json")), "old").unwrap());
    fs::write(crowded.join("not ours"), "").unwrap();
    let engine = start(&model("residual_bn.onnx"), &crowded);
    let left = files(&crowded);
    assert_eq!(left.len(), 64 + 1);
    assert!(left.contains(&crowded.join("not ours")));
    let again = start(&model("residual_bn.onnx"), &crowded);
    assert!(near(&json!(again.costs.whole_ms), engine.costs.whole_ms), "the newest stays");
}

/// Goal: what does not fit a model is refused by the backbone too, and then it is measured as if nothing had been said.
#[test]
fn a_backbone_takes_only_measurements_that_fit() {
    let options = offramp::backbone::LoadOptions::default();
    let (mut backbone, _) = Backbone::load_recalling(&model("residual_bn.onnx"), &options, |_| None).unwrap();
    backbone.measure(|_, _| 0.0).unwrap();
    let measured = backbone.measured();
    let recalled = |change: &dyn Fn(&mut offramp::backbone::Measured)| {
        let mut changed = measured.clone();
        change(&mut changed);
        Backbone::load_recalling(&model("residual_bn.onnx"), &options, |_| Some(changed)).unwrap().1
    };
    assert!(recalled(&|_| {}));
    assert!(!recalled(&|measured| measured.timings.clear()));
    assert!(!recalled(&|measured| measured.timings[0].timing.whole_ms = f64::NAN));
    assert!(!recalled(&|measured| measured.timings[0].rows = 0));
}
