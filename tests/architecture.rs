//! Goal: the layers of ARCHITECTURE.md hold, and files stay short enough to be read.
//! Method: read the sources as text, drop comments and test modules, and look at every path they name; who imports whom is read
//! from their tokens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod import_graph;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use import_graph::Imports;

/// Longest source file, in lines, without its test module: "about 400".
const LINES_MAX: usize = 440;

/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[("backbone/graph/onnx/schema.rs", "generated from onnx-ml.proto")];

/// What the nouns may import of ours: each other, downwards.
const NOUNS: &[(&str, &[&str])] = &[
    ("audit.rs", &[]),
    ("frame.rs", &[]),
    ("plan.rs", &["frame"]),
    ("prediction.rs", &["frame", "plan"]),
    ("provider.rs", &[]),
];

/// Logic that runs without Kafka, ONNX Runtime, files, metrics or a clock, and is tested in milliseconds.
const PURE: &[&str] =
    &["cascade", "batch", "decode", "flow", "backbone/graph", "heads", "learn", "promise", "camera", "memory"];

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
            "fleet",
            "source/feeder.rs",
            "cli/demo",
            "cli/demo.rs",
            "cli/feed.rs",
            "cli/check.rs",
            "cli/heads.rs",
        ],
    ),
    ("ort", &["backbone/run"]),
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
    ("promise", &["learn", "cascade", "camera", "backbone"], "statistics know neither who serves nor who learns"),
    ("camera", &["learn", "cascade", "backbone", "ingest", "publish"], "a camera is known the same, whoever asks"),
    ("backbone", &["heads", "learn", "ingest", "publish", "observe"], "a backbone is cut the same whoever serves it"),
    ("decode", &["ingest", "publish", "backbone", "heads", "learn", "observe"], "pictures need no Kafka and no model"),
    ("observe", &["ingest", "publish", "backbone", "cascade"], "who is observed holds the handles"),
    (
        "flow",
        &["ingest", "publish", "kafka", "observe", "backbone", "engine", "source", "lane", "fleet"],
        "a flow is the same whatever is around it",
    ),
];

/// Rooms of the backbone, and those that they may import of its others.
const ROOMS: &[(&str, &[&str])] = &[
    ("backbone/graph/", &[]),
    ("backbone/run/", &["backbone/graph/"]),
    (
        "backbone/measure/",
        &["backbone/graph/", "backbone/run/", "backbone/cut.rs", "backbone/error.rs", "backbone/options.rs"],
    ),
];

/// Files that still import each other in a circle. An entry that does so no more fails the test.
const CIRCLES: &[&str] = &[];

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

/// The text without line comments and from the test module on, which stands last in this project; a test module in a file of
/// its own may be declared anywhere.
fn code_of(text: &str) -> String {
    let module =
        |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'));
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

fn imports() -> Imports {
    let src = root().join("src");
    let mut files = Vec::new();
    files_under(&src, &|path| path.extension().is_some_and(|extension| extension != "rs"), &mut files);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        (name, fs::read_to_string(path).unwrap())
    };
    Imports::read(&files.into_iter().map(read).collect())
}

#[test]
fn no_files_import_each_other() {
    let (imports, mut bad) = (imports(), String::new());
    let circles = imports.circles();
    for (files, way) in circles.iter().filter(|(files, _)| !files.iter().all(|file| CIRCLES.contains(file))) {
        writeln!(bad, "a circle of {files:?}:\n{way}").unwrap();
    }
    for file in CIRCLES.iter().filter(|file| !circles.iter().any(|(files, _)| files.contains(*file))) {
        writeln!(bad, "{file}: stands in no circle any more, take it off the list").unwrap();
    }
    none(&bad);
}

#[test]
fn rooms_of_the_backbone_import_downwards() {
    let mut bad = String::new();
    for (from, to, path) in imports().all() {
        let room = ROOMS.iter().find(|(room, _)| from.starts_with(room));
        let allowed = |(room, below): &(&str, &[&str])| {
            to.starts_with(room) || !to.starts_with("backbone/") || below.iter().any(|place| to.starts_with(place))
        };
        if room.is_some_and(|room| !allowed(room))
            || (from.starts_with("backbone/graph/") && !to.starts_with("backbone/graph/"))
        {
            writeln!(bad, "{from}: imports {to} by {path}").unwrap();
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

/// Goal: a circle is found whichever way an import is written, and re-exports lead to the file that defines an item. Method: made-up
/// crates; each is told by its files, and by the circle that it has.
#[test]
fn the_finder_of_circles_sees_what_it_must() {
    let circles = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let sources = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let imports = Imports::read(&sources);
        imports.circles().iter().map(|(files, _)| files.iter().map(ToString::to_string).collect()).collect()
    };
    let root = ("lib.rs", "pub mod a; mod b;");
    let lower = ("b.rs", "use crate::a::A; pub struct B(A);");
    let both = vec![vec!["a.rs".to_owned(), "b.rs".to_owned()]];
    for upper in [
        "use super::b::B; pub struct A;",
        "use crate::{b::{B as C}}; pub struct A;",
        "pub struct A; fn f() { super::b::B::new() }",
        "use crate::b; pub struct A; fn f() -> b::B { todo() }",
        "pub struct A; fn f() { assert!(matches!(1, crate::b::B)); }",
        "pub struct A; mod inner { use super::super::b::B; }",
        "pub use crate::b::B; pub struct A(B);",
    ] {
        assert_eq!(circles(&[root, ("a.rs", upper), lower]), both, "{upper}");
    }
    for upper in [
        "pub struct A; // crate::b::B",
        "pub struct A; const T: &str = \"crate::b::B\";",
        "pub use crate::b::B; pub struct A;",
        "use b::B; pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
        "use ::b::B; pub struct A;",
    ] {
        assert_eq!(circles(&[root, ("a.rs", upper), lower]), Vec::<Vec<String>>::new(), "{upper}");
    }
    let shows = ("a/mod.rs", "mod x; mod y; pub use x::X; pub use y::Y;");
    let (x, y) = (("a/x.rs", "pub struct X;"), ("a/y.rs", "use super::X; pub struct Y(X);"));
    assert!(circles(&[("lib.rs", "mod a;"), shows, x, y]).is_empty(), "what a parent only shows is its child's");
    let defines = ("a/mod.rs", "mod x; mod y; pub use y::Y; pub struct X(Y);");
    let circle = circles(&[("lib.rs", "mod a;"), defines, x, y]);
    assert_eq!(circle, [["a/mod.rs", "a/y.rs"]], "what a parent defines of its children");
}
