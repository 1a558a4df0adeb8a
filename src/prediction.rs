//! The noun of the stream's exit: one answer for one frame, in the JSON form that consumers read.
//!
//! Imports only [`crate::frame`] and [`crate::plan`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::ExitId;

/// Where the frame stood; `(topic, partition, offset)` is the key for de-duplication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRef {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// Capture time (RFC 3339, UTC), from the record's timestamp.
    pub captured_at: Option<String>,
}

/// What the exits would have answered on an audited frame, which itself is answered by the full model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditNote {
    /// The exit where the frame would have left; null: it would have gone all the way.
    pub exit: Option<ExitId>,
    /// Whether that answer equals the full model's.
    pub agrees: bool,
}

/// Times in milliseconds, measured in the worker.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// From the record's arrival in the worker to the start of its batch.
    pub queue: f64,
    /// From the start of its batch to its own answer.
    pub infer: f64,
    /// From arrival to answer.
    pub total: f64,
}

/// The value of a record in the predictions topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The frame's key as text.
    pub camera: String,
    /// Origin.
    pub frame: FrameRef,
    /// Label of the class.
    pub label: String,
    /// Index of the class in the backbone's output.
    pub class: usize,
    /// Probability given by the head or model that answered, in [0, 1].
    pub confidence: f64,
    /// The exit that answered; null: the full model.
    pub exit: Option<ExitId>,
    /// How many exits the policy in force has.
    pub exits: usize,
    /// Whether the frame was chosen for an audit (then `exit` is null).
    pub audited: bool,
    /// Present on audited frames while exits are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditNote>,
    /// The backbone's fingerprint, shortened.
    pub model: String,
    /// Version of the policy in force; 0: nothing learned yet.
    pub policy: u64,
    /// Times.
    pub latency_ms: Latency,
}

/// Milliseconds since the Unix epoch as RFC 3339 text in UTC; none where no calendar has a name for them.
#[must_use]
pub fn rfc3339(ms: i64) -> Option<String> {
    let since = Duration::from_millis(u64::try_from(ms).ok()?);
    // humantime refuses years after 9999; a forged timestamp is then left out.
    let at = std::time::UNIX_EPOCH.checked_add(since).filter(|_| ms < 253_402_300_800_000)?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}
