//! Chaos as a program: blows in a seeded order on a fleet of processes under load, and the count at the end.

#![allow(unreachable_pub, reason = "modules of one test binary, public to it alone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper is a failing test")]

pub mod blows;
pub mod cameras;
pub mod groups;
pub mod process;
pub mod tally;
