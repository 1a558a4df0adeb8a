//! What serving and learning share: a head, a policy, the set of both that a worker serves with, and their wire form.
//!
//! Knows neither Kafka nor ONNX Runtime nor how heads are trained. Read in this order: [`Head`] judges one frame at one
//! exit, [`Policy`] says which exits are on, [`HeadSet`] is both together, `snapshot` carries them, [`Registry`] collects
//! what arrives, [`Suspicion`] watches the confidences.

pub(crate) mod codec;
mod confidence;
mod dense;
pub(crate) mod head;
mod policy;
mod registry;
pub(crate) mod set;
pub mod snapshot;
mod suspicion;

pub use confidence::{Confidence, Threshold};
pub use head::{Head, HeadError, HeadParts, MAX_FEATURES, MAX_HIDDEN, MAX_OUTPUTS, Scratch, Verdict};
pub use policy::{Certificate, LEAST_AUDIT_RATE, Policy, PolicyExit, PolicyState};
pub use registry::{Accepted, Registry};
pub use set::{Decision, HeadSet, PathAnswer};
pub use snapshot::{HmacKey, RecordHeader, SnapshotRejection};
pub use suspicion::{BINS, Reference, SUSPICION_WINDOW, SUSPICIOUS_RATE, Suspicion};
