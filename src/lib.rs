//! offramp: a Kafka stream worker that classifies camera frames and learns where a frame may leave the model early.
#![forbid(unsafe_code)]

pub mod frame;
pub mod plan;
pub mod prediction;

pub mod ingest;
pub mod decode;
pub mod backbone;
pub mod cascade;
pub mod publish;

pub mod heads;
pub mod learn;

pub mod observe;
pub mod source;
pub mod cli;
