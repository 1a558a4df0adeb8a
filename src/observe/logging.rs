//! The log: to stderr, as text for people or JSON for machines. Results go to stdout and never through here.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// One line of text; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error(
        "log filter {filter:?} is not understood ({reason}); say a level (\"info\") or targets (\"info,offramp=debug\")"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A log is already set up in this process.
    #[error("the log is already set up: {0}")]
    Taken(String),
}

/// Sets up the process's log. `filter` is a level (`info`) or a list of targets (`info,offramp=debug`).
///
/// # Errors
/// If the filter does not parse, or if a log is already set up.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| LoggingError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let colour = std::io::stderr().is_terminal();
    let set = match format {
        Format::Text => builder.with_ansi(colour).finish().try_init(),
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    set.map_err(|error| LoggingError::Taken(error.to_string()))
}
