//! The command line: one file per subcommand, results on stdout, everything else on stderr.

#![allow(clippy::print_stdout, reason = "the place where results are printed; everywhere else a line is a log line")]

mod arguments;
pub mod check;
mod config_args;
pub mod demo;
pub mod feed;
pub mod heads;
pub mod inspect;
pub mod replay;
pub mod run;
pub mod topics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
pub use config_args::{ConfigArgs, LaterArgs, locate};

/// Exit code of a wrong configuration or command line (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Classifies camera frames from Kafka with your ONNX model and learns where a frame may leave it early.
#[derive(Debug, Parser)]
#[command(name = "offramp", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a worker.
    Run(run::RunArgs),
    /// Show everything in one process: an embedded broker, six cameras, two workers that learn from nothing.
    Demo(demo::DemoArgs),
    /// Put frames into Kafka: a folder of pictures, a video, a .npy or IDX file.
    Feed(feed::FeedArgs),
    /// Show where a model can be cut, what each part costs, and what cutting adds.
    Inspect(inspect::InspectArgs),
    /// Play a recorded stream and show what offramp would save, and at what risk; no Kafka.
    Replay(replay::ReplayArgs),
    /// Look at, export or reset what the heads topic holds.
    Heads(heads::HeadsArgs),
    /// Create the topics.
    Topics(topics::TopicsArgs),
    /// Check configuration, model, broker and topics; report all problems at once.
    Check(check::CheckArgs),
}

/// Runs the command line and turns its outcome into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // A closed pipe on the way out is nobody's problem.
            error.print().unwrap_or_default();
            return ExitCode::from(code);
        }
    };
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// What the command cannot do; [`exit_code`] tells whether the one who typed it can do something about it.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Feed(args) => feed::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Replay(args) => replay::run(&args),
            Command::Heads(args) => heads::run(&args),
            Command::Topics(args) => topics::run(&args),
            Command::Check(args) => check::run(&args),
        }
    }
}

/// An error in words: its own, and those of its causes that it does not hold already.
#[must_use]
pub fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

/// The exit code that an error stands for.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() { EXIT_USAGE } else { 1 }
}
