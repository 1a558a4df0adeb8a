//! Reads a model's bytes: protobuf, where its weights lie, its one input. Foreign bytes: every fault is an error that names it.
//!
//! Pure: bytes in, a graph out; whoever calls opens the files. The fuzz target runs this as it is.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::onnx::{DataLocation, GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};

/// Decodes and checks what every later step relies on.
pub(crate) fn parse(bytes: Bytes) -> Result<ModelProto, String> {
    let mut model = ModelProto::decode(bytes)
        .map_err(|error| format!("is no ONNX model, or is cut short ({error}): export it again"))?;
    let Some(graph) = model.graph.as_mut() else {
        return Err("is no ONNX model: it holds no graph".to_owned());
    };
    if graph.node.is_empty() {
        return Err("holds a graph without nodes".to_owned());
    }
    // Old exporters (IR version 3) list weights among the inputs too; an input with a default value is not an input.
    let initializers: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    graph.input.retain(|input| !initializers.iter().any(|name| name == input.name()));
    hoist_constants(graph);
    if model.ir_version() < 4 {
        model.ir_version = Some(4);
    }
    Ok(model)
}

/// Makes a weight of every Constant node that holds a tensor: some exporters write all their weights so.
fn hoist_constants(graph: &mut GraphProto) {
    let (weights, made) = (&mut graph.initializer, &graph.output);
    graph.node.retain_mut(|node| {
        let [name] = node.output.as_slice() else { return true };
        // The runtime refuses an output that no node makes.
        if node.op_type() != "Constant" || made.iter().any(|output| output.name() == name) {
            return true;
        }
        let value = node.attribute.iter_mut().find(|attribute| attribute.name() == "value");
        let Some(tensor) = value.and_then(|value| value.t.take()) else { return true };
        weights.push(TensorProto { name: Some(name.clone()), ..tensor });
        false
    });
}

/// Puts the weights that lie in other files into their tensors, those of subgraphs too. `read` gives the bytes of a file
/// that is named relative to the model; it is asked for names below the model's folder only.
///
/// # Errors
/// A weight whose file is not named, lies outside, cannot be read or is too short.
pub(crate) fn resolve(
    graph: &mut GraphProto,
    read: &mut dyn FnMut(&Path) -> Result<Bytes, String>,
) -> Result<(), String> {
    for tensor in &mut graph.initializer {
        resolve_tensor(tensor, read)?;
    }
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                resolve_tensor(tensor, read)?;
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                resolve(graph, read)?;
            }
        }
    }
    Ok(())
}

fn resolve_tensor(
    tensor: &mut TensorProto,
    read: &mut dyn FnMut(&Path) -> Result<Bytes, String>,
) -> Result<(), String> {
    if tensor.data_location() != DataLocation::External {
        return Ok(());
    }
    let name = tensor.name().to_owned();
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value);
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| format!("weight \"{name}\": bad {key} \"{text}\"")),
    };
    let location = PathBuf::from(entry("location").ok_or_else(|| format!("weight \"{name}\" names no external file"))?);
    // A model is foreign: it may read files of its own folder only.
    if !location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("weight \"{name}\" lies outside the model's folder ({})", location.display()));
    }
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let file = read(&location).map_err(|reason| format!("weight \"{name}\": {reason}"))?;
    let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
    let range = end.filter(|&end| offset <= end && end <= file.len()).map(|end| offset..end).ok_or_else(|| {
        format!("weight \"{name}\": {} is too short ({} bytes); copy it again", location.display(), file.len())
    })?;
    tensor.raw_data = Some(file.slice(range));
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}

/// The single image input of a graph: name, element type, dims with free ones as `None`.
#[derive(Debug, Clone)]
pub(crate) struct GraphInput {
    pub(crate) name: String,
    pub(crate) element: i32,
    pub(crate) dims: Vec<Option<i64>>,
}

/// Finds the one input that a classifier has.
pub(crate) fn image_input(graph: &GraphProto) -> Result<GraphInput, String> {
    let [input] = graph.input.as_slice() else {
        let names: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
        return Err(format!(
            "is no image classifier: it needs exactly one input, has {} [{}]",
            names.len(),
            names.join(", ")
        ));
    };
    let name = input.name().to_owned();
    let (element, dims) = input.tensor().ok_or_else(|| format!("input \"{name}\" is no tensor"))?;
    let dims = dims.ok_or_else(|| format!("input \"{name}\" has no shape: export the model with one"))?;
    if dims.len() != 4 {
        return Err(format!(
            "is no image classifier: input \"{name}\" has {} dimensions, a batch of pictures has 4",
            dims.len()
        ));
    }
    Ok(GraphInput { name, element, dims })
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{AttributeProto, NodeProto};
    use super::*;

    /// Goal: what a Constant holds is a weight under the name that others read; what holds none, or is an output, stays.
    #[test]
    fn constants_become_weights() {
        let constant = |name: &str, attribute: &str| {
            let mut node = NodeProto::new("Constant", name, &[], &[name]);
            let t = (attribute == "value").then(|| TensorProto::int64s("", &[7]));
            node.attribute.push(AttributeProto { name: Some(attribute.to_owned()), t, ..AttributeProto::default() });
            node
        };
        let node = vec![constant("a", "value"), constant("b", "value_ints"), constant("c", "value")];
        let output = vec![ValueInfoProto::named("c")];
        let graph = GraphProto { node, output, ..GraphProto::default() };
        let bytes = ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec();
        let graph = parse(Bytes::from(bytes)).expect("a model").graph.expect("it was there");
        assert_eq!(graph.node.iter().flat_map(NodeProto::makes).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(graph.initializer, [TensorProto::int64s("a", &[7])]);
    }
}
