//! Goal: what the README says of the program is what the program says of itself.
//! Method: the table between two markers is compared with the program's own; `BLESS=1 cargo test --test readme` writes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use offramp::observe::metrics::markdown;

const BEGIN: &str = "<!-- metrics: begin -->\n";
const END: &str = "<!-- metrics: end -->\n";

#[test]
fn the_metrics_table_is_the_programs_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).expect("the README");
    let (before, rest) = text.split_once(BEGIN).expect("the first marker");
    let (table, after) = rest.split_once(END).expect("the second marker");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", markdown())).expect("writable");
        return;
    }
    assert_eq!(table, markdown(), "run BLESS=1 cargo test --test readme");
}
