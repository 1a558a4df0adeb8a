//! From a model file to a graph that can be cut: batch free, picture size fixed, types as we feed and read them, class
//! scores chosen, shape arithmetic folded, cut points found.

use std::collections::HashMap;

use super::manifest::Manifest;
use crate::backbone::error::BackboneError;
use crate::backbone::graph::cut_points::{self, CutPoint};
use crate::backbone::graph::onnx::{
    DataType, DimValue, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use crate::backbone::graph::parse::GraphInput;
use crate::backbone::graph::pooling;
use crate::backbone::graph::port::{BATCH, Port};
use crate::backbone::graph::prepared::{Candidate, Prepared, Scores};
use crate::backbone::graph::shapes::{Seen, Shapes};
use crate::backbone::graph::split;
use crate::backbone::options::LoadOptions;
use crate::backbone::run::probe;
use crate::frame::{InputSpec, Layout};
use crate::plan::HEAD_HIDDEN;

const FRAMES: &str = "offramp_frames";
const SCORES: &str = "offramp_scores";

/// Prepares a parsed model for frames of that kind.
pub(crate) fn prepare(
    mut model: ModelProto,
    input: &GraphInput,
    spec: &InputSpec,
    manifest: &Manifest,
    options: &LoadOptions,
) -> Result<Prepared, BackboneError> {
    let refuse = |reason: String| BackboneError::model(&manifest.model, reason);
    let opset = model.opset_import.iter().find(|set| set.domain().is_empty() || set.domain() == "ai.onnx");
    let opset = opset.map_or(0, OperatorSetIdProto::version);
    let graph = model.graph.as_mut().ok_or_else(|| refuse("holds no graph".to_owned()))?;
    let params = params(graph);
    let wanted: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let port = fix_input(graph, input, spec).map_err(refuse)?;
    let labels = manifest.labels.as_ref().map(Vec::len);
    let (shapes, scores, classes) = observe(&mut model, &port, &wanted, labels).map_err(refuse)?;
    let graph = model.graph.as_mut().ok_or_else(|| refuse("holds no graph".to_owned()))?;
    check_finite(graph, &scores, &shapes).map_err(refuse)?;
    let meaning = manifest.scores.unwrap_or_else(|| meaning(graph, &scores));
    let scores = as_floats(graph, &scores, &shapes);
    split::fold_shapes(&mut model, &port, &shapes).map_err(refuse)?;
    let graph = model.graph.as_mut().ok_or_else(|| refuse("holds no graph".to_owned()))?;
    graph.output = vec![ValueInfoProto::named(&scores)];
    let (points, flops) = cut_points::cut_points(graph, &port.tensor, &scores, &shapes).map_err(refuse)?;
    let width_max = pooling::width_max(flops, HEAD_HIDDEN as u64);
    let pooling = |point: &CutPoint, exit: usize| pooling::pooling(&point.port, opset, exit, width_max);
    let chosen =
        cut_points::spread(&points, options.max_candidates.min(EXITS_MAX), |point| pooling(point, 0).is_some());
    let candidates = chosen.iter().filter_map(|&at| points.get(at)).enumerate().filter_map(|(exit, point)| {
        let pooling = pooling(point, exit + 1)?;
        Some(Candidate { port: point.port.clone(), pooling, fraction: point.fraction })
    });
    let candidates = candidates.collect();
    let (batches, rounding) = (shapes.batches, rounding(&shapes));
    let input = port;
    Ok(Prepared { model, input, scores, meaning, classes, points, candidates, flops, batches, opset, params, rounding })
}

/// In a model of halves or bytes one step of rounding is more, and fusing moves values across the middle between two steps.
fn rounding(shapes: &Shapes) -> f32 {
    let coarse = [DataType::Float16, DataType::Bfloat16, DataType::Int8, DataType::Uint8].map(|kind| kind as i32);
    if shapes.seen.values().any(|seen| coarse.contains(&seen.element)) { 2e-2 } else { 1e-4 }
}

/// Weights by their dims, which are foreign and may claim more than a number holds.
fn params(graph: &GraphProto) -> u64 {
    graph.initializer.iter().map(TensorProto::elements).fold(0, u64::saturating_add)
}

/// Probes the graph and chooses the class scores. Where it does not take batches it is tried again with fixed batches of
/// one made free; where that does not help either it is left to run row by row.
fn observe(
    model: &mut ModelProto,
    port: &Port,
    wanted: &[String],
    labels: Option<usize>,
) -> Result<(Shapes, String, usize), String> {
    let run = |model: &ModelProto| probe::probe(model, &port.dims).map_err(|error| error.to_string());
    let mut shapes = run(model)?;
    if shapes.batches
        && let Ok((scores, classes)) = choose_scores(wanted, &shapes, labels)
    {
        return Ok((shapes, scores, classes));
    }
    let mut freed = model.clone();
    if free_batch(&mut freed, &shapes)
        && let Ok(again) = run(&freed)
        && again.batches
        && let Ok((scores, classes)) = choose_scores(wanted, &again, labels)
    {
        *model = freed;
        return Ok((again, scores, classes));
    }
    shapes.row_by_row();
    let (scores, classes) = choose_scores(wanted, &shapes, labels)?;
    Ok((shapes, scores, classes))
}

/// Lets every Reshape to a fixed batch of one keep the batch that it is given. True if there was one.
fn free_batch(model: &mut ModelProto, shapes: &Shapes) -> bool {
    let Some(graph) = model.graph.as_mut() else {
        return false;
    };
    let fixed: HashMap<String, Vec<i64>> = graph
        .initializer
        .iter()
        .filter_map(|tensor| Some((tensor.name().to_owned(), tensor.read_int64s()?)))
        .chain(shapes.seen.iter().filter_map(|(name, seen)| Some((name.clone(), seen.integers.as_ref()?.0.clone()))))
        .collect();
    let mut targets = Vec::new();
    for node in graph.node.iter_mut().filter(|node| node.op_type() == "Reshape") {
        let one = node.input.first().and_then(|name| shapes.shape(name)).and_then(<[usize]>::first) == Some(&1);
        let literal = node.int("allowzero").unwrap_or(0) != 0;
        let Some(shape) = node.input.get_mut(1).filter(|_| one) else {
            continue;
        };
        if let Some([1, rest @ ..]) = fixed.get(shape.as_str()).map(Vec::as_slice)
            && !(literal && rest.contains(&0))
        {
            // In a Reshape, 0 means: as it is given. Newer exporters ask for zeros to be taken literally, without having any.
            let name = format!("{shape}_free{}", targets.len());
            let dims: Vec<i64> = std::iter::once(0).chain(rest.iter().copied()).collect();
            targets.push(TensorProto::int64s(&name, &dims));
            *shape = name;
            node.attribute.retain(|attribute| attribute.name() != "allowzero");
        }
    }
    let any = !targets.is_empty();
    graph.initializer.extend(targets);
    any
}

/// Scores that are no numbers on plain noise mean a broken model; the first node that makes such values is named.
fn check_finite(graph: &GraphProto, scores: &str, shapes: &Shapes) -> Result<(), String> {
    let finite = |name: &str| shapes.seen.get(name).is_none_or(|seen| seen.finite);
    if finite(scores) {
        return Ok(());
    }
    let culprit = graph.node.iter().find(|node| node.makes().any(|name| !finite(name)));
    let culprit = culprit.map_or_else(|| "unknown".to_owned(), NodeProto::title);
    Err(format!(
        "gives NaN or infinite class scores for pictures in [0, 1); the first node that makes such is {culprit}"
    ))
}

/// Most exits a plan may have.
const EXITS_MAX: usize = 8;

/// Frees the batch, fixes the picture's size, and casts where the graph wants another type than f32. Declared shapes
/// of inner tensors and outputs are dropped: they may name a fixed batch.
fn fix_input(graph: &mut GraphProto, input: &GraphInput, spec: &InputSpec) -> Result<Port, String> {
    let (channels, height, width) = (spec.channels.count(), spec.height, spec.width);
    let dims = match spec.layout {
        Layout::Nchw => vec![channels, height, width],
        Layout::Nhwc => vec![height, width, channels],
    };
    let castable = [DataType::Float, DataType::Float16, DataType::Double, DataType::Uint8, DataType::Int8];
    if !castable.iter().any(|&kind| kind as i32 == input.element) {
        let kind = DataType::try_from(input.element).map_or("unknown", |kind| kind.as_str_name());
        return Err(format!("is no image classifier: input \"{}\" is of type {kind}", input.name));
    }
    let cast = input.element != FLOAT;
    let tensor = if cast { FRAMES.to_owned() } else { input.name.clone() };
    if cast {
        let node = NodeProto::new("Cast", FRAMES, &[FRAMES], &[&input.name]).with_int("to", i64::from(input.element));
        graph.node.insert(0, node);
    }
    let batch = DimValue::DimParam(BATCH.to_owned());
    graph.input = vec![ValueInfoProto::rows(&tensor, FLOAT, batch, &dims)];
    graph.value_info.clear();
    Ok(Port { tensor, element: FLOAT, dims })
}

/// The output that holds one score per class: `rows x classes`, trailing dims of 1 allowed.
fn choose_scores(outputs: &[String], shapes: &Shapes, labels: Option<usize>) -> Result<(String, usize), String> {
    let mut found: Vec<(usize, &String, usize)> = Vec::new();
    for name in outputs {
        let Some(dims) = shapes.seen.get(name).and_then(Seen::row_dims) else {
            continue;
        };
        let classes = dims.first().copied().unwrap_or(0);
        if classes < 2 || dims.iter().skip(1).any(|&dim| dim != 1) {
            continue;
        }
        let lower = name.to_lowercase();
        let named = ["logit", "prob", "score", "class", "softmax"].iter().any(|word| lower.contains(word));
        let rank = if labels == Some(classes) { 0 } else { 2 } + usize::from(!named);
        found.push((rank, name, classes));
    }
    // The first of the best: exporters put the main output first.
    found.iter().min_by_key(|(rank, ..)| *rank).map(|(_, name, classes)| ((*name).clone(), *classes)).ok_or_else(|| {
        let all: Vec<String> =
            outputs.iter().map(|name| format!("\"{name}\" {:?}", shapes.shape(name).unwrap_or_default())).collect();
        format!(
            "is no image classifier: no output has the shape [batch, classes]; it has {} (at batch 1)",
            all.join(", ")
        )
    })
}

/// A graph that ends in Softmax gives probabilities.
fn meaning(graph: &GraphProto, scores: &str) -> Scores {
    let mut name = scores;
    loop {
        match graph.node.iter().find(|node| node.makes().any(|made| made == name)) {
            Some(node) if node.op_type() == "Softmax" => return Scores::Probabilities,
            Some(node) if matches!(node.op_type(), "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Cast") => {
                match node.input.first() {
                    Some(input) if input != name => name = input,
                    _ => return Scores::Logits,
                }
            }
            _ => return Scores::Logits,
        }
    }
}

fn as_floats(graph: &mut GraphProto, scores: &str, shapes: &Shapes) -> String {
    if shapes.seen.get(scores).is_none_or(|seen| seen.element == FLOAT) {
        return scores.to_owned();
    }
    graph.node.push(NodeProto::new("Cast", SCORES, &[scores], &[SCORES]).with_int("to", i64::from(FLOAT)));
    SCORES.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a fixed batch is freed whichever way the exporter reads zeros, unless it has a zero to be read so. Method: one
    /// Reshape to each shape; a freed one keeps its batch.
    #[test]
    fn reshapes_to_a_batch_of_one_are_freed() {
        let freed = |shape: &[i64], allowzero: i64| {
            let node = NodeProto::new("Reshape", "r", &["image", "shape"], &["r"]).with_int("allowzero", allowzero);
            let initializer = vec![TensorProto::int64s("shape", shape)];
            let mut shapes = Shapes::default();
            shapes.seen.insert("image".to_owned(), Seen { at_one: vec![1, 6], ..Seen::default() });
            let graph = GraphProto { node: vec![node], initializer, ..GraphProto::default() };
            let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
            let any = free_batch(&mut model, &shapes);
            let graph = model.graph.expect("it was there");
            let zeros = graph.node.iter().all(|node| node.int("allowzero").unwrap_or(0) == 0);
            (any && zeros).then(|| graph.initializer.last().and_then(TensorProto::read_int64s)).flatten()
        };
        assert_eq!(freed(&[1, 2, 3], 0), Some(vec![0, 2, 3]));
        assert_eq!(freed(&[1, -1], 1), Some(vec![0, -1]));
        assert_eq!(freed(&[1, 0, 3], 0), Some(vec![0, 0, 3]));
        assert_eq!(freed(&[1, 0, 3], 1), None);
        assert_eq!(freed(&[2, 3], 1), None);
    }

    #[test]
    fn forged_dims_overflow_nothing() {
        let huge = TensorProto { dims: vec![i64::MAX], ..TensorProto::default() };
        let graph = GraphProto { initializer: vec![huge; 4], ..GraphProto::default() };
        assert_eq!(params(&graph), u64::MAX);
    }
}
