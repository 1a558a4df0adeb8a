//! cli
pub mod inspect;
