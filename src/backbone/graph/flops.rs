//! FLOPs of a node for one frame, from the shapes of what it reads and makes.
//!
//! Two per multiply-accumulate, one per output element of elementwise work, none for moving data or for what is fused
//! into a convolution: so the totals are those that papers give. Pure.

use super::onnx::NodeProto;

/// FLOPs of one node at batch 1. `shape` gives a tensor's dims, weights included; what is unknown counts as nothing.
pub(crate) fn node_flops<'s>(node: &NodeProto, shape: &dyn Fn(&str) -> Option<&'s [usize]>) -> u64 {
    let input = |at: usize| node.input.get(at).and_then(|name| shape(name));
    let output = node.output.first().and_then(|name| shape(name));
    let made = output.map_or(0, elements);
    // How many multiply-accumulates there are per element of which tensor.
    let macs = match node.op_type() {
        "Conv" | "FusedConv" | "ConvInteger" | "NhwcFusedConv" => times(made, input(1).map(per_output)),
        "QLinearConv" => times(made, input(3).map(per_output)),
        "ConvTranspose" => times(input(0).map_or(0, elements), input(1).map(per_output)),
        "MatMul" | "MatMulInteger" | "FusedMatMul" | "DynamicQuantizeMatMul" | "QLinearMatMul" => {
            times(made, input(0).and_then(<[usize]>::last).map(|&depth| depth as u64))
        }
        "Gemm" | "FusedGemm" | "QGemm" => {
            let transposed = node.int("transA").unwrap_or(0) != 0;
            let depth = input(0).and_then(|dims| if transposed { dims.first() } else { dims.last() });
            times(made, depth.map(|&depth| depth as u64))
        }
        "Einsum" => einsum(node, &input),
        "Attention" | "MultiHeadAttention" => attention(made, &input),
        _ => return other(node, made, input(0).map_or(0, elements)),
    };
    macs.saturating_mul(2)
}

fn other(node: &NodeProto, made: u64, read: u64) -> u64 {
    match node.op_type() {
        // The runtime does the first three while it stores what a convolution made; the others only name, move or
        // describe data.
        "Relu" | "Clip" | "BatchNormalization" | "Reshape" | "Transpose" | "Flatten" | "Squeeze" | "Unsqueeze"
        | "Identity" | "Dropout" | "Concat" | "Slice" | "Split" | "Shape" | "Size" | "Gather" | "GatherND"
        | "Expand" | "Pad" | "Constant" | "ConstantOfShape" | "Cast" | "Tile" | "SpaceToDepth" | "DepthToSpace"
        | "Range" | "If" | "Loop" | "Scan" => 0,
        // These touch every input element once.
        "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceSum"
        | "ReduceMax" | "ReduceMin" | "ReduceL2" => read,
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

fn times(elements: u64, each: Option<u64>) -> u64 {
    elements.saturating_mul(each.unwrap_or(0))
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

/// Scores and weighted values: `2 x tokens^2 x width`, the projections aside. Tokens come before the width, heads or none.
fn attention<'s>(made: u64, input: &dyn Fn(usize) -> Option<&'s [usize]>) -> u64 {
    let tokens = input(0).and_then(|dims| dims.iter().nth_back(1)).map_or(0, |&tokens| tokens as u64);
    made.saturating_mul(tokens).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(op: &str, shapes: &[&[usize]]) -> u64 {
        let names: Vec<String> = (0..shapes.len()).map(|at| at.to_string()).collect();
        let (made, read) = names.split_last().expect("an output");
        let read: Vec<&str> = read.iter().map(String::as_str).collect();
        let node = NodeProto::new(op, op, &read, &[made]);
        node_flops(&node, &|name| shapes.get(name.parse::<usize>().ok()?).copied())
    }

    /// Goal: the counts are those of a hand calculation; the last shape is the output's.
    #[test]
    fn by_hand() {
        // 3x3, 16 -> 32 channels on 14x14.
        assert_eq!(count("Conv", &[&[1, 16, 14, 14], &[32, 16, 3, 3], &[1, 32, 14, 14]]), 2 * 32 * 196 * 144);
        // Depthwise: one channel in per channel out.
        assert_eq!(count("Conv", &[&[1, 16, 14, 14], &[16, 1, 3, 3], &[1, 16, 14, 14]]), 2 * 16 * 196 * 9);
        assert_eq!(count("Gemm", &[&[1, 128], &[10, 128], &[1, 10]]), 2 * 1280);
        // Attention scores: 12 heads, 197 tokens, 64 wide.
        let heads = [1, 12, 197, 64];
        assert_eq!(count("MatMul", &[&heads, &[1, 12, 64, 197], &[1, 12, 197, 197]]), 2 * 12 * 197 * 197 * 64);
        // All of an attention: scores and weighted values, heads apart or side by side.
        let whole = 2 * 2 * 197 * 197 * 768;
        assert_eq!(count("Attention", &[&heads, &heads, &heads, &heads]), whole);
        assert_eq!(
            count("MultiHeadAttention", &[&[1, 197, 768], &[1, 197, 768], &[1, 197, 768], &[1, 197, 768]]),
            whole
        );
        // Every input element meets every weight of its channel once.
        assert_eq!(count("ConvTranspose", &[&[1, 8, 7, 7], &[8, 4, 2, 2], &[1, 4, 14, 14]]), 2 * 8 * 49 * 16);
        assert_eq!(count("Add", &[&[1, 8, 7, 7], &[1, 8, 7, 7], &[1, 8, 7, 7]]), 8 * 49);
        assert_eq!(count("GlobalAveragePool", &[&[1, 8, 7, 7], &[1, 8, 1, 1]]), 8 * 49);
        assert_eq!(count("Reshape", &[&[1, 8, 7, 7], &[2], &[1, 392]]), 0);
    }
}
