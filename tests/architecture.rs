//! Goal: the layers of ARCHITECTURE.md hold, and files stay short enough to be read.
//! Method: read the sources as text, drop comments and test modules, and look at every path they name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines, without its test module: "about 400".
const LINES_MAX: usize = 440;

/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[("backbone/onnx/schema.rs", "generated from onnx-ml.proto")];

/// What the nouns may import of ours: each other, downwards.
const NOUNS: &[(&str, &[&str])] = &[
    ("audit.rs", &[]),
    ("frame.rs", &[]),
    ("plan.rs", &["frame"]),
    ("prediction.rs", &["frame", "plan"]),
    ("provider.rs", &[]),
];

/// Logic that runs without Kafka, ONNX Runtime, files, metrics or a clock, and is tested in milliseconds.
const PURE: &[&str] = &["cascade", "batch", "decode", "heads", "learn", "promise"];

/// What pure logic must not touch.
const IMPURE: &[&str] = &[
    "rdkafka",
    "ort",
    "metrics",
    "metrics_process",
    "metrics_exporter_prometheus",
    "tokio",
    "axum",
    "tracing",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// A crate and the only places that may name it.
const CONFINED: &[(&str, &[&str])] = &[
    (
        "rdkafka",
        &[
            "kafka.rs",
            "kafka",
            "ingest",
            "publish",
            "fleet/store.rs",
            "fleet/leader.rs",
            "source/feeder.rs",
            "cli/demo",
            "cli/demo.rs",
            "cli/feed.rs",
            "cli/check.rs",
            "cli/heads.rs",
        ],
    ),
    ("ort", &["backbone/session.rs", "backbone/tensor.rs", "backbone/runtime.rs", "backbone/execution.rs"]),
    ("metrics", &["observe"]),
    ("metrics_process", &["observe"]),
    ("metrics_exporter_prometheus", &["observe"]),
    ("axum", &["observe"]),
    ("bincode", &["heads/codec.rs"]),
];

/// Modules and what they must never import of ours.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("cascade", &["learn"], "serving and learning meet in `heads`"),
    ("learn", &["cascade"], "serving and learning meet in `heads`"),
    ("learn", &["fleet", "kafka", "observe"], "what the fleet does with it is not its concern"),
    (
        "heads",
        &["learn", "fleet", "cascade", "backbone", "ingest", "publish", "observe"],
        "what both sides share knows neither",
    ),
    ("backbone", &["heads", "learn", "ingest", "publish", "observe"], "a backbone is cut the same whoever serves it"),
    ("decode", &["ingest", "publish", "backbone", "heads", "learn", "observe"], "pictures need no Kafka and no model"),
    ("observe", &["ingest", "publish", "backbone", "cascade"], "who is observed holds the handles"),
];

/// Modules that are wired, never imported, but by the layers named.
const TOPS: &[(&str, &[&str])] = &[("worker", &["cli", "lib.rs"]), ("cli", &["cli", "main.rs", "lib.rs"])];

struct Source {
    /// Path below `src`, with slashes.
    path: String,
    lines: usize,
    /// The code without comments and without its test module.
    code: String,
}

impl Source {
    /// Whether the file is `place` or lies in the folder or module `place`.
    fn is_in(&self, place: &str) -> bool {
        self.path == place || self.path == format!("{place}.rs") || self.path.starts_with(&format!("{place}/"))
    }

    /// First segments of all `crate::` paths, groups included.
    fn modules(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices("crate::") {
            let preceding = self.code[..at].chars().next_back();
            if preceding.is_some_and(is_word) {
                continue;
            }
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                None => drop(found.insert(word(rest))),
                Some(group) => found.extend(group_heads(group)),
            }
        }
        found
    }

    /// Whether the code names an outside path such as `rdkafka` or `std::fs`.
    fn names(&self, outside: &str) -> bool {
        let braced = outside.rsplit_once("::").map(|(parent, child)| (format!("{parent}::{{"), child));
        if let Some((group, child)) = braced {
            let grouped = self
                .code
                .match_indices(&group)
                .any(|(at, _)| group_heads(&self.code[at + group.len()..]).contains(child));
            if grouped {
                return true;
            }
        }
        self.code.match_indices(outside).any(|(at, _)| {
            let before = &self.code[..at];
            let after = &self.code[at + outside.len()..];
            let path = outside.contains("::") || after.starts_with("::");
            let whole = !after.starts_with(is_word) && !before.ends_with(is_word);
            // `observe::metrics::` is ours; `::metrics::` and `use metrics::` are the crate.
            let head = match before.strip_suffix("::") {
                Some(parent) => !parent.ends_with(is_word),
                None => outside != "metrics" || before.ends_with("use ") || macro_call(after),
            };
            path && whole && head
        })
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

fn macro_call(after: &str) -> bool {
    after.strip_prefix("::").is_some_and(|rest| rest[word(rest).len()..].starts_with('!'))
}

/// First words at the top level of a brace group whose opening brace has been read.
fn group_heads(text: &str) -> BTreeSet<String> {
    let mut heads = BTreeSet::new();
    let (mut depth, mut item) = (0usize, String::new());
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => drop(heads.insert(word(std::mem::take(&mut item).trim_start()))),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    heads.insert(word(item.trim_start()));
    heads
}

/// The text without line comments and from the test module on; test modules stand last in this project.
fn code_of(text: &str) -> String {
    let module = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.contains("mod "));
    let end = text.match_indices("#[cfg(test)]\n").map(|(at, _)| at).find(module).unwrap_or(text.len());
    text[..end].lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
}

fn files_under(folder: &Path, skip: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if skip(&path) {
        } else if path.is_dir() {
            files_under(&path, skip, found);
        } else {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    files_under(&src, &|_| false, &mut files);
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
            let code = code_of(&text);
            Source { path, lines: code.lines().count(), code }
        })
        .filter(|source| !source.path.ends_with("tests.rs"))
        .collect()
}

/// Fails with all violations at once.
fn none(violations: &str) {
    assert!(violations.is_empty(), "\n{violations}");
}

#[test]
fn nouns_import_only_nouns() {
    let mut bad = String::new();
    for source in sources() {
        let Some((_, allowed)) = NOUNS.iter().find(|(path, _)| *path == source.path) else {
            continue;
        };
        for module in source.modules().iter().filter(|module| !allowed.contains(&module.as_str())) {
            writeln!(bad, "{}: a noun imports crate::{module}", source.path).unwrap();
        }
    }
    none(&bad);
}

#[test]
fn pure_logic_has_no_clock_no_io_and_no_metrics() {
    let mut bad = String::new();
    for source in sources() {
        let pure = PURE.iter().any(|place| source.is_in(place)) || NOUNS.iter().any(|(path, _)| *path == source.path);
        if !pure {
            continue;
        }
        for outside in IMPURE.iter().filter(|outside| source.names(outside)) {
            writeln!(bad, "{}: pure logic names {outside}", source.path).unwrap();
        }
    }
    none(&bad);
}

#[test]
fn outside_crates_stay_in_their_adapters() {
    let mut bad = String::new();
    for source in sources() {
        for (outside, places) in CONFINED {
            if source.names(outside) && !places.iter().any(|place| source.is_in(place)) {
                writeln!(bad, "{}: names {outside}, which only {places:?} may", source.path).unwrap();
            }
        }
    }
    none(&bad);
}

#[test]
fn layers_import_downwards() {
    let mut bad = String::new();
    for source in sources() {
        let modules = source.modules();
        for (place, never, reason) in NEVER.iter().filter(|(place, ..)| source.is_in(place)) {
            for module in never.iter().filter(|module| modules.contains(**module)) {
                writeln!(bad, "{}: {place} imports crate::{module}, but {reason}", source.path).unwrap();
            }
        }
        for (top, by) in TOPS {
            if modules.contains(*top) && !by.iter().any(|place| source.is_in(place)) {
                writeln!(bad, "{}: imports crate::{top}, which only {by:?} may", source.path).unwrap();
            }
        }
    }
    none(&bad);
}

#[test]
fn files_are_short_enough_to_read() {
    let mut bad = String::new();
    for source in sources() {
        let excused = LONG.iter().any(|(path, _)| *path == source.path);
        if source.lines > LINES_MAX && !excused {
            writeln!(bad, "{}: {} lines, more than {LINES_MAX}", source.path, source.lines).unwrap();
        }
    }
    for (path, reason) in LONG {
        let there = sources().iter().any(|source| source.path == *path && source.lines > LINES_MAX);
        if !there {
            writeln!(bad, "{path}: needs no exception any more ({reason})").unwrap();
        }
    }
    none(&bad);
}

#[test]
fn nothing_unfinished_and_nothing_of_one_machine_is_in_the_tree() {
    // Put together here so that this file does not hold them.
    let paths = [["/wo", "rk/"], ["../sha", "red"], ["/ro", "ot/"], ["/home", "/user"]].map(|half| half.concat());
    let marks = [["to", "do!("], ["unimple", "mented!("], ["db", "g!("], ["FIX", "ME"]].map(|half| half.concat());
    let skipped = [".git", "target", ".runtime", ".kafka", "Cargo.lock"];
    let mut files = Vec::new();
    let skip = |path: &Path| skipped.iter().any(|name| path == root().join(name));
    files_under(root(), &skip, &mut files);

    let mut bad = String::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue }; // not text
        for found in paths.iter().chain(&marks).filter(|mark| text.contains(mark.as_str())) {
            writeln!(bad, "{}: holds {found:?}", file.strip_prefix(root()).unwrap().display()).unwrap();
        }
    }
    none(&bad);
}

#[test]
fn the_reader_of_paths_sees_what_it_must() {
    let text = "use crate::{frame::Origin, plan::{Plan, ExitId},\n learn};\nuse std::{fs, io};\nuse super::metrics::X;\n\
                // use crate::worker;\nlet x = crate::heads::Set; ort::init(); metrics::counter!(1); import::me();";
    let source = Source { path: "a.rs".into(), lines: 1, code: code_of(text) };
    assert_eq!(source.modules(), ["frame", "heads", "learn", "plan"].map(String::from).into());
    let outside = ["std::fs", "ort", "metrics", "rdkafka", "std::net", "port", "me"];
    assert_eq!(outside.map(|name| source.names(name)), [true, true, true, false, false, false, false]);
    let ours = Source { path: "b.rs".into(), lines: 1, code: "use crate::observe::metrics; metrics::Kind".into() };
    assert!(!ours.names("metrics"));
    assert!(Source { path: "c.rs".into(), lines: 1, code: "use ::metrics::Key;".into() }.names("metrics"));
}
