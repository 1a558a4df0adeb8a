//! Numbers and words of the command line, proved while it is read, as settings are: what is wrong is said beside what would
//! be right, and nothing was begun.

use crate::config;

/// Batches, threads, workers, cameras: at least one, and no more than any machine has use for.
pub(super) fn some(text: &str) -> Result<usize, String> {
    whole(text, 1024)
}

/// Frames of a stream: at least one.
pub(super) fn many(text: &str) -> Result<usize, String> {
    whole(text, usize::MAX)
}

/// A part of a stream, its end included.
pub(super) fn share(text: &str) -> Result<f64, String> {
    real(text, |share| (0.0..=1.0).contains(&share), "from 0 to 1")
}

/// A place in a stream with something behind it.
pub(super) fn place(text: &str) -> Result<f64, String> {
    real(text, |share| (0.0..1.0).contains(&share), "from 0 to less than 1")
}

/// As the setting `exits.epsilon`.
pub(super) fn epsilon(text: &str) -> Result<f64, String> {
    setting("exits.epsilon", text)
}

/// As the setting `exits.delta`.
pub(super) fn delta(text: &str) -> Result<f64, String> {
    setting("exits.delta", text)
}

/// As the setting `exits.audit_floor`.
pub(super) fn audit_floor(text: &str) -> Result<f64, String> {
    setting("exits.audit_floor", text)
}

/// As the setting `log.level`.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    config::log_filter(text).map(|()| text.to_owned())
}

fn setting(key: &str, text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|error| format!("{error}"))?;
    config::in_range(key, number).map(|()| number)
}

fn real(text: &str, right: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if right(number) { Ok(number) } else { Err(format!("must be {range}")) }
}

fn whole(text: &str, most: usize) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    if (1..=most).contains(&number) { Ok(number) } else { Err(format!("must be from 1 to {most}")) }
}
