//! Running: the only user of ONNX Runtime (`ort`). Knows graphs, and neither files of models nor what anything costs.
//!
//! | file | what it knows |
//! |---|---|
//! | `runtime` | where ONNX Runtime's library lies |
//! | `execution_provider` | what sessions run on |
//! | `session`, `tensor`, `error` | a loaded graph, what goes in and comes out, what went wrong |
//! | `probe`, `noise` | the shapes of all tensors, asked of the runtime |
//! | `optimised` | the graph as ONNX Runtime rewrote it, and its cuts |
//! | `blocked_layout` | features of a tensor as ONNX Runtime's convolutions leave it |
//! | `frames`, `probabilities` | what a model is fed and what it answers |
//! | `runner`, `queue`, `chain`, `auditor` | what a lane runs |

pub(crate) mod auditor;
mod blocked_layout;
pub(crate) mod chain;
pub(crate) mod error;
pub(crate) mod execution_provider;
pub(crate) mod frames;
pub(crate) mod noise;
pub(crate) mod optimised;
pub(crate) mod probabilities;
pub(crate) mod probe;
mod queue;
pub(crate) mod runner;
pub mod runtime;
pub(crate) mod session;
mod temp_folder;
mod tensor;
