//! Learning beside the stream: audited frames in, certified policies out.
//!
//! Pure: it has no clock, no Kafka, no threads and no metrics; what it does is a function of the samples, the cost table,
//! the seed and the order of the calls. Read in this order: `sample` (what comes in), `window`, `trainer` (over `mlp`),
//! `select`, `certify`, `version` (trained on the past, judged on what came after), [`crate::promise::watch`], [`Learner`] (the whole),
//! `publication` (what goes out).

mod certify;
mod config;
mod learner;
mod mlp;
mod publication;
mod rng;
mod sample;
mod select;
mod status;
mod trainer;
mod version;
mod window;

pub use certify::{CandidateHead, CertifiedHead, CertifiedPath};
pub use config::LearnConfig;
pub use learner::{Learner, Pace, Step, Unpaced};
pub use publication::{EncodeError, Publication};
pub use sample::{Sample, SampleRejection};
pub use status::{LearnStatus, LearnerState};
