//! The command line: one file per subcommand, results on stdout, everything else on stderr.

#![allow(clippy::print_stdout, reason = "the place where results are printed; everywhere else a line is a log line")]

mod arguments;
pub mod check;
pub mod demo;
pub mod feed;
pub mod heads;
pub mod inspect;
pub mod replay;
pub mod run;
pub mod topics;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, ENV_PREFIX, Problem};
use crate::heads::HmacKey;
use crate::kafka::Clients;
use crate::worker::{WorkerError, hmac_key};

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

/// Settings as every command that talks to a cluster takes them.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Settings file (TOML); keys that it lacks have the defaults of config/worker.toml.
    #[arg(long, short, value_name = "FILE", env = "OFFRAMP_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one key over file and environment, e.g. --set kafka.group=cameras.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// The same behind what is to be done with them: `offramp heads ls --config worker.toml`. clap's global arguments would
/// silently forget those in front when there are some behind.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LaterArgs {
    /// Settings file (TOML); keys that it lacks have the defaults of config/worker.toml.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key over file and environment, e.g. --set kafka.group=cameras.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl ConfigArgs {
    /// These settings, and over them those that stand further behind.
    #[must_use]
    pub fn and(&self, later: &LaterArgs) -> Self {
        let config = later.config.as_ref().or(self.config.as_ref());
        Self { config: config.cloned(), sets: [&self.sets[..], &later.sets[..]].concat() }
    }

    /// The proved settings.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(&self) -> Result<Config, ConfigError> {
        proved(self.survey())
    }

    /// The proved settings of a worker, which needs the fleet's secret as well.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load_for_worker(&self) -> Result<Config, ConfigError> {
        proved(self.survey_for_worker())
    }

    /// The settings as far as they can be read, and everything that is wrong with them.
    #[must_use]
    pub fn survey(&self) -> (Option<Config>, Vec<Problem>) {
        let (env, mut problems) = environment(std::env::vars_os());
        let (config, found) = Config::survey(self.config.as_deref(), env, &self.sets);
        problems.extend(found);
        if let Some(Config { kafka, engine, name, .. }) = &config {
            problems.extend(Clients::new(kafka.clone(), engine.max_frame_bytes, name).problems());
        }
        (config, problems)
    }

    /// The same with what only a worker needs.
    #[must_use]
    pub fn survey_for_worker(&self) -> (Option<Config>, Vec<Problem>) {
        let (config, mut problems) = self.survey();
        problems.extend(config.as_ref().and_then(|config| secret(config).err()));
        (config, problems)
    }
}

/// The settings among the environment. What else is in it is not ours and may be of any bytes.
fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> (Vec<(String, String)>, Vec<Problem>) {
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(ENV_PREFIX) {
            continue;
        }
        match value.into_string() {
            Ok(value) => settings.push((name, value)),
            Err(_) => problems.push(Problem {
                key: name,
                reason: "its value is not UTF-8".into(),
                source: "environment".into(),
            }),
        }
    }
    (settings, problems)
}

fn proved((config, problems): (Option<Config>, Vec<Problem>)) -> Result<Config, ConfigError> {
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError { problems }),
    }
}

/// The fleet's secret, if there is one; a file that cannot be used is a wrong setting.
fn secret(config: &Config) -> Result<Option<HmacKey>, Problem> {
    hmac_key(&config.heads.hmac_key_file).map_err(|error| {
        let reason = match error {
            WorkerError::Key { path, reason } => format!("{path}: {reason}"),
            other => other.to_string(),
        };
        Problem { key: "heads.hmac_key_file".into(), reason, source: "file".into() }
    })
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

/// A path given in settings: as it stands, or else beside the program or one of the folders above it, so that the built
/// binary finds the project's own models from anywhere.
#[must_use]
pub fn locate(path: &Path) -> PathBuf {
    if path.exists() || path.is_absolute() {
        return path.to_path_buf();
    }
    let exe = std::env::current_exe().ok();
    let above = exe.iter().flat_map(|exe| exe.ancestors().skip(1).take(4)).map(|folder| folder.join(path));
    above.into_iter().find(|candidate| candidate.exists()).unwrap_or_else(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn only_our_variables_must_be_text() {
        let odd = OsString::from_vec(vec![b'x', 0xFF]);
        let ours = |key: &str| OsString::from(format!("{ENV_PREFIX}{key}"));
        let variables = [
            ("FOO".into(), odd.clone()),
            (odd.clone(), "1".into()),
            (ours("KAFKA__GROUP"), "cameras".into()),
            (ours("KAFKA__INSTANCE_ID"), odd),
        ];
        let (settings, problems) = environment(variables);
        assert_eq!(settings, [("OFFRAMP__KAFKA__GROUP".to_owned(), "cameras".to_owned())]);
        assert_eq!(problems.len(), 1);
        assert!(problems.iter().all(|problem| problem.key == "OFFRAMP__KAFKA__INSTANCE_ID"), "{problems:?}");
    }
}
