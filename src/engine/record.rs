//! What was measured of a model on a machine: what it is for, and whether it can be so.

use serde::{Deserialize, Serialize};

use crate::backbone::{Measured, Way, runtime};
use crate::files;
use crate::plan::{CostTable, Fingerprint, Plan};
use crate::provider::Provider;

/// Raised when what is measured, or how, changes.
const FORMAT: u32 = 1;
/// `/proc/cpuinfo` of a machine with a thousand cores has less.
const CPUINFO_BYTES_MAX: u64 = 16 << 20;
/// Most lanes and threads, as in the settings.
const COUNT_MAX: usize = 1024;

/// What a measurement is for: with any of it changed it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// The model and how it is fed.
    backbone: Fingerprint,
    plan: Fingerprint,
    /// The processor, and how many of its cores this process may use.
    cpu: String,
    cores: usize,
    /// What runs the model, as set.
    provider: String,
    lanes: usize,
    threads: usize,
    /// Who measured, with which library.
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    format: u32,
    offramp: String,
    runtime: String,
}

/// A measurement: see [`super::Engine::load_for`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) key: Key,
    /// Lanes and threads in each that were found best.
    pub(super) lanes: usize,
    pub(super) threads: usize,
    pub(super) measured: Measured,
    pub(super) costs: CostTable,
}

impl Key {
    /// What is measured now.
    pub(super) fn now(plan: &Plan, lanes: usize, threads: usize, provider: &Provider) -> Self {
        let runtime =
            runtime::init().map_or_else(|_| "none".to_owned(), |info| format!("{} {}", info.version, info.build));
        let version = Version { format: FORMAT, offramp: env!("CARGO_PKG_VERSION").to_owned(), runtime };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (backbone, plan, provider) = (plan.backbone, plan.plan, provider.to_string());
        Self { backbone, plan, cpu: cpu(), cores, provider, lanes, threads, version }
    }

    /// A name for where such a measurement is kept; a newer version takes the place of an older one.
    pub(super) fn name(&self) -> String {
        let Self { backbone, plan, cpu, cores, provider, lanes, threads, version: _ } = self;
        let hash = blake3::hash(format!("{plan} {cpu:?} {cores} {provider:?} {lanes} {threads}").as_bytes());
        format!("{}-{}", backbone.short(), Fingerprint(*hash.as_bytes()).short())
    }
}

impl Record {
    /// Whether it was made for this and can be true.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, wanted: &Key, candidates: usize) -> Result<(), String> {
        if self.key.version != wanted.version {
            return Err("is stale: another version of offramp or of ONNX Runtime measured it".to_owned());
        }
        if self.key != *wanted {
            return Err("is foreign: it is of another model, machine or setting".to_owned());
        }
        let Self { lanes, threads, measured, costs, .. } = self;
        let counts = [lanes, threads].into_iter().all(|count| (1..=COUNT_MAX).contains(count));
        let exits = if measured.way == Way::Whole { 0 } else { candidates };
        let CostTable { piece_ms, cut_ms, head_ms, whole_ms } = costs;
        let lengths = piece_ms.len() == exits + 1 && cut_ms.len() == exits && head_ms.len() == exits;
        let times = piece_ms.iter().chain(head_ms).all(|ms| ms.is_finite() && *ms >= 0.0);
        let sound = counts && lengths && times && cut_ms.iter().all(|ms| ms.is_finite());
        if sound && whole_ms.is_finite() && *whole_ms > 0.0 && measured.fits(candidates) {
            Ok(())
        } else {
            Err("cannot be true: its numbers do not fit the model".to_owned())
        }
    }
}

/// The processor's name and a hash of all that tells it from others.
fn cpu() -> String {
    const TELLING: [&str; 11] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "flags",
        "CPU implementer",
        "CPU variant",
        "CPU part",
        "CPU revision",
        "Features",
    ];
    let text = files::read_text("/proc/cpuinfo".as_ref(), CPUINFO_BYTES_MAX).unwrap_or_default();
    // All that is said of the first core; the others are its like.
    let lines = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let told: Vec<(&str, &str)> =
        lines.map(|(key, value)| (key.trim(), value.trim())).filter(|(key, _)| TELLING.contains(key)).collect();
    let name = told.iter().find(|(key, _)| *key == "model name").map_or(std::env::consts::ARCH, |(_, name)| name);
    format!("{name} {}", Fingerprint(*blake3::hash(format!("{told:?}").as_bytes()).as_bytes()).short())
}
