//! Goal: what the documents say of the program is what the program says of itself, and whatever they cite is there.
//! Method: the table between two markers is compared with the program's own (`BLESS=1 cargo test --test readme` writes it), each
//! alert has its heading, and every file named in the repository is looked for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use offramp::observe::metrics::markdown;

const BEGIN: &str = "<!-- metrics: begin -->\n";
const END: &str = "<!-- metrics: end -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_metrics_table_is_the_programs_own() {
    let text = read("docs/metrics.md");
    let (before, rest) = text.split_once(BEGIN).expect("the first marker");
    let (table, after) = rest.split_once(END).expect("the second marker");
    if std::env::var_os("BLESS").is_some() {
        let written = format!("{before}{BEGIN}{}{END}{after}", markdown());
        fs::write(root().join("docs/metrics.md"), written).expect("writable");
        return;
    }
    assert_eq!(table, markdown(), "run BLESS=1 cargo test --test readme");
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let (rules, runbooks) = (read("config/prometheus/rules.yml"), read("docs/runbooks.md"));
    let after = |line: &str, mark: &str| line.trim().strip_prefix(mark).map(|rest| rest.trim().to_owned());
    let alerts: Vec<String> = rules.lines().filter_map(|line| after(line, "- alert:")).collect();
    let urls: Vec<String> = rules.lines().filter_map(|line| after(line, "runbook_url:")).collect();
    let headings: BTreeSet<String> = runbooks.lines().filter_map(|line| after(line, "## ")).collect();
    let wanted: Vec<String> = alerts.iter().map(|alert| format!("docs/runbooks.md#{}", alert.to_lowercase())).collect();
    assert!(alerts.len() > 5, "the rules are not read right: {alerts:?}");
    assert_eq!(urls, wanted, "each alert names its own runbook");
    assert_eq!(headings, alerts.into_iter().collect());
}

/// Text files of the repository.
fn texts(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    // The schema is generated from ONNX's own, with its words.
    let skipped = [".git", "target", ".runtime", ".kafka", "Cargo.lock", "node_modules", "onnx/schema.rs"];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if skipped.iter().any(|name| path.ends_with(name)) {
        } else if path.is_dir() {
            texts(&path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
}

/// Words of the text that name a file with one of these endings; addresses on the web and paths that are put together are none.
fn cited<'a>(text: &'a str, endings: &'a [&str]) -> impl Iterator<Item = &'a str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "_./:#-".contains(c)))
        .filter(|word| !word.contains("//") && !word.starts_with('/'))
        .map(|word| word.split('#').next().unwrap_or_default().trim_end_matches([':', '.', '-']))
        .filter(move |word| endings.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending)))
}

#[test]
fn every_document_and_source_that_is_cited_is_in_the_repository() {
    let mut files = Vec::new();
    texts(root(), &mut files);
    let (mut bad, mut seen) = (String::new(), 0);
    for (path, text) in &files {
        // Documents are cited everywhere, sources by documents.
        let is_document = path.extension().is_some_and(|extension| extension == "md");
        let endings: &[&str] = if is_document { &[".md", ".rs", ".py", ".yml", ".mjs"] } else { &[".md"] };
        let folder = path.parent().unwrap();
        for word in cited(text, endings) {
            seen += 1;
            let stripped = word.trim_start_matches("../");
            let places = [folder.join(word), root().join(stripped), root().join("src").join(stripped)];
            if !places.iter().any(|place| place.is_file()) {
                writeln!(bad, "{}: names {word}", path.strip_prefix(root()).unwrap().display()).unwrap();
            }
        }
        // Put together here so that this file does not hold it.
        let mark = ["DESIGN", "section"].join(" ");
        if text.contains(&mark) {
            writeln!(bad, "{}: cites {mark}", path.strip_prefix(root()).unwrap().display()).unwrap();
        }
    }
    assert!(seen > 20 && bad.is_empty(), "{seen} names were seen; these are of files that are not here:\n{bad}");
}
