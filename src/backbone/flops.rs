//! FLOPs of a node for one frame, from the shapes of what it reads and makes.
//!
//! Two per multiply-accumulate, one per output element of elementwise work, none for moving data. Pure.

use super::onnx::NodeProto;

/// FLOPs of one node at batch 1. `shape` gives a tensor's dims, weights included; what is unknown counts as nothing.
pub(super) fn node_flops<'s>(node: &NodeProto, shape: &dyn Fn(&str) -> Option<&'s [usize]>) -> u64 {
    let input = |at: usize| node.input.get(at).and_then(|name| shape(name));
    let output = node.output.first().and_then(|name| shape(name));
    let made = output.map_or(0, elements);
    let macs = match node.op_type() {
        "Conv" | "FusedConv" | "ConvInteger" | "NhwcFusedConv" => made * input(1).map_or(0, per_output),
        "QLinearConv" => made * input(3).map_or(0, per_output),
        "ConvTranspose" => input(0).map_or(0, elements) * input(1).map_or(0, per_output),
        "MatMul" | "MatMulInteger" | "FusedMatMul" | "DynamicQuantizeMatMul" => made * input(0).map_or(0, inner),
        "QLinearMatMul" => made * input(0).map_or(0, inner),
        "Gemm" | "FusedGemm" | "QGemm" => {
            let transposed = node.int("transA").unwrap_or(0) != 0;
            made * input(0).and_then(|dims| if transposed { dims.first() } else { dims.last() }).map_or(0, |&d| d as u64)
        }
        "Einsum" => einsum(node, &input),
        "Attention" | "MultiHeadAttention" => attention(made, &input),
        _ => return other(node, made, input(0).map_or(0, elements)),
    };
    macs.saturating_mul(2)
}

fn other(node: &NodeProto, made: u64, read: u64) -> u64 {
    match node.op_type() {
        // These only name, move or describe data.
        "Reshape" | "Transpose" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" | "Concat" | "Slice"
        | "Split" | "Shape" | "Size" | "Gather" | "GatherND" | "Expand" | "Pad" | "Constant" | "ConstantOfShape"
        | "Cast" | "Tile" | "SpaceToDepth" | "DepthToSpace" | "Range" | "If" | "Loop" | "Scan" => 0,
        // These touch every input element once.
        "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceSum" | "ReduceMax"
        | "ReduceMin" | "ReduceL2" => read,
        _ => made,
    }
}

fn elements(dims: &[usize]) -> u64 {
    dims.iter().fold(1u64, |product, &dim| product.saturating_mul(dim as u64))
}

/// Multiply-accumulates per output element of a convolution with such a weight (`out x in/group x kernel…`).
fn per_output(weight: &[usize]) -> u64 {
    elements(weight.get(1..).unwrap_or_default())
}

fn inner(dims: &[usize]) -> u64 {
    dims.last().map_or(0, |&dim| dim as u64)
}

/// Every index of the equation runs once over its range: the product of all ranges.
fn einsum<'s>(node: &NodeProto, input: &dyn Fn(usize) -> Option<&'s [usize]>) -> u64 {
    let equation = node.text("equation").unwrap_or_default();
    let terms = equation.split("->").next().unwrap_or_default();
    let mut ranges = std::collections::BTreeMap::new();
    for (at, term) in terms.split(',').enumerate() {
        let letters = term.chars().filter(char::is_ascii_alphabetic);
        ranges.extend(letters.zip(input(at).unwrap_or_default().iter().copied()));
    }
    ranges.values().fold(1, |product, &range| product.saturating_mul(range as u64))
}

/// Scores and weighted values: `2 x tokens^2 x width`, the projections aside.
fn attention<'s>(made: u64, input: &dyn Fn(usize) -> Option<&'s [usize]>) -> u64 {
    let tokens = input(0).and_then(|dims| dims.get(1)).map_or(0, |&tokens| tokens as u64);
    made.saturating_mul(tokens).saturating_mul(2)
}
