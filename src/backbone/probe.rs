//! Learns every tensor's type and shape by running the graph once at batch 1 and once at batch 2.
//!
//! Asking the runtime is exact for every operator that it knows, where static inference gives up on shape arithmetic.

use std::collections::HashMap;

use prost::Message;

use super::onnx::{ModelProto, ValueInfoProto};
use super::session::{Feed, Level, Session, SessionError};

/// Shape tensors longer than this are no shapes.
const SHAPE_LENGTH_MAX: usize = 16;

/// What was seen of one tensor. `None` at batch 2: the graph does not run at batch 2.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) element: i32,
    pub(super) at_one: Vec<usize>,
    pub(super) at_two: Option<Vec<usize>>,
    /// Values of short int64 vectors at batch 1 and 2.
    pub(super) integers: Option<(Vec<i64>, Vec<i64>)>,
    /// Whether an f32 tensor held only numbers at batch 1.
    pub(super) finite: bool,
}

impl Seen {
    /// The dims of one row, if the first dim is the batch and the others do not depend on it.
    pub(super) fn row_dims(&self) -> Option<&[usize]> {
        let (first, rest) = self.at_one.split_first()?;
        match &self.at_two {
            Some(two) => (*first == 1 && two.first() == Some(&2) && two.get(1..) == Some(rest)).then_some(rest),
            None => (*first == 1).then_some(rest),
        }
    }
}

/// All tensors of a graph that nodes make, by name.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) seen: HashMap<String, Seen>,
    /// False: the graph takes one row at a time.
    pub(super) batches: bool,
}

impl Facts {
    /// Forgets what was seen at batch 2: the graph is to be run one row at a time.
    pub(super) fn row_by_row(&mut self) {
        self.batches = false;
        self.seen.values_mut().for_each(|seen| seen.at_two = None);
    }

    /// Dims at batch 1.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.seen.get(name).map(|seen| seen.at_one.as_slice())
    }
}

/// Runs the graph with every tensor as an output, on noise.
pub(super) fn probe(model: &ModelProto, dims: &[usize]) -> Result<Facts, SessionError> {
    let mut open = model.clone();
    if let Some(graph) = open.graph.as_mut() {
        let names: Vec<String> = graph.node.iter().flat_map(|node| node.makes().map(str::to_owned)).collect();
        graph.output = names.iter().map(|name| ValueInfoProto::named(name)).collect();
    }
    let mut session = Session::load(&open.encode_to_vec(), Level::AsIs, 1, None)?;
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
            finite: buffer.floats().map_or(true, |values| values.iter().all(|value| value.is_finite())),
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
