//! What serving and learning must know of a prepared model.

use crate::backbone::graph::prepared::Prepared;
use crate::frame::InputSpec;
use crate::plan::{ExitId, ExitPoint, Fingerprint, HEAD_HIDDEN, Plan};

pub(super) fn plan(backbone: Fingerprint, input: InputSpec, labels: Vec<String>, prepared: &Prepared) -> Plan {
    let (classes, hidden) = (labels.len() as u64, HEAD_HIDDEN as u64);
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{input:?} {classes}").as_bytes());
    let mut candidates = Vec::new();
    for (index, candidate) in prepared.candidates.iter().enumerate() {
        let width = candidate.pooling.width;
        // Lengths first: no two lists of names may read the same.
        hasher.update(format!(" {} {} {width}", candidate.port.tensor.len(), candidate.port.tensor).as_bytes());
        candidates.push(ExitPoint {
            exit: ExitId::from_index(index),
            tensor: candidate.port.tensor.clone(),
            flops_fraction: candidate.fraction,
            feature_width: width,
            head_flops: 2 * width as u64 + 2 * width as u64 * hidden + 2 * hidden * classes + 4 * classes,
        });
    }
    let plan = Fingerprint(*hasher.finalize().as_bytes());
    Plan { backbone, plan, input, labels, candidates, flops: prepared.flops }
}
