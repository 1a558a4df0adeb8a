//! What the workers of a fleet share through Kafka: the topic of heads, and who learns.
//!
//! The contact of `heads` and `learn` with Kafka, threads and the clock; both of them stay pure. Read in this order:
//! `store` (the topic of heads, read to its end and followed), `leader` (standing for election, and a term as the learner),
//! over `inbox` (the way to the learning thread), `budget` (the CPU time that learning may use) and `cap` (the samples that
//! the fleet may make).

pub mod budget;
mod cap;
mod inbox;
pub mod leader;
pub mod store;
