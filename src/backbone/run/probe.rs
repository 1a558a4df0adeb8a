//! Learns every tensor's type and shape by running the graph once at batch 1 and once at batch 2.
//!
//! Asking the runtime is exact for every operator that it knows, where static inference gives up on shape arithmetic.

use super::error::SessionError;
use super::noise::noise;
use super::session::Session;
use super::tensor::Feed;
use crate::backbone::graph::onnx::{ModelProto, ValueInfoProto};
use crate::backbone::graph::shapes::{Seen, Shapes};

/// Shape tensors longer than this are no shapes.
const SHAPE_LENGTH_MAX: usize = 16;

/// Runs the graph with every tensor as an output, on noise.
pub(crate) fn probe(model: &ModelProto, dims: &[usize]) -> Result<Shapes, SessionError> {
    let mut open = model.clone();
    if let Some(graph) = open.graph.as_mut() {
        let names: Vec<String> = graph.node.iter().flat_map(|node| node.makes().map(str::to_owned)).collect();
        graph.output = names.iter().map(|name| ValueInfoProto::named(name)).collect();
    }
    let mut session = Session::load_as_it_stands(&open)?;
    let frames = noise(2 * dims.iter().product::<usize>());
    let mut shapes = Shapes::default();
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
        shapes.seen.insert(name.clone(), seen);
    }
    if let Ok(buffers) = session.run(&Feed::Frames(&frames), 2, dims) {
        shapes.batches = true;
        for (name, buffer) in names.iter().zip(buffers) {
            if let Some(seen) = shapes.seen.get_mut(name) {
                seen.at_two = Some(buffer.shape().to_vec());
                seen.integers = seen.integers.take().zip(buffer.integers()).map(|((one, _), two)| (one, two));
            }
        }
    }
    Ok(shapes)
}
