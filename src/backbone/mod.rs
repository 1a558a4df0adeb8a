//! 4 · The backbone: the user's ONNX model, read, cut where it can be left, and run. Knows nothing of Kafka, of heads or of
//! policies.
//!
//! | room | what it knows |
//! |---|---|
//! | `graph` | reading and cutting a graph: pure, no files and no ONNX Runtime |
//! | `run` | ONNX Runtime; nothing else uses it |
//! | `measure` | what the parts cost on this machine, and what follows |
//! | `load` | a model's files, and the way from them to a backbone |
//!
//! [`Backbone`] (`cut`) is what the rooms make together: the loaded model, and the chains that lanes get of it.

mod cut;
mod describe;
mod error;
mod graph;
mod load;
mod measure;
mod options;
mod run;

pub use cut::Backbone;
pub use describe::{CutView, ModelView, TensorView};
pub use error::BackboneError;
pub use measure::batch_size::BatchTiming;
pub use measure::lanes_or_threads::LaneRates;
pub use measure::measured::{Measured, Way};
pub use measure::timer::{Clock, Moment};
pub use measure::timing::Timing;
pub use options::{LoadOptions, SplitChoice};
pub use run::auditor::Audited;
pub use run::chain::Chain;
pub use run::runtime;
