//! What the outside may know of a running worker: metrics, health, the status page and the log.
//!
//! The only user of the metrics and HTTP crates. The rest of the program holds typed handles and never a metric's name.

pub mod depth;
pub mod health;
pub mod http;
mod labels;
mod register;
mod served;
pub mod logging;
pub mod metrics;
pub mod status;
mod table;
pub mod telemetry;
