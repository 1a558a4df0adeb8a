//! Settings: commented defaults, a file, the environment and the command line, proved as a whole.
//!
//! `config/worker.toml` is compiled in: it is the list of keys, their types and their defaults. Layers are laid over it
//! one by one; every problem is collected, so that one run shows them all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::frame::Orientation;
use crate::provider::Provider;

mod defaults;
mod layers;
mod limits;

pub use limits::{in_range, log_filter};

/// What the names of settings in the environment begin with.
pub const ENV_PREFIX: &str = "OFFRAMP__";

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
    /// How frames are taken.
    pub input: Input,
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
    input: Input,
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

/// `[input]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Input {
    /// What is done about the tag with which a camera tells how it was held.
    pub orientation: Orientation,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Engine {
    /// Lane threads, at least one after proving.
    pub lanes: usize,
    /// ONNX Runtime threads in a lane; 0 after proving: a lane per core or one lane on all of them, as measured at load.
    pub threads_per_lane: usize,
    /// What runs the model.
    pub provider: Provider,
    /// Folder in which measurements are kept; empty: none, `auto`: the platform's own.
    pub cache_dir: String,
    /// Most frames in one run.
    pub max_batch: usize,
    /// Most batches that may overtake a frame which waits behind an exit.
    pub overtaken_max: usize,
    /// Frames taken and not finished.
    pub max_in_flight: usize,
    /// KiB of them.
    pub in_flight_kbytes: usize,
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
    /// Copies of an audited frame.
    pub copies: u8,
    /// Audits kept.
    pub window_samples: usize,
    /// Most samples a second of the whole fleet.
    pub samples_per_s: f64,
    /// Least time between two certifying audits of one camera.
    pub camera_interval_ms: i64,
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

impl Problem {
    /// This problem alone as an error: a setting that proved wrong only when it was used.
    #[must_use]
    pub fn found(key: &str, source: &str, reason: impl fmt::Display) -> ConfigError {
        Self { key: key.into(), reason: reason.to_string(), source: source.into() }.into()
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    fn a_survey_goes_on_after_a_problem() {
        let set = ["kafka.grup=x".to_string(), "kafka.group=cameras".to_string()];
        let (config, problems) = Config::survey(None, Vec::new(), &set);
        assert_eq!(config.map(|config| config.kafka.group).as_deref(), Some("cameras"));
        assert_eq!(problems.len(), 1);
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
