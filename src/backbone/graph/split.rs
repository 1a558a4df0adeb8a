//! Takes graphs apart: shape arithmetic rebuilt from the batch size alone, segments between cut tensors, features added.
//!
//! Pure: models in, models out. Works on the user's graph as on the one that ONNX Runtime rewrote.

use std::collections::BTreeMap;

use super::dataflow::{Class, Graph};
use super::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use super::pooling::Pooling;
use super::port::{BATCH, Port};
use super::shapes::Shapes;

const BATCH_SHAPE: &str = "offramp_batch_shape";
const BATCH_AT: &str = "offramp_batch_at";

/// Replaces every `Shape` of what depends on the picture by a constant, or by `a + b x batch`, as seen when probing. So
/// no segment needs a tensor of an earlier one only to ask for its shape.
pub(crate) fn fold_shapes(model: &mut ModelProto, input: &Port, shapes: &Shapes) -> Result<(), String> {
    let Some(proto) = model.graph.as_mut() else {
        return Ok(());
    };
    let asks: Vec<String> = {
        let graph = Graph::new(proto, &input.tensor)?;
        let asks = |node: &&NodeProto| {
            node.op_type() == "Shape" && node.reads().iter().any(|name| graph.class(name) == Class::Data)
        };
        proto.node.iter().filter(asks).flat_map(NodeProto::makes).map(str::to_owned).collect()
    };
    let mut uses_batch = false;
    for name in asks {
        let values = shapes.seen.get(&name).and_then(|seen| seen.integers.as_ref());
        let Some((one, two)) = values.filter(|(one, two)| !shapes.batches || one.len() == two.len()) else {
            continue;
        };
        proto.node.retain(|node| node.makes().all(|made| made != name));
        let slopes: Vec<i64> =
            if shapes.batches { two.iter().zip(one).map(|(two, one)| two - one).collect() } else { vec![0; one.len()] };
        if slopes.iter().all(|&slope| slope == 0) {
            proto.initializer.push(TensorProto::int64s(&name, one));
            continue;
        }
        uses_batch = true;
        let base: Vec<i64> = one.iter().zip(&slopes).map(|(one, slope)| one - slope).collect();
        let (slope_name, base_name, product) =
            (format!("{name}_slope"), format!("{name}_base"), format!("{name}_product"));
        proto.initializer.push(TensorProto::int64s(&slope_name, &slopes));
        proto.initializer.push(TensorProto::int64s(&base_name, &base));
        proto.node.push(NodeProto::new("Mul", &product, &[BATCH, &slope_name], &[&product]));
        proto.node.push(NodeProto::new("Add", &name, &[&product, &base_name], &[&name]));
    }
    if uses_batch {
        add_batch(proto, &input.tensor);
    }
    Ok(())
}

/// The batch size as a vector of one, read off a tensor's first dim.
fn add_batch(graph: &mut GraphProto, from: &str) {
    graph.initializer.push(TensorProto::int64s(BATCH_AT, &[0]));
    graph.node.push(NodeProto::new("Shape", BATCH_SHAPE, &[from], &[BATCH_SHAPE]));
    graph.node.push(NodeProto::new("Gather", BATCH, &[BATCH_SHAPE, BATCH_AT], &[BATCH]));
}

/// Adds nodes that pool tensors, and their features as outputs.
pub(crate) fn add_features<'p>(model: &mut ModelProto, poolings: impl IntoIterator<Item = &'p Pooling>) {
    let Some(graph) = model.graph.as_mut() else { return };
    for pooling in poolings {
        graph.node.extend(pooling.nodes.iter().cloned());
        graph.initializer.extend(pooling.weights.iter().cloned());
        graph.output.push(ValueInfoProto::named(&pooling.output));
    }
}

/// The part of a model from `start` to `ends`, with the weights that it needs, as a model of its own.
///
/// # Errors
/// When something in it depends on the picture other than through `start`: then that was no cut.
pub(crate) fn extract(model: &ModelProto, input: &str, start: &Port, ends: &[&str]) -> Result<ModelProto, String> {
    let Some(proto) = model.graph.as_ref() else {
        return Err("the model has no graph".to_owned());
    };
    let graph = Graph::new(proto, input)?;
    // The batch size is read off the segment's own input.
    let nodes = graph.between(&[&start.tensor, BATCH], ends);
    let mut part = GraphProto {
        name: Some("segment".to_owned()),
        input: vec![start.info()],
        output: ends.iter().map(|end| ValueInfoProto::named(end)).collect(),
        ..GraphProto::default()
    };
    let mut weights: Vec<&str> = ends.to_vec();
    for node in nodes {
        for name in node.reads() {
            if name == input && start.tensor != input {
                return Err(format!("{} reads the model's input behind the cut at \"{}\"", node.title(), start.tensor));
            }
            weights.push(name);
        }
        part.node.push(node.clone());
    }
    weights.sort_unstable();
    weights.dedup();
    if weights.contains(&BATCH) {
        add_batch(&mut part, &start.tensor);
    }
    part.initializer.extend(weights.iter().filter_map(|name| graph.weight(name)).cloned());
    let sparse = proto
        .sparse_initializer
        .iter()
        .filter(|tensor| tensor.values.as_ref().is_some_and(|values| weights.binary_search(&values.name()).is_ok()));
    part.sparse_initializer.extend(sparse.cloned());
    Ok(ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        functions: model.functions.clone(),
        graph: Some(part),
        ..ModelProto::default()
    })
}

/// Gives a part's input and outputs names so short that ONNX Runtime copies them without asking for memory, which it does
/// several times a run. Gives the outputs' names, in order.
pub(crate) fn shorten(part: &mut ModelProto) -> Vec<String> {
    let Some(graph) = part.graph.as_mut() else { return Vec::new() };
    let name = |info: &ValueInfoProto| info.name().to_owned();
    let outputs: Vec<String> = graph.output.iter().map(name).collect();
    // What a subgraph takes from outside it takes by name.
    if graph.node.iter().any(NodeProto::has_subgraphs) {
        return outputs;
    }
    let short: Vec<String> = (0..outputs.len()).map(|at| format!("offramp_out{at}")).collect();
    let input = graph.input.first().map(|info| (name(info), "offramp_in".to_owned()));
    let renamed: BTreeMap<String, String> = outputs.into_iter().zip(short.iter().cloned()).chain(input).collect();
    let rename = |name: &mut String| {
        if let Some(short) = renamed.get(name) {
            name.clone_from(short);
        }
    };
    graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)).for_each(rename);
    let infos = graph.input.iter_mut().chain(&mut graph.output).filter_map(|info| info.name.as_mut());
    infos.chain(graph.initializer.iter_mut().filter_map(|tensor| tensor.name.as_mut())).for_each(rename);
    short
}

#[cfg(test)]
mod tests {
    use super::super::onnx::AttributeProto;
    use super::*;

    fn part(more: NodeProto) -> ModelProto {
        let node = vec![NodeProto::new("Relu", "r", &["a long name of an input"], &["a long name of an output"]), more];
        let graph = GraphProto {
            node,
            input: vec![ValueInfoProto::named("a long name of an input")],
            output: ["a long name of an output", "end"].map(ValueInfoProto::named).into(),
            ..GraphProto::default()
        };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    /// Goal: whoever reads or makes a renamed tensor does so by its new name.
    #[test]
    fn names_are_shortened_wherever_they_stand() {
        let mut model = part(NodeProto::new("Add", "a", &["a long name of an output", "w"], &["end"]));
        assert_eq!(shorten(&mut model), ["offramp_out0", "offramp_out1"]);
        let graph = model.graph.expect("a graph");
        let names: Vec<&str> = graph.input.iter().chain(&graph.output).map(ValueInfoProto::name).collect();
        assert_eq!(names, ["offramp_in", "offramp_out0", "offramp_out1"]);
        assert_eq!(
            (&graph.node[0].input, &graph.node[0].output),
            (&vec!["offramp_in".into()], &vec!["offramp_out0".into()])
        );
        assert_eq!(graph.node[1].input, ["offramp_out0", "w"]);
    }

    /// Goal: a subgraph that reads from outside finds what it reads.
    #[test]
    fn names_stay_where_a_subgraph_may_read_them() {
        let mut inside = NodeProto::new("If", "i", &["w"], &["end"]);
        inside.attribute.push(AttributeProto { g: Some(GraphProto::default()), ..AttributeProto::default() });
        let mut model = part(inside);
        let before = model.clone();
        assert_eq!(shorten(&mut model), ["a long name of an output", "end"]);
        assert_eq!(model, before);
    }
}
