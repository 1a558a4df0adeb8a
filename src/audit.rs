//! What an audit says of the frame that it drew, beside what the model saw: where the frame stands in its camera's stream
//! ([`Place`]), and how it came to be drawn ([`Draw`]). Both travel in every sample.
//!
//! From these fields alone follows which audits certify (a draw below the rate that every worker shares) and which of them
//! are one trial (the smallest draw in a block of consecutive frames of one camera). Imports nothing of ours.

use serde::{Deserialize, Serialize};

/// A camera, by eight bytes of the hash of its key: keys may be long, no text, or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CameraId(pub u64);

impl CameraId {
    /// The camera of all records with this key, whatever bytes it has.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self::hash(b"key", &[key])
    }

    /// The camera that a whole partition is, where records have no key or a new one each.
    #[must_use]
    pub fn of_partition(topic: &str, partition: i32) -> Self {
        Self::hash(b"partition", &[&partition.to_le_bytes(), topic.as_bytes()])
    }

    fn hash(kind: &[u8], parts: &[&[u8]]) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(kind);
        for part in parts {
            hash.update(part);
        }
        let mut word = [0; 8];
        hash.finalize_xof().fill(&mut word);
        Self(u64::from_le_bytes(word))
    }
}

/// Where a frame stands among its camera's frames, counted by the worker in the order of the partition.
///
/// A worker can only count what it was given, so the count begins anew with each takeover of a partition, and where a
/// camera was forgotten and came back. `stream` tells such counts apart: frames of one camera and one stream are `number`
/// apart from each other, of frames of two streams nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The camera.
    pub camera: CameraId,
    /// The uniform bits of the first frame that was counted: whoever counts from there counts alike.
    pub stream: u64,
    /// Frames of this camera before this one in the stream.
    pub number: u64,
}

/// A frame's draw, uniform in [0, 1); the frame is audited if it is below the probability that held for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Draw {
    /// The draw, a hash of the frame's place in Kafka: the same for whoever draws, and unknown to the camera.
    pub value: f64,
    /// The probability with which this frame is audited, known before the draw.
    pub probability: f64,
    /// The rate of the policy in force, which every worker shares; at most `probability`. More may be audited of a camera that
    /// is new or suspicious, and only what the shared rate would have audited too stands for all frames.
    pub shared: f64,
    /// That policy's version.
    pub policy: u64,
}

impl Draw {
    /// What cannot be; `None`: nothing. To be asked of every draw that came over the wire.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !share(self.value) || !share(self.probability) || !share(self.shared) {
            return Some("a draw, a probability or a rate outside [0, 1]");
        }
        if self.value >= self.probability {
            return Some("a draw that drew no audit");
        }
        if self.shared > self.probability {
            return Some("a shared rate above the frame's own");
        }
        None
    }

    /// Whether the frame is audited.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.value < self.probability
    }

    /// Whether every worker would have audited it: then it certifies, chooses and feeds the fleet's watch.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.value < self.shared
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: what a worker can make passes, and what no worker makes does not.
        #[test]
        fn draws_are_checked(value in 0.0..1.0_f64, probability in 0.0..=1.0_f64, shared in 0.0..=1.0_f64) {
            let draw = Draw { value, probability, shared, policy: 1 };
            let possible = value < probability && shared <= probability;
            prop_assert_eq!(draw.fault().is_none(), possible);
            for forged in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
                prop_assert!((Draw { value: forged, ..draw }).fault().is_some(), "{}", forged);
                prop_assert!((Draw { probability: forged, ..draw }).fault().is_some(), "{}", forged);
                prop_assert!((Draw { shared: forged, ..draw }).fault().is_some(), "{}", forged);
            }
        }

        #[test]
        fn keys_and_partitions_are_never_one_camera(key in prop::collection::vec(any::<u8>(), 0..20), partition: i32) {
            prop_assert_ne!(CameraId::of_key(&key), CameraId::of_partition("frames", partition));
            prop_assert_ne!(CameraId::of_partition("frames", partition), CameraId::of_partition("frame", partition));
        }
    }
}
