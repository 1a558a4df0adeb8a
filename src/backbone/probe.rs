//! Learns every tensor's type and shape by running the graph once at batch 1 and once at batch 2.
//!
//! Asking the runtime is exact for every operator that it knows, where static inference gives up on shape arithmetic.

use super::facts::{Facts, Seen};
use super::onnx::{ModelProto, ValueInfoProto};
use super::session::{Session, SessionError};
use super::tensor::Feed;

/// Shape tensors longer than this are no shapes.
const SHAPE_LENGTH_MAX: usize = 16;

/// Runs the graph with every tensor as an output, on noise.
pub(super) fn probe(model: &ModelProto, dims: &[usize]) -> Result<Facts, SessionError> {
    let mut open = model.clone();
    if let Some(graph) = open.graph.as_mut() {
        let names: Vec<String> = graph.node.iter().flat_map(|node| node.makes().map(str::to_owned)).collect();
        graph.output = names.iter().map(|name| ValueInfoProto::named(name)).collect();
    }
    let mut session = Session::load_as_it_stands(&open)?;
    let frames = noise(2 * dims.iter().product::<usize>());
    let mut facts = Facts::default();
    let names: Vec<String> = session.outputs().to_vec();
    for (name, buffer) in names.iter().zip(session.run(&Feed::Frames(&frames), 1, dims)?) {
        let integers = buffer.integers().filter(|values| values.len() <= SHAPE_LENGTH_MAX);
        let seen = Seen {
            element: buffer.element_number(),
            at_one: buffer.shape().to_vec(),
            at_two: None,
            integers: integers.map(|values| (values, Vec::new())),
            finite: buffer.is_finite(),
        };
        facts.seen.insert(name.clone(), seen);
    }
    if let Ok(buffers) = session.run(&Feed::Frames(&frames), 2, dims) {
        facts.batches = true;
        for (name, buffer) in names.iter().zip(buffers) {
            if let Some(seen) = facts.seen.get_mut(name) {
                seen.at_two = Some(buffer.shape().to_vec());
                seen.integers = seen.integers.take().zip(buffer.integers()).map(|((one, _), two)| (one, two));
            }
        }
    }
    Ok(facts)
}

/// Values in [0, 1) that differ from row to row; the same on every machine.
pub(super) fn noise(length: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65536.0
    };
    (0..length).map(next).collect()
}
