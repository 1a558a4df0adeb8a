//! offramp: a Kafka stream worker that classifies camera frames with the user's own ONNX model and learns, from the
//! live stream alone, where a frame may leave that model early.
//!
//! The modules in the order of a frame's way:
//!
//! ```text
//! frames ─▶ ingest ─▶ decode ─▶ batch ─▶ cascade: segment 1 ─▶ head 1 ─ sure? ─▶ publish ─▶ predictions
//!              │        │(bad)                     │ not sure
//!           offsets  dead letters               segment 2 ─▶ … ─▶ final classifier ─▶ publish
//!                                                  │ audited frames go all the way
//!                                                  ▼
//!                                    samples ─▶ learn ─▶ heads (compacted topic) ─▶ every replica
//! ```

// The nouns: what travels. They import nothing else of ours.
pub mod audit;
pub mod config;
pub mod frame;
pub mod plan;
pub mod prediction;
pub mod provider;

// The way of a frame.
pub mod ingest;
pub mod decode;
pub mod batch;
pub mod backbone;
pub mod cascade;
pub mod publish;
pub mod flow;
pub mod lane;

// What is promised, and how it is tested.
pub mod promise;
/// What a worker knows of its cameras.
pub mod camera;
pub mod memory;

// What is learned, and how.
pub mod heads;
pub mod learn;
/// Both of them, between workers.
pub mod fleet;

// Around it.
mod files;
pub mod kafka;
pub mod observe;
pub mod source;
/// The backbone, measured.
pub mod engine;
pub mod worker;

pub mod cli;
