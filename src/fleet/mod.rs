//! What the workers of a fleet share through Kafka: the topic of heads, and who learns.
//!
//! The contact of `heads` and `learn` with Kafka, threads and the clock; both of them stay pure. Read in this order:
//! `store` (the topic of heads, read to its end and followed), `leader` (standing for election), `learning` (a term as the
//! learner), over `log_end` (whether a log was read back), `budget` (the CPU time that learning may use, and has),
//! `priority`, `cap` (the samples that the fleet may make) and `term` (what a term needs, and how it may end).

pub mod budget;
mod cap;
mod leader;
mod learning;
mod log_end;
mod priority;
pub mod store;
mod term;

pub use term::{Leader, LeaderError};
