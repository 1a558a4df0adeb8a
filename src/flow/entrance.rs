//! The entrance: all that is decided about a frame before its bytes are looked at. Which camera it is of, with what
//! probability it is audited, and whether it was drawn.
//!
//! What is known of the stream that such a decision needs (so far the suspicion) lives here and nowhere else.

use super::draw::draw;
use crate::audit::Draw;
use crate::frame::{Origin, RawFrame};
use crate::heads::{Confidence, HeadSet, SUSPICION_WINDOW, Suspicion};

/// A frame in the flow.
#[derive(Debug)]
pub struct Entered<T> {
    /// The frame as it came.
    pub frame: RawFrame,
    /// What its sender knows it by.
    pub carried: T,
    /// Its camera's name.
    pub camera: String,
    /// Its draw.
    pub draw: Draw,
}

impl<T> Entered<T> {
    /// What remains to be said of the frame when it is gone.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            origin: self.frame.origin.clone(),
            camera: self.camera.clone(),
            captured_at_ms: self.frame.captured_at_ms,
            draw: self.draw,
        }
    }
}

/// What a sample says of its frame. It outlives the frame: copies are made after the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Where the frame stood.
    pub origin: Origin,
    /// Its camera's name.
    pub camera: String,
    /// Capture time, milliseconds since the Unix epoch.
    pub captured_at_ms: Option<i64>,
    /// Its draw.
    pub draw: Draw,
}

/// Decides about frames as they come.
#[derive(Debug)]
pub(super) struct Entrance {
    seed: u64,
    /// Compares the first exit's confidences with those at certification: sees every frame, proves nothing.
    suspicion: Suspicion,
}

impl Entrance {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, suspicion: Suspicion::new(SUSPICION_WINDOW) }
    }

    /// Lets a frame in; without `audits` none is audited.
    pub(super) fn enter<T>(&self, frame: RawFrame, carried: T, heads: &HeadSet, audits: bool) -> Entered<T> {
        let camera = frame.camera();
        let probability = if audits { heads.audit_rate_under(&self.suspicion) } else { 0.0 };
        let (shared, policy) = (heads.audit_rate(), heads.version());
        let draw = Draw { value: draw(&frame.origin, self.seed), probability, shared, policy };
        Entered { frame, carried, camera, draw }
    }

    /// Takes note of how sure the first exit was of a frame.
    pub(super) fn judged(&mut self, heads: &HeadSet, confidence: Confidence) {
        if let Some(reference) = heads.reference() {
            self.suspicion.observe(heads.version(), reference, confidence);
        }
    }
}
