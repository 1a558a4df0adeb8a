//! What a setting may be by itself, whatever the others are.

use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

use super::RawConfig;
use super::defaults::slot;

/// No timeout is longer: a clock plus a day is a time that every clock can tell.
const DAY_S: f64 = 86_400.0;
/// librdkafka counts kilobytes in a signed 32-bit number of bytes.
const KBYTES_MAX: f64 = 2_097_151.0;

/// Every number among the settings, its least and its most.
const RANGES: &[(&str, f64, f64)] = &[
    ("kafka.session_timeout_ms", 1000.0, 3.6e6),
    ("kafka.commit_interval_ms", 10.0, 60_000.0),
    ("kafka.delivery_timeout_ms", 1000.0, 3.6e6),
    ("kafka.prefetch_kbytes", 64.0, KBYTES_MAX),
    ("kafka.output_queue_kbytes", 64.0, KBYTES_MAX),
    ("topics.replication", -1.0, 32_767.0),
    ("engine.lanes", 0.0, 1024.0),
    ("engine.threads_per_lane", 0.0, 1024.0),
    ("engine.max_batch", 1.0, 1024.0),
    ("engine.overtaken_max", 0.0, 1024.0),
    ("engine.max_in_flight", 1.0, 1e6),
    ("engine.in_flight_kbytes", 64.0, 1e9),
    ("engine.max_frame_bytes", 1024.0, 5e8),
    ("engine.max_frame_pixels", 1.0, 1e9),
    ("exits.epsilon", 1e-5, 0.5),
    ("exits.delta", 1e-9, 0.5),
    ("exits.audit_floor", 1e-4, 1.0),
    ("exits.seed", 0.0, i64::MAX as f64),
    ("learning.cpu_share", 0.001, 1.0),
    ("learning.cpu_credit_s", 0.0, 1e6),
    ("learning.copies", 0.0, 8.0),
    ("learning.window_samples", 1000.0, 1e6),
    ("learning.samples_per_s", 1.0, 1e6),
    ("learning.camera_interval_ms", 0.0, DAY_S * 1000.0),
    ("heads.catch_up_timeout_s", 1.0, DAY_S),
    ("delivery.drain_timeout_s", 0.0, DAY_S),
];

/// Whether a value of the right type may stand for `key`.
///
/// # Errors
/// What would be right.
pub(super) fn admit(defaults: &Table, key: &str, value: &Value) -> Result<(), String> {
    if let Some(number) = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)) {
        in_range(key, number)?;
    }
    if key == "topics.replication" && value.as_integer() == Some(0) {
        return Err("must be at least 1, or -1 for the broker's default".to_owned());
    }
    if let ("log.level", Some(filter)) = (key, value.as_str()) {
        log_filter(filter)?;
    }
    word(defaults, key, value)
}

/// Whether a number may stand for `key`.
///
/// # Errors
/// The range that it must be in.
pub fn in_range(key: &str, number: f64) -> Result<(), String> {
    match RANGES.iter().find(|(name, ..)| *name == key) {
        Some((_, least, most)) if !(*least..=*most).contains(&number) => Err(format!("must be from {least} to {most}")),
        _ => Ok(()),
    }
}

/// Whether a text filters log lines: a level, or a list of targets.
///
/// # Errors
/// What is wrong with it.
pub fn log_filter(text: &str) -> Result<(), String> {
    let read = EnvFilter::try_new(text).map(drop);
    read.map_err(|error| format!("must be a level (info) or a list of targets (info,offramp=debug): {error}"))
}

/// The types know which words they take: among the defaults the value must be understood.
fn word(defaults: &Table, key: &str, value: &Value) -> Result<(), String> {
    let mut alone = defaults.clone();
    if let Some(slot) = slot(&mut alone, key) {
        *slot = value.clone();
    }
    let understood = Value::Table(alone).try_into::<RawConfig>().map(drop);
    understood.map_err(|error| match error.message().rsplit_once("expected ") {
        Some((_, expected)) => format!("must be {expected}"),
        None => error.message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::RANGES;
    use crate::config::Config;

    fn keys(of: impl Fn(&toml::Value) -> bool) -> Vec<String> {
        let defaults: toml::Table = include_str!("../../config/worker.toml").parse().expect("the defaults");
        let section = |(name, value): (&String, &toml::Value)| -> Vec<String> {
            let keys = value.as_table().into_iter().flatten();
            keys.filter(|(_, value)| of(value)).map(|(key, _)| format!("{name}.{key}")).collect()
        };
        defaults.iter().flat_map(section).collect()
    }

    #[test]
    fn every_number_has_a_range() {
        let mut ranged: Vec<String> = RANGES.iter().map(|(key, ..)| (*key).to_owned()).collect();
        let mut numbers = keys(|value| value.is_integer() || value.is_float());
        ranged.sort();
        numbers.sort();
        assert_eq!(ranged, numbers);
    }

    #[test]
    fn no_wrong_value_hides_another() {
        for (whole, real) in [("-9223372036854775808", "nan"), ("-7", "inf"), ("-2", "-1e-300")] {
            let mut wrong: Vec<String> = keys(toml::Value::is_integer).iter().map(|k| format!("{k}={whole}")).collect();
            wrong.extend(keys(toml::Value::is_float).iter().map(|key| format!("{key}={real}")));
            wrong.extend(["log.format=xml", "log.level=[[[", "kafka.auto_offset_reset=never"].map(String::from));
            let problems = Config::load(None, Vec::new(), &wrong).expect_err("all are wrong").problems;
            let (mut told, mut asked): (Vec<&str>, Vec<&str>) = (
                problems.iter().map(|problem| problem.key.as_str()).collect(),
                wrong.iter().filter_map(|set| Some(set.split_once('=')?.0)).collect(),
            );
            told.sort_unstable();
            asked.sort_unstable();
            assert_eq!(told, asked, "{problems:?}");
            assert!(problems.iter().all(|problem| problem.source == "--set"), "{problems:?}");
        }
        for timeout in ["heads.catch_up_timeout_s", "delivery.drain_timeout_s"] {
            let year = [format!("{timeout}=31536000"), "topics.replication=0".to_owned()];
            assert_eq!(Config::load(None, Vec::new(), &year).expect_err("too long").problems.len(), 2);
        }
    }
}
