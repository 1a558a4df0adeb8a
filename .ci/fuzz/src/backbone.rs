//! The library's own room for graphs, and the way that a model's bytes take through them. What ONNX Runtime would tell of the tensors
//! is made up from the bytes.

#![allow(dead_code, unused_imports, reason = "the library uses more of these files")]

#[path = "../../../src/backbone/graph/mod.rs"]
mod graph;

use bytes::Bytes;
use prost::Message;

use graph::onnx::ModelProto;
use graph::port::Port;
use graph::shapes::{Seen, Shapes};
use graph::{cut_points, parse, pooling, split};

/// Length of every external file.
const EXTERNAL: usize = 4096;

/// Reads a model, finds its cuts, rebuilds its shape arithmetic and cuts it everywhere.
pub(crate) fn read(bytes: &[u8]) {
    // A refusal is as good an end as a cut.
    let _refused = through(bytes);
}

fn through(bytes: &[u8]) -> Result<(), String> {
    let mut model = parse::parse(Bytes::copy_from_slice(bytes))?;
    let graph = model.graph.as_mut().ok_or("no graph")?;
    parse::resolve(graph, &mut |_| Ok(Bytes::from_static(&[0; EXTERNAL])))?;
    let input = parse::image_input(graph)?;
    let outputs: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let shapes = made_up(&model, bytes.len());
    let dims = input.dims.iter().skip(1).map(|dim| dim.map_or(3, |dim| dim as usize)).collect();
    let start = Port { tensor: input.name, element: input.element, dims };
    split::fold_shapes(&mut model, &start, &shapes)?;
    for output in outputs.iter().take(2) {
        cut(&model, &start, output, &shapes)?;
    }
    Ok(())
}

fn cut(model: &ModelProto, start: &Port, output: &str, shapes: &Shapes) -> Result<(), String> {
    let graph = model.graph.as_ref().ok_or("no graph")?;
    let (points, flops) = cut_points::cut_points(graph, &start.tensor, output, shapes)?;
    let width_max = pooling::width_max(flops, 128);
    let pooling = |at: usize| pooling::pooling(&points.get(at)?.port, 17, at, width_max);
    let chosen = cut_points::spread(&points, 4, |point| pooling::pooling(&point.port, 17, 0, width_max).is_some());
    let poolings: Vec<_> = chosen.iter().filter_map(|&at| pooling(at)).collect();
    let mut whole = model.clone();
    split::add_features(&mut whole, &poolings);
    let mut from = start;
    for (&at, pooling) in chosen.iter().zip(&poolings) {
        let Some(point) = points.get(at) else { continue };
        // What was written must be readable again.
        let part = split::extract(&whole, &start.tensor, from, &[&point.port.tensor, &pooling.output])?;
        parse::parse(Bytes::from(part.encode_to_vec())).map(drop).or_else(|words| empty(&words))?;
        from = &point.port;
    }
    split::extract(&whole, &start.tensor, from, &[output]).map(drop)
}

/// A part without nodes is refused like a model without nodes; anything else would be a finding.
fn empty(words: &str) -> Result<(), String> {
    assert!(words.contains("without nodes"), "a part that was written cannot be read: {words}");
    Err(words.to_owned())
}

/// Shapes for every tensor that nodes make: as they might be, large ones among them.
fn made_up(model: &ModelProto, seed: usize) -> Shapes {
    let mut shapes = Shapes { batches: !seed.is_multiple_of(5), ..Shapes::default() };
    let sides = [1, 2, 3, 4, 7, 14, 16, 56, 224, 1 << 20, 1 << 40];
    for node in model.graph.iter().flat_map(|graph| &graph.node) {
        for name in node.makes() {
            let mut mix = name.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
            let rank = mix % 4;
            let mut at_one = vec![1];
            for _ in 0..rank {
                mix = mix.wrapping_mul(0x9E37_79B9) >> 1;
                at_one.push(sides[mix % sides.len()]);
            }
            let two = || at_one.iter().enumerate().map(|(at, dim)| if at == 0 { 2 } else { *dim }).collect();
            let number = i64::try_from(mix).unwrap_or(i64::MAX);
            let shape = node.op_type() == "Shape";
            let seen = Seen {
                element: if shape { 7 } else { 1 },
                at_two: shapes.batches.then(two),
                integers: shape.then(|| (vec![1, number], vec![2, number])),
                finite: true,
                at_one,
            };
            shapes.seen.insert(name.to_owned(), seen);
        }
    }
    shapes
}
