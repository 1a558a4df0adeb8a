//! Settings: commented defaults, a file, the environment and the command line, proved as a whole.
//!
//! `config/worker.toml` is compiled in: it is the list of keys, their types and their defaults. Layers are laid over it
//! one by one; every problem is collected, so that one run shows them all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::{Table, Value};

const DEFAULTS: &str = include_str!("../config/worker.toml");
const ENV_PREFIX: &str = "OFFRAMP__";
/// The only open table: its keys are librdkafka's.
const PROPERTIES: &str = "kafka.properties";
/// Properties that the worker's promises rest on; setting them from outside would break one.
const RESERVED: [&str; 6] = [
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "isolation.level",
    "transactional.id",
];

/// Settings that are known to be usable together.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of this worker.
    pub name: String,
    /// Broker and group.
    pub kafka: Kafka,
    /// Topic names.
    pub topics: Topics,
    /// Model folder, manifest or ONNX file.
    pub model: PathBuf,
    /// Lanes and limits.
    pub engine: Engine,
    /// The promise and its audits.
    pub exits: Exits,
    /// The learner's budget.
    pub learning: Learning,
    /// Sharing of heads.
    pub heads: Heads,
    /// Grace time for draining.
    pub drain_timeout: Duration,
    /// Where metrics and health are served; none: nowhere.
    pub http: Option<SocketAddr>,
    /// Logging.
    pub log: Log,
}

#[derive(Debug, Deserialize)]
struct RawConfig {
    worker: Worker,
    kafka: Kafka,
    topics: Topics,
    model: Model,
    engine: Engine,
    exits: Exits,
    learning: Learning,
    heads: Heads,
    delivery: Delivery,
    http: Http,
    log: Log,
}

#[derive(Debug, Deserialize)]
struct Worker {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Model {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    drain_timeout_s: u64,
}

#[derive(Debug, Deserialize)]
struct Http {
    listen: String,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub bootstrap_servers: String,
    /// Consumer group of the frames.
    pub group: String,
    /// Static membership id; empty: dynamic.
    pub instance_id: String,
    /// Where a new group starts.
    pub auto_offset_reset: OffsetReset,
    /// Milliseconds of silence after which partitions are lost.
    pub session_timeout_ms: u32,
    /// Milliseconds between commits.
    pub commit_interval_ms: u32,
    /// Milliseconds until an undelivered answer stops the worker.
    pub delivery_timeout_ms: u32,
    /// KiB of frames fetched ahead.
    pub prefetch_kbytes: u32,
    /// KiB of unconfirmed answers.
    pub output_queue_kbytes: u32,
    /// Passed to every librdkafka client.
    pub properties: BTreeMap<String, String>,
}

/// Where a consumer group without committed offsets begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffsetReset {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
}

impl OffsetReset {
    /// librdkafka's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
        }
    }
}

/// `[topics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Topics {
    /// In: frames.
    pub frames: String,
    /// Out: predictions.
    pub predictions: String,
    /// Out: frames that cannot be decoded.
    pub dead_letters: String,
    /// Audits.
    pub samples: String,
    /// What was learned.
    pub heads: String,
    /// Whether missing topics are created.
    pub create: bool,
    /// Replication factor of created topics, -1 for the broker's default.
    pub replication: i32,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Engine {
    /// Lane threads, at least one after proving.
    pub lanes: usize,
    /// ONNX Runtime threads in a lane.
    pub threads_per_lane: usize,
    /// Most frames in one run.
    pub max_batch: usize,
    /// Frames taken and not finished.
    pub max_in_flight: usize,
    /// Bytes.
    pub max_frame_bytes: usize,
    /// Pixels.
    pub max_frame_pixels: u64,
}

/// `[exits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Exits {
    /// Whether frames may leave early at all.
    pub enabled: bool,
    /// Promised bound on disagreement.
    pub epsilon: f64,
    /// One minus the confidence in it.
    pub delta: f64,
    /// Least audit rate.
    pub audit_floor: f64,
    /// Seed of audits and learning.
    pub seed: u64,
}

/// `[learning]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Learning {
    /// Whether this worker stands for election.
    pub enabled: bool,
    /// Share of the machine's CPU.
    pub cpu_share: f64,
    /// CPU seconds of credit.
    pub cpu_credit_s: f64,
    /// Whether audited frames are also run mirrored.
    pub copies: bool,
    /// Audits kept.
    pub window_samples: usize,
}

/// `[heads]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Heads {
    /// File with the shared secret; empty: none.
    pub hmac_key_file: PathBuf,
    /// Seconds allowed for catching up at start.
    pub catch_up_timeout_s: u64,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// Filter directive.
    pub level: String,
    /// Output form.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key, or the file's name.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
    /// The layer that set it.
    pub source: String,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|p| write!(f, "\n  {} ({}): {}", p.key, p.source, p.reason))
    }
}

impl Config {
    /// Reads the layers: defaults, `file`, `env` (pairs as from [`std::env::vars`]), `sets` (`section.key=value`).
    ///
    /// # Errors
    /// Every unknown key, wrong type and value out of range, all at once.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::new();
        if let Some(path) = file {
            layers.file(path);
        }
        for (name, value) in env {
            if let Some(key) = name.strip_prefix(ENV_PREFIX) {
                layers.text(&env_key(key), &value, &format!("environment {name}"));
            }
        }
        for set in sets {
            match set.split_once('=') {
                Some((key, value)) => layers.text(key.trim(), value.trim(), "--set"),
                None => layers.problem(set, "expected section.key=value", "--set"),
            }
        }
        layers.prove()
    }
}

/// `KAFKA__GROUP` -> `kafka.group`; below `kafka.properties` a single `_` stands for librdkafka's dot.
fn env_key(name: &str) -> String {
    let key = name.to_lowercase().replace("__", ".");
    match key.strip_prefix("kafka.properties.") {
        Some(property) => format!("{PROPERTIES}.{}", property.replace('_', ".")),
        None => key,
    }
}

struct Layers {
    table: Table,
    sources: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Layers {
    fn new() -> Self {
        let table = DEFAULTS.parse().expect("config/worker.toml is compiled in and a test parses it");
        Self { table, sources: BTreeMap::new(), problems: Vec::new() }
    }

    fn problem(&mut self, key: &str, reason: impl Into<String>, source: &str) {
        self.problems.push(Problem { key: key.into(), reason: reason.into(), source: source.into() });
    }

    fn file(&mut self, path: &Path) {
        let source = format!("file {}", path.display());
        match std::fs::read_to_string(path)
            .map_err(|e| e.to_string())
            .and_then(|text| text.parse::<Table>().map_err(|e| e.to_string().trim_end().replace('\n', "\n    ")))
        {
            Ok(table) => self.merge("", table, &source),
            Err(reason) => self.problem("configuration file", reason, &source),
        }
    }

    fn merge(&mut self, prefix: &str, table: Table, source: &str) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) if self.is_table(&key) => self.merge(&key, inner, source),
                value => self.put(&key, value, source),
            }
        }
    }

    /// A value that arrives as text takes the type of the default that it replaces.
    fn text(&mut self, key: &str, text: &str, source: &str) {
        let parsed = match self.slot(key) {
            Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
            Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
            Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
            _ => None,
        };
        self.put(key, parsed.unwrap_or_else(|| Value::String(text.into())), source);
    }

    fn put(&mut self, key: &str, value: Value, source: &str) {
        if let Some(property) = key.strip_prefix("kafka.properties.") {
            return self.put_property(property, &value, source);
        }
        let Some(slot) = self.slot(key) else {
            let hint = self.nearest(key).map_or(String::new(), |near| format!("; did you mean {near}?"));
            return self.problem(key, format!("unknown key{hint}"), source);
        };
        let value = match (&*slot, value) {
            (Value::Float(_), Value::Integer(whole)) => Value::Float(whole as f64),
            (_, value) => value,
        };
        if slot.same_type(&value) && !slot.is_table() {
            *slot = value;
            self.sources.insert(key.into(), source.into());
        } else {
            let (want, got) = (slot.type_str(), value.type_str());
            self.problem(key, format!("expected {want}, got {got} {value}"), source);
        }
    }

    fn put_property(&mut self, property: &str, value: &Value, source: &str) {
        let key = format!("{PROPERTIES}.{property}");
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(_) | Value::Boolean(_) | Value::Float(_) => value.to_string(),
            other => return self.problem(&key, format!("expected a string, got {}", other.type_str()), source),
        };
        if RESERVED.contains(&property) {
            return self.problem(&key, "is set by offramp itself and cannot be changed here", source);
        }
        if let Some(Value::Table(properties)) = self.slot(PROPERTIES) {
            properties.insert(property.into(), Value::String(text));
        }
    }

    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        let mut parts = key.split('.');
        let first = self.table.get_mut(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_table_mut()?.get_mut(part))
    }

    fn is_table(&mut self, key: &str) -> bool {
        self.slot(key).is_some_and(|value| value.is_table())
    }

    /// A known key whose last part is the same, or which shares the section and most letters.
    fn nearest(&self, key: &str) -> Option<String> {
        let last = key.rsplit('.').next()?;
        let known = self.table.iter().flat_map(|(section, value)| {
            value.as_table().into_iter().flat_map(move |t| t.keys().map(move |k| format!("{section}.{k}")))
        });
        known
            .map(|candidate| {
                let name = candidate.rsplit('.').next().unwrap_or_default();
                let common = last.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
                (common, candidate)
            })
            .filter(|(common, _)| *common >= 3)
            .max()
            .map(|(_, candidate)| candidate)
    }

    fn prove(mut self) -> Result<Config, ConfigError> {
        let table = std::mem::take(&mut self.table);
        let raw = match Value::Table(table).try_into::<RawConfig>() {
            Ok(raw) => raw,
            Err(e) => {
                self.problem("configuration", e.to_string().trim(), "merged layers");
                return Err(ConfigError { problems: self.problems });
            }
        };
        let http = self.http(&raw.http.listen);
        let mut engine = raw.engine;
        if engine.lanes == 0 {
            engine.lanes = std::thread::available_parallelism().map_or(1, usize::from);
        }
        let config = Config {
            name: worker_name(raw.worker.name),
            kafka: raw.kafka,
            topics: raw.topics,
            model: raw.model.path,
            engine,
            exits: raw.exits,
            learning: raw.learning,
            heads: raw.heads,
            drain_timeout: Duration::from_secs(raw.delivery.drain_timeout_s),
            http,
            log: raw.log,
        };
        self.check(&config);
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }

    fn http(&mut self, listen: &str) -> Option<SocketAddr> {
        if listen.is_empty() {
            return None;
        }
        let parsed = listen.parse().ok();
        if parsed.is_none() {
            self.fault("http.listen", listen, "expected address:port such as 0.0.0.0:9187, or \"\" for none");
        }
        parsed
    }

    fn check(&mut self, config: &Config) {
        let Config { kafka, topics, engine, exits, learning, .. } = config;
        self.within("engine.lanes", engine.lanes as f64, 1.0, 1024.0);
        self.within("engine.threads_per_lane", engine.threads_per_lane as f64, 1.0, 1024.0);
        self.within("engine.max_batch", engine.max_batch as f64, 1.0, 1024.0);
        self.within("engine.max_in_flight", engine.max_in_flight as f64, engine.max_batch as f64, 1e6);
        self.within("engine.max_frame_bytes", engine.max_frame_bytes as f64, 1024.0, 1e9);
        self.within("engine.max_frame_pixels", engine.max_frame_pixels as f64, 1.0, 1e9);
        self.within("exits.epsilon", exits.epsilon, 1e-5, 0.5);
        self.within("exits.delta", exits.delta, 1e-9, 0.5);
        self.within("exits.audit_floor", exits.audit_floor, 1e-4, 1.0);
        self.within("learning.cpu_share", learning.cpu_share, 0.001, 1.0);
        self.within("learning.cpu_credit_s", learning.cpu_credit_s, 0.0, 1e6);
        self.within("learning.window_samples", learning.window_samples as f64, 1000.0, 1e6);
        self.within("kafka.session_timeout_ms", f64::from(kafka.session_timeout_ms), 1000.0, 3.6e6);
        self.within("kafka.commit_interval_ms", f64::from(kafka.commit_interval_ms), 10.0, 60_000.0);
        self.within("kafka.delivery_timeout_ms", f64::from(kafka.delivery_timeout_ms), 1000.0, 3.6e6);
        self.within("kafka.prefetch_kbytes", f64::from(kafka.prefetch_kbytes), 64.0, 2_097_151.0);
        self.within("kafka.output_queue_kbytes", f64::from(kafka.output_queue_kbytes), 64.0, 2_097_151.0);
        for (key, value) in [("kafka.bootstrap_servers", &kafka.bootstrap_servers), ("kafka.group", &kafka.group)] {
            if value.trim().is_empty() {
                self.fault(key, value, "must not be empty");
            }
        }
        let named = [
            ("topics.frames", &topics.frames),
            ("topics.predictions", &topics.predictions),
            ("topics.dead_letters", &topics.dead_letters),
            ("topics.samples", &topics.samples),
            ("topics.heads", &topics.heads),
        ];
        for (index, (key, name)) in named.iter().enumerate() {
            if !is_topic_name(name) {
                self.fault(key, name, "is no topic name: 1 to 249 of a-z A-Z 0-9 . _ -");
            }
            if let Some((other, _)) = named.iter().take(index).find(|(_, earlier)| earlier == name) {
                self.fault(key, name, &format!("is the same topic as {other}"));
            }
        }
    }

    fn within(&mut self, key: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            self.fault(key, &value.to_string(), &format!("must be from {least} to {most}"));
        }
    }

    fn fault(&mut self, key: &str, value: &str, reason: &str) {
        let source = self.sources.get(key).cloned().unwrap_or_else(|| "default".into());
        self.problem(key, format!("{value:?} {reason}"), &source);
    }
}

fn is_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(legal) && name != "." && name != ".."
}

fn worker_name(given: String) -> String {
    if given.is_empty() {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{host}-{}", std::process::id())
    } else {
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(pairs: &[&str]) -> Result<Config, ConfigError> {
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        Config::load(None, Vec::new(), &pairs)
    }

    #[test]
    fn the_defaults_are_usable() {
        let config = sets(&[]).expect("defaults");
        assert_eq!(config.topics.heads, "offramp.heads");
        assert!(config.engine.lanes >= 1);
    }

    #[test]
    fn later_layers_win() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "[kafka]\ngroup = \"file\"\nsession_timeout_ms = 6000\n").expect("write");
        let env = vec![("OFFRAMP__KAFKA__GROUP".to_string(), "env".to_string())];
        let config = Config::load(Some(file.path()), env, &["exits.epsilon=0.02".into()]).expect("valid");
        assert_eq!((config.kafka.group.as_str(), config.kafka.session_timeout_ms), ("env", 6000));
        assert!((config.exits.epsilon - 0.02).abs() < 1e-12);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let error = sets(&["engine.max_batch=0", "kafka.grup=x", "topics.heads=frames", "exits.epsilon=yes", "oops"]);
        let problems = error.expect_err("five problems").problems;
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["kafka.grup", "exits.epsilon", "oops", "engine.max_batch", "topics.heads"]);
        assert!(problems[0].reason.contains("kafka.group"), "{}", problems[0].reason);
    }

    #[test]
    fn librdkafka_properties_pass_but_not_those_that_carry_a_promise() {
        let env = vec![("OFFRAMP__KAFKA__PROPERTIES__SASL_PASSWORD".to_string(), "s".to_string())];
        let config = Config::load(None, env, &[]).expect("valid");
        assert_eq!(config.kafka.properties.get("sasl.password").map(String::as_str), Some("s"));
        assert!(sets(&["kafka.properties.enable.auto.commit=true"]).is_err());
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Config::load(Some(Path::new("/no/such.toml")), Vec::new(), &[]).expect_err("no file");
        assert!(error.to_string().contains("/no/such.toml"));
    }
}
