//! Layers of settings, laid over the defaults one by one; every problem is kept, none stops the reading.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::defaults::{defaults, slot};
use super::limits;
use super::{Config, ConfigError, ENV_PREFIX, Problem, RawConfig};

/// The only open table: its keys are librdkafka's.
const PROPERTIES: &str = "kafka.properties";
/// Properties that the worker's promises rest on; setting them from outside would break one.
const RESERVED: [&str; 9] = [
    "acks",
    "enable.idempotence",
    "partition.assignment.strategy",
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "isolation.level",
    "transactional.id",
];

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
        match Self::survey(file, env, sets) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(ConfigError { problems }),
        }
    }

    /// The same for those who want to look on after the first problem: the settings as far as they could be read, the
    /// default standing for what could not, and everything that is wrong with them. They are proved only if nothing is.
    pub fn survey(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> (Option<Self>, Vec<Problem>) {
        let mut layers = Layers::new();
        if let Some(path) = file {
            layers.file(path);
        }
        for (name, value) in env {
            layers.env(&name, &value);
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

/// The defaults with whatever was laid over them so far, and what was wrong with it.
struct Layers {
    table: Table,
    sources: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Layers {
    fn new() -> Self {
        Self { table: defaults(), sources: BTreeMap::new(), problems: Vec::new() }
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

    /// One environment variable; those without the prefix are not ours.
    fn env(&mut self, name: &str, value: &str) {
        if let Some(key) = name.strip_prefix(ENV_PREFIX) {
            self.text(&env_key(key), value, &format!("environment {name}"));
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
        slot(&mut self.table, key)
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
            .filter(|(common, _)| *common >= 2)
            .max()
            .map(|(_, candidate)| candidate)
    }

    /// Holds every key that was set against what it may be by itself. One that may not be so falls back to its default:
    /// the others are still proved, and so no problem hides another.
    fn prove_alone(&mut self) {
        let (keys, defaults): (Vec<String>, Table) = (self.sources.keys().cloned().collect(), defaults());
        for key in keys {
            let Some(value) = self.slot(&key).cloned() else { continue };
            let Err(reason) = limits::admit(&defaults, &key, &value) else { continue };
            self.fault(&key, &value.as_str().map_or_else(|| value.to_string(), String::from), &reason);
            if let (Some(default), Some(wrong)) = (slot(&mut defaults.clone(), &key), self.slot(&key)) {
                wrong.clone_from(default);
            }
        }
    }

    fn prove(mut self) -> (Option<Config>, Vec<Problem>) {
        self.prove_alone();
        let table = std::mem::take(&mut self.table);
        let raw = match Value::Table(table).try_into::<RawConfig>() {
            Ok(raw) => raw,
            Err(e) => {
                self.problem("configuration", e.to_string().trim(), "merged layers");
                return (None, self.problems);
            }
        };
        let http = self.http(&raw.http.listen);
        let mut engine = raw.engine;
        match (engine.lanes, engine.threads_per_lane) {
            // Threads stay open: what is faster is measured once the model is there.
            (0, _) => engine.lanes = std::thread::available_parallelism().map_or(1, usize::from),
            (_, 0) => engine.threads_per_lane = 1,
            _ => {}
        }
        let config = Config {
            name: worker_name(raw.worker.name),
            kafka: raw.kafka,
            topics: raw.topics,
            model: raw.model.path,
            input: raw.input,
            engine,
            exits: raw.exits,
            learning: raw.learning,
            heads: raw.heads,
            drain_timeout: Duration::from_secs(raw.delivery.drain_timeout_s),
            http,
            log: raw.log,
        };
        self.check(&config);
        (Some(config), self.problems)
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
        let Config { kafka, topics, engine, .. } = config;
        if engine.max_in_flight < engine.max_batch {
            let reason = format!("must be at least engine.max_batch, {}", engine.max_batch);
            self.fault("engine.max_in_flight", &engine.max_in_flight.to_string(), &reason);
        }
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

/// `KAFKA__GROUP` -> `kafka.group`; below `kafka.properties` a single `_` stands for librdkafka's dot.
fn env_key(name: &str) -> String {
    let key = name.to_lowercase().replace("__", ".");
    match key.strip_prefix("kafka.properties.") {
        Some(property) => format!("{PROPERTIES}.{}", property.replace('_', ".")),
        None => key,
    }
}
