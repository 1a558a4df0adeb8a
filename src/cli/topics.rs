//! `offramp topics`: the topics as offramp wants them.

use super::{ConfigArgs, LaterArgs};
use crate::kafka::{Clients, ensure_topics, inspect_topics};

/// Arguments of `offramp topics`.
#[derive(Debug, clap::Args)]
pub struct TopicsArgs {
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
    /// Create what is missing, with the right cleanup policies; what exists is checked and left as it is.
    Create {
        /// Settings.
        #[command(flatten)]
        config: LaterArgs,
    },
}

/// Makes the topics ready and lists them.
///
/// # Errors
/// A wrong configuration, no broker, or a topic that cannot be created or used.
pub fn run(args: &TopicsArgs) -> anyhow::Result<()> {
    let Action::Create { config } = &args.action;
    let mut config = args.config.and(config).load()?;
    config.topics.create = true;
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "offramp-topics");
    let before = inspect_topics(&clients, &config.topics)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ensure_topics(&clients, &config.topics))?;
    for (topic, state) in before {
        println!("{topic}: {}", if state == crate::kafka::TopicState::Missing { "created" } else { "exists" });
    }
    Ok(())
}
