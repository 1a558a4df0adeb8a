//! Goal: no dead panel and no deaf alert: whatever dashboards and rules ask Prometheus for is exported by the worker, and
//! the dashboards find their data source as they are provisioned.
//! Method: collect the metric names in the files and hold them against the table that the worker exports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use offramp::observe::metrics::{Kind, PROCESS_METRICS, TABLE};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/grafana/dashboards");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap())).collect()
}

/// Every name that a query may use: a histogram is three series.
fn exported() -> BTreeSet<String> {
    let mut names: BTreeSet<String> = PROCESS_METRICS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for spec in TABLE {
        match spec.kind {
            Kind::Counter | Kind::Gauge => drop(names.insert(spec.name.to_owned())),
            Kind::Histogram => names.extend(["_bucket", "_sum", "_count"].map(|part| spec.name.to_owned() + part)),
        }
    }
    names
}

/// Words of the text that look like a metric of the worker's.
fn asked(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("offramp_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == key => found.push(text),
                    other => strings(other, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}

#[test]
fn every_metric_asked_for_is_exported() {
    let exported = exported();
    let mut texts = vec![("rules.yml".to_owned(), read("config/prometheus/rules.yml"))];
    texts.push(("rules_test.yml".to_owned(), read("config/prometheus/rules_test.yml")));
    texts.extend(dashboards().into_iter().map(|(path, json)| (path.display().to_string(), json.to_string())));
    for (file, text) in texts {
        let asked = asked(&text);
        assert!(asked.len() > 5, "{file} asks for next to nothing: is it read right?");
        let dead: Vec<_> = asked.difference(&exported).collect();
        assert!(dead.is_empty(), "{file} asks for {dead:?}, which the worker does not export");
    }
}

#[test]
fn every_label_asked_for_exists() {
    let known: BTreeSet<&str> =
        TABLE.iter().flat_map(|spec| spec.labels).copied().chain(["job", "instance", "le", "alertname"]).collect();
    for (path, json) in dashboards() {
        let mut queries = Vec::new();
        strings(&json, "expr", &mut queries);
        for query in queries {
            for group in query.split(" by (").skip(1) {
                let labels = group.split(')').next().unwrap().split(',').map(str::trim);
                let unknown: Vec<_> = labels.filter(|label| !known.contains(label)).collect();
                assert!(unknown.is_empty(), "{}: no metric has {unknown:?}: {query}", path.display());
            }
        }
    }
}

#[test]
fn dashboards_are_fit_for_provisioning() {
    let datasource = read("config/grafana/provisioning/datasources/prometheus.yml");
    for (path, json) in dashboards() {
        let path = path.display();
        assert!(json.get("__inputs").is_none(), "{path}: __inputs show 'No data' when provisioned");
        assert!(json["uid"].is_string() && json["schemaVersion"].is_u64(), "{path}: needs a fixed uid and a version");
        let variables = json["templating"]["list"].as_array().unwrap();
        let source = variables.iter().find(|variable| variable["name"] == "datasource").unwrap();
        let uid = source["current"]["value"].as_str().unwrap();
        assert!(datasource.contains(&format!("uid: {uid}")), "{path}: its data source {uid} is not provisioned");

        let mut used = Vec::new();
        strings(&json["panels"], "uid", &mut used);
        assert!(used.iter().all(|uid| *uid == "${datasource}"), "{path}: a panel has a data source of its own");

        let panels = json["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{path}: two panels share an id");
        let mut cells = BTreeSet::new();
        for panel in panels {
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            for (x, y) in (side("x")..side("x") + side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
                assert!(x < 24 && cells.insert((x, side("y") + y)), "{path}: {} lies on another panel", panel["title"]);
            }
        }
    }
}
