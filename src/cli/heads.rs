//! `offramp heads`: what the compacted topic holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use super::config_args::secret;
use super::{ConfigArgs, LaterArgs};
use crate::backbone::{Backbone, LoadOptions};
use crate::config::{Config, ConfigError};
use crate::fleet::store::{Record, read_all};
use crate::heads::snapshot;
use crate::heads::{Policy, Registry};
use crate::kafka::{Clients, REQUEST_TIMEOUT};
use crate::plan::Plan;

/// Arguments of `offramp heads`.
#[derive(Debug, clap::Args)]
pub struct HeadsArgs {
    /// Settings.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List all records, of every model.
    Ls {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// Settings.
        #[command(flatten)]
        config: LaterArgs,
    },
    /// Show the policy in force for the configured model: exits, thresholds, certificate.
    Show {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// Settings.
        #[command(flatten)]
        config: LaterArgs,
    },
    /// Write the configured model's records to a folder, one file each.
    Export {
        /// The folder; made if it does not exist.
        folder: PathBuf,
        /// Settings.
        #[command(flatten)]
        config: LaterArgs,
    },
    /// Forget everything learned for the configured model: its exits go off and learning starts anew.
    Reset {
        /// Do it; without this only what would be retired is printed.
        #[arg(long)]
        yes: bool,
        /// Settings.
        #[command(flatten)]
        config: LaterArgs,
    },
}

impl Action {
    fn config(&self) -> &LaterArgs {
        match self {
            Self::Ls { config, .. }
            | Self::Show { config, .. }
            | Self::Export { config, .. }
            | Self::Reset { config, .. } => config,
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// When settings, model or broker cannot be used.
pub fn run(args: &HeadsArgs) -> anyhow::Result<()> {
    let config = args.config.and(args.action.config()).load()?;
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "offramp-heads");
    let limit = Duration::from_secs(config.heads.catch_up_timeout_s);
    let records = read_all(&mut clients.follower("heads-cli"), &config.topics.heads, limit)?;
    match &args.action {
        Action::Ls { json, .. } => {
            ls(&config.topics.heads, &latest(records), *json);
            Ok(())
        }
        Action::Show { json, .. } => show(&config, records, *json),
        Action::Export { folder, .. } => {
            let plan = plan(&config)?;
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            for (key, record) in latest(records).into_iter().filter(|(key, _)| ours(&plan, key)) {
                let name = key.rsplit('/').take(2).collect::<Vec<_>>().join("-");
                let path = folder.join(format!("{name}.snapshot"));
                std::fs::write(&path, record.value.unwrap_or_default())
                    .with_context(|| format!("writing {}", path.display()))?;
                println!("{}", path.display());
            }
            Ok(())
        }
        Action::Reset { yes, .. } => {
            let plan = plan(&config)?;
            let keys: Vec<String> = latest(records).into_keys().filter(|key| ours(&plan, key)).collect();
            reset(&clients, &config, &keys, *yes)
        }
    }
}

/// The newest record of each key; keys whose newest record is a tombstone are gone.
fn latest(records: Vec<Record>) -> BTreeMap<String, Record> {
    let mut latest = BTreeMap::new();
    for record in records {
        let key = String::from_utf8_lossy(&record.key).into_owned();
        if record.value.is_some() {
            latest.insert(key, record);
        } else {
            latest.remove(&key);
        }
    }
    latest
}

fn plan(config: &Config) -> anyhow::Result<Plan> {
    let backbone = Backbone::load(&super::locate(&config.model), &LoadOptions::default())?;
    Ok(Plan::clone(backbone.plan()))
}

fn ours(plan: &Plan, key: &str) -> bool {
    key.starts_with(&format!("{}/{}/", plan.backbone, plan.plan))
}

fn listed(topic: &str, records: &BTreeMap<String, Record>) -> Value {
    let row = |(key, record): (&String, &Record)| {
        let value = record.value.as_deref().unwrap_or_default();
        let written = record.written_at_ms.and_then(crate::prediction::rfc3339);
        match snapshot::peek(value) {
            Ok(header) => json!({
                "key": key, "offset": record.offset, "bytes": value.len(), "sequence": header.sequence,
                "signed": header.signed, "written_at": written, "fault": null,
            }),
            Err(fault) => json!({
                "key": key, "offset": record.offset, "bytes": value.len(), "sequence": null,
                "signed": null, "written_at": written, "fault": fault.to_string(),
            }),
        }
    };
    json!({"topic": topic, "heads": records.iter().map(row).collect::<Vec<_>>()})
}

fn ls(topic: &str, records: &BTreeMap<String, Record>, json: bool) {
    let listed = listed(topic, records);
    if json {
        println!("{listed}");
        return;
    }
    println!(
        "{:<14} {:<14} {:<8} {:>8} {:>9} {:<7} written",
        "backbone", "plan", "record", "sequence", "bytes", "signed"
    );
    for row in listed["heads"].as_array().into_iter().flatten() {
        let text = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), String::from);
        let key = text("key");
        let mut parts = key.splitn(3, '/').map(|part| part.chars().take(12).collect::<String>());
        let mut part = || parts.next().unwrap_or_default();
        let fault = row["fault"].as_str().map(|fault| format!("  UNREADABLE: {fault}")).unwrap_or_default();
        println!(
            "{:<14} {:<14} {:<8} {:>8} {:>9} {:<7} {}{fault}",
            part(),
            part(),
            part(),
            text("sequence"),
            text("bytes"),
            text("signed"),
            text("written_at")
        );
    }
}

fn show(config: &Config, records: Vec<Record>, json: bool) -> anyhow::Result<()> {
    let plan = plan(config)?;
    let mut registry = Registry::new(&plan, secret(config).map_err(ConfigError::from)?);
    for record in records {
        // What a worker would ignore is ignored here too; `ls` shows that it is there.
        if let Err(rejection) = registry.accept(&record.key, record.value.as_deref()) {
            tracing::debug!(offset = record.offset, %rejection, "ignored");
        }
    }
    let Some((version, policy)) = registry.newest_policy() else {
        bail!("{} holds no policy for model {}: nothing was certified yet", config.topics.heads, plan.backbone.short());
    };
    if json {
        println!(
            "{}",
            json!({"model": plan.backbone.to_string(), "plan": plan.plan.to_string(), "version": version, "policy": policy})
        );
        return Ok(());
    }
    print_policy(&plan, version, policy);
    Ok(())
}

fn print_policy(plan: &Plan, version: u64, policy: &Policy) {
    println!("model {}  policy v{version}  {}", plan.backbone.short(), policy.state.as_str());
    println!("audit rate {:.1} %", policy.audit_rate * 100.0);
    for exit in &policy.exits {
        let point = plan.candidates.get(exit.exit.index());
        let share = point.map_or(0.0, |point| point.flops_fraction * 100.0);
        let tensor = point.map_or("?", |point| point.tensor.as_str());
        println!(
            "exit {}  after {share:.0} % of the FLOPs ({tensor})  confidence >= {:.4}  head {}",
            exit.exit, exit.threshold, exit.head
        );
    }
    if let Some(c) = &policy.certificate {
        println!(
            "certificate: at most {:.3} % of answers differ, {:.1} % confidence; {} of {} held-out audits differed",
            c.bound * 100.0,
            (1.0 - c.delta) * 100.0,
            c.disagreements,
            c.n
        );
    }
}

fn reset(clients: &Clients, config: &Config, keys: &[String], yes: bool) -> anyhow::Result<()> {
    for key in keys {
        println!("{} {key}", if yes { "retiring" } else { "would retire" });
    }
    if !yes {
        println!("nothing was changed; add --yes");
        return Ok(());
    }
    let producer: FutureProducer = clients.answers().create()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for key in keys {
            let tombstone = FutureRecord::<str, [u8]>::to(&config.topics.heads).key(key).partition(0);
            producer.send(tombstone, REQUEST_TIMEOUT).await.map_err(|(error, _)| error)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_one_object_and_holds_what_cannot_be_read_too() {
        let record = |key: &str, offset| Record {
            key: key.into(),
            value: Some(b"noise".to_vec()),
            offset,
            written_at_ms: Some(0),
        };
        for count in 0..3 {
            let records = (0..count).map(|offset| record(&format!("b/p/{offset}"), offset)).collect();
            let listed = listed("offramp.heads", &latest(records));
            assert!(listed.is_object() && listed["topic"] == "offramp.heads", "{listed}");
            let heads = listed["heads"].as_array().expect("a list");
            assert_eq!(heads.len() as i64, count);
            assert!(heads.iter().all(|row| row["fault"].is_string() && row["sequence"].is_null()), "{listed}");
        }
    }
}
