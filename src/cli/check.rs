//! `offramp check`: everything that can be known to be wrong before a worker starts, all of it at once.

use crate::backbone::{Backbone, BackboneError, LoadOptions, runtime};
use crate::config::{Config, ConfigError, Problem};
use crate::kafka::{Clients, TopicError, TopicState, inspect_topics};

use super::ConfigArgs;

/// Arguments of `offramp check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Settings.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Look at settings and model only, not at the broker.
    #[arg(long)]
    pub offline: bool,
}

/// Prints one line for each thing checked.
///
/// # Errors
/// All problems; the exit code is that of a bad configuration.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let (config, mut problems) = args.config.survey_for_worker();
    for problem in &problems {
        println!("FAIL  {:<9} {} ({}): {}", "settings", problem.key, problem.source, problem.reason);
    }
    let Some(config) = config else { return Err(ConfigError { problems }.into()) };
    if problems.is_empty() {
        passed("settings", &format!("worker {:?}, group {:?}", config.name, config.kafka.group));
    }
    // Wrong settings do not end the search: their defaults stand for them here.
    check_model(&config, &mut problems);
    if args.offline {
        println!("skip  broker    --offline");
    } else {
        check_broker(&config, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }.into()) }
}

fn passed(what: &str, detail: &str) {
    println!("ok    {what:<9} {detail}");
}

fn failed(what: &str, key: &str, reason: String, problems: &mut Vec<Problem>) {
    println!("FAIL  {what:<9} {reason}");
    problems.push(Problem { key: key.into(), reason, source: what.into() });
}

fn check_model(config: &Config, problems: &mut Vec<Problem>) {
    match runtime::init() {
        Ok(info) => passed("runtime", &format!("ONNX Runtime {} at {}", info.build, info.path.display())),
        Err(error) => return failed("runtime", "ONNX Runtime", error.to_string(), problems),
    }
    let path = super::locate(&config.model);
    match Backbone::load(&path, &LoadOptions::on(&config.engine.provider, 1)) {
        Ok(backbone) => {
            let plan = backbone.plan();
            let found = format!(
                "{} ({}): {} classes, {} candidate exits, {:.1} MFLOPs a frame",
                path.display(),
                plan.backbone.short(),
                plan.classes(),
                plan.candidates.len(),
                plan.flops as f64 / 1e6
            );
            passed("model", &found);
        }
        Err(error @ BackboneError::Provider(_)) => failed("runtime", "engine.provider", error.to_string(), problems),
        Err(error) => failed("model", "model.path", error.to_string(), problems),
    }
}

fn check_broker(config: &Config, problems: &mut Vec<Problem>) {
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, &config.name);
    let states = match inspect_topics(&clients, &config.topics) {
        Ok(states) => states,
        // Said among the settings already.
        Err(TopicError::Refused(_)) => return,
        Err(error) => return failed("broker", "kafka.bootstrap_servers", error.to_string(), problems),
    };
    passed("broker", &config.kafka.bootstrap_servers);
    for (topic, state) in states {
        match state {
            TopicState::Ready { partitions } => passed("topic", &format!("{topic}: {partitions} partitions")),
            TopicState::Missing if config.topics.create => {
                passed("topic", &format!("{topic}: missing, will be created"));
            }
            TopicState::Missing => {
                let reason = format!("topic {topic} does not exist; create it, or set topics.create = true");
                failed("topic", "topics", reason, problems);
            }
            TopicState::Wrong { reason } => failed("topic", "topics", format!("topic {topic} {reason}"), problems),
        }
    }
}
