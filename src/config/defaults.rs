//! `config/worker.toml`: the list of keys, their types and their defaults, compiled in.

use toml::{Table, Value};

const DEFAULTS: &str = include_str!("../../config/worker.toml");

#[allow(clippy::expect_used, reason = "a text that is compiled in; a test parses it")]
pub(super) fn defaults() -> Table {
    DEFAULTS.parse().expect("config/worker.toml is compiled in and a test parses it")
}

/// The value under a dotted key.
pub(super) fn slot<'t>(table: &'t mut Table, key: &str) -> Option<&'t mut Value> {
    let mut parts = key.split('.');
    let first = table.get_mut(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table_mut()?.get_mut(part))
}
