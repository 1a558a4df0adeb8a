//! Well-known networks, layer for layer as torchvision has them: their FLOPs are those that everybody gives.
//!
//! Only shapes are built, no weights: a count needs no more.

use super::cut_points::cut_points;
use super::onnx::{FLOAT, GraphProto, NodeProto, TensorProto};
use super::shapes::{Seen, Shapes};

const INPUT: &str = "image";

/// A graph under construction; every method gives the number of the tensor that it makes.
struct Net {
    graph: GraphProto,
    seen: Shapes,
    shapes: Vec<Vec<usize>>,
}

impl Net {
    fn new(side: usize) -> Self {
        let shapes = vec![vec![1, 3, side, side]];
        Self { graph: GraphProto::default(), seen: Shapes { batches: true, ..Shapes::default() }, shapes }
    }

    fn name(tensor: usize) -> String {
        if tensor == 0 { INPUT.to_owned() } else { format!("t{tensor}") }
    }

    fn op(&mut self, op: &str, reads: &[usize], weight: Option<&[usize]>, shape: Vec<usize>) -> usize {
        let made = self.shapes.len();
        let name = Self::name(made);
        let mut inputs: Vec<String> = reads.iter().map(|&tensor| Self::name(tensor)).collect();
        if let Some(dims) = weight {
            let dims = dims.iter().map(|&dim| i64::try_from(dim).expect("small")).collect();
            let weight = format!("w{made}");
            inputs.push(weight.clone());
            self.graph.initializer.push(TensorProto { name: Some(weight), dims, ..TensorProto::default() });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.graph.node.push(NodeProto::new(op, &name, &inputs, &[&name]));
        let at_two = Some(std::iter::once(2).chain(shape.iter().skip(1).copied()).collect());
        let seen = Seen { element: FLOAT, at_one: shape.clone(), at_two, integers: None, finite: true };
        self.seen.seen.insert(name, seen);
        self.shapes.push(shape);
        made
    }

    fn channels(&self, x: usize) -> usize {
        self.shapes[x][1]
    }

    /// A convolution with "same" padding, a batch norm and an activation, as they stand before an exporter folds them.
    fn conv(&mut self, x: usize, out: usize, kernel: usize, stride: usize, group: usize) -> usize {
        let (channels, side) = (self.channels(x), self.shapes[x][2].div_ceil(stride));
        let shape = vec![1, out, side, side];
        let y = self.op("Conv", &[x], Some(&[out, channels / group, kernel, kernel]), shape.clone());
        self.op("BatchNormalization", &[y], Some(&[out]), shape)
    }

    fn same(&mut self, op: &str, reads: &[usize]) -> usize {
        let shape = self.shapes[reads[0]].clone();
        self.op(op, reads, None, shape)
    }

    fn classes(&mut self, x: usize) -> usize {
        let width = self.channels(x);
        let x = self.op("GlobalAveragePool", &[x], None, vec![1, width, 1, 1]);
        let x = self.op("Flatten", &[x], None, vec![1, width]);
        self.op("Gemm", &[x], Some(&[width, 1000]), vec![1, 1000])
    }

    /// A linear layer over tokens, with its bias.
    fn linear(&mut self, x: usize, out: usize) -> usize {
        let (tokens, width) = (self.shapes[x][1], self.shapes[x][2]);
        let y = self.op("MatMul", &[x], Some(&[width, out]), vec![1, tokens, out]);
        self.same("Add", &[y])
    }

    /// Giga multiply-accumulates, and how many cut points were found.
    fn count(&self, output: usize) -> (f64, usize) {
        let (points, flops) = cut_points(&self.graph, INPUT, &Self::name(output), &self.seen).expect("a sound graph");
        (flops as f64 / 2e9, points.len())
    }
}

fn near(found: f64, known: f64, what: &str) {
    assert!((found / known - 1.0).abs() < 0.01, "{what}: {known} G multiply-accumulates by hand, found {found}");
}

#[test]
fn resnet_50() {
    let mut n = Net::new(224);
    let x = n.conv(0, 64, 7, 2, 1);
    let x = n.same("Relu", &[x]);
    let mut x = n.op("MaxPool", &[x], None, vec![1, 64, 56, 56]);
    for (stage, (width, blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let y = n.conv(x, width, 1, 1, 1);
            let y = n.same("Relu", &[y]);
            let y = n.conv(y, width, 3, stride, 1);
            let y = n.same("Relu", &[y]);
            let y = n.conv(y, 4 * width, 1, 1, 1);
            if block == 0 {
                x = n.conv(x, 4 * width, 1, stride, 1);
            }
            let sum = n.same("Add", &[y, x]);
            x = n.same("Relu", &[sum]);
        }
    }
    let scores = n.classes(x);
    let (macs, cuts) = n.count(scores);
    near(macs, 4.09, "ResNet-50");
    assert!(cuts >= 16, "every block's end is a cut: {cuts}");
}

#[test]
fn mobilenet_v2() {
    let mut n = Net::new(224);
    let x = n.conv(0, 32, 3, 2, 1);
    let mut x = n.same("Clip", &[x]);
    let stages =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    for (expand, out, blocks, stride) in stages {
        for block in 0..blocks {
            let (stride, width) = (if block == 0 { stride } else { 1 }, n.channels(x) * expand);
            let mut y = x;
            if expand > 1 {
                y = n.conv(y, width, 1, 1, 1);
                y = n.same("Clip", &[y]);
            }
            y = n.conv(y, width, 3, stride, width);
            y = n.same("Clip", &[y]);
            y = n.conv(y, out, 1, 1, 1);
            x = if stride == 1 && n.channels(x) == out { n.same("Add", &[y, x]) } else { y };
        }
    }
    let x = n.conv(x, 1280, 1, 1, 1);
    let x = n.same("Clip", &[x]);
    let scores = n.classes(x);
    near(n.count(scores).0, 0.30, "MobileNetV2");
}

#[test]
fn vit_b_16() {
    let (width, tokens, heads) = (768, 197, 12);
    let mut n = Net::new(224);
    let x = n.op("Conv", &[0], Some(&[width, 3, 16, 16]), vec![1, width, 14, 14]);
    let x = n.op("Reshape", &[x], None, vec![1, width, 196]);
    let x = n.op("Transpose", &[x], None, vec![1, 196, width]);
    let x = n.op("Concat", &[x], Some(&[1, 1, width]), vec![1, tokens, width]);
    let mut x = n.op("Add", &[x], Some(&[1, tokens, width]), vec![1, tokens, width]);
    for _ in 0..12 {
        let y = n.same("LayerNormalization", &[x]);
        let (split, turned) = (vec![1, heads, tokens, width / heads], vec![1, heads, width / heads, tokens]);
        let query = n.linear(y, width);
        let query = n.op("Reshape", &[query], None, split.clone());
        let key = n.linear(y, width);
        let key = n.op("Transpose", &[key], None, turned);
        let value = n.linear(y, width);
        let value = n.op("Reshape", &[value], None, split.clone());
        let scores = n.op("MatMul", &[query, key], None, vec![1, heads, tokens, tokens]);
        let scores = n.same("Softmax", &[scores]);
        let y = n.op("MatMul", &[scores, value], None, split);
        let y = n.op("Reshape", &[y], None, vec![1, tokens, width]);
        let y = n.linear(y, width);
        x = n.same("Add", &[y, x]);
        let y = n.same("LayerNormalization", &[x]);
        let y = n.linear(y, 4 * width);
        let y = n.same("Gelu", &[y]);
        let y = n.linear(y, width);
        x = n.same("Add", &[y, x]);
    }
    let x = n.same("LayerNormalization", &[x]);
    let x = n.op("Gather", &[x], None, vec![1, width]);
    let scores = n.op("Gemm", &[x], Some(&[width, 1000]), vec![1, 1000]);
    let (macs, cuts) = n.count(scores);
    near(macs, 17.56, "ViT-B/16, attention counted");
    assert!(cuts >= 24, "both halves of every layer end in a cut: {cuts}");
}
