//! Settings as commands take them: a file, the environment, `--set`, all problems at once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, ENV_PREFIX, Problem};
use crate::heads::HmacKey;
use crate::kafka::Clients;
use crate::worker::{WorkerError, hmac_key};

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
pub(super) fn secret(config: &Config) -> Result<Option<HmacKey>, Problem> {
    hmac_key(&config.heads.hmac_key_file).map_err(|error| {
        let reason = match error {
            WorkerError::Key { path, reason } => format!("{path}: {reason}"),
            other => other.to_string(),
        };
        Problem { key: "heads.hmac_key_file".into(), reason, source: "file".into() }
    })
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
