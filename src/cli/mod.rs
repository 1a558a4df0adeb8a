//! cli
pub mod feed;
