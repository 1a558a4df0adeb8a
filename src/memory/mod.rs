//! Exit 0: what this camera showed a moment ago.
//!
//! A camera's pictures repeat. Every few frames, and whenever the view changes, a frame of a camera runs the full model: its
//! *keyframe*. Every other frame is compared with its camera's keyframe, by pixels alone, and if head 0 is sure enough that the
//! answer still stands, that answer is given and no layer of the model runs.
//!
//! What a frame is compared with depends on pixels and on the order of the camera's frames, never on what was answered or
//! audited before. So the full model's answer to a frame tells whether memory would have been right about it, and memory is
//! certified by the same audits as every other exit.
//!
//! Not on a frame's way yet: no policy asks for it, and no answer comes from it.
//!
//! Pure: no clock, no threads, no I/O. Who shares a camera between lanes does the waiting.

mod chain;
mod sameness;

pub use chain::{Arrival, Chain, Compared, Keyframe, Links, SPACINGS, Shown};
pub use sameness::{COMPARISON, Comparison, Sameness, SamenessError, SamenessParts};
