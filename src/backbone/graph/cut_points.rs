//! Which tensors a backbone may be cut at, and which of them are worth a head. Pure.

use super::dataflow::{Class, Graph};
use super::flops::node_flops;
use super::onnx::{GraphProto, NodeProto};
use super::port::Port;
use super::shapes::Shapes;

/// An exit below this share of the FLOPs sees next to nothing.
const FRACTION_MIN: f64 = 0.01;
/// An exit above this share saves next to nothing.
const FRACTION_MAX: f64 = 0.95;
/// How much a doubling of the tensor's size weighs against distance from the even spread, in units of the spacing: big
/// tensors cost more to hand over and their features are nearer to pixels.
const SIZE_WEIGHT: f64 = 0.1;

/// A tensor that everything passes through.
#[derive(Debug, Clone)]
pub(crate) struct CutPoint {
    pub(crate) port: Port,
    /// The operator that makes it.
    pub(crate) op: String,
    /// Share of the FLOPs spent up to and including it.
    pub(crate) fraction: f64,
}

/// A graph's cut points in order, and its FLOPs for one frame.
pub(crate) fn cut_points(
    proto: &GraphProto,
    input: &str,
    output: &str,
    shapes: &Shapes,
) -> Result<(Vec<CutPoint>, u64), String> {
    let graph = Graph::new(proto, input)?;
    let sizes = Sizes::new(proto, shapes);
    let flops = |ends: &[&str]| -> u64 {
        let nodes = graph.between(&[], ends).into_iter();
        nodes
            .filter(|node| node.makes().any(|name| graph.class(name) == Class::Data))
            .fold(0, |sum, node| sizes.flops(node).saturating_add(sum))
    };
    let total = flops(&[output]);
    let usable = |tensor: &&str| {
        let seen = shapes.seen.get(*tensor)?;
        let dims = seen.row_dims()?.to_vec();
        let port = Port { tensor: (*tensor).to_owned(), element: seen.element, dims };
        carried(port.element).then_some(port)
    };
    let passes: Vec<Port> = graph.passes(output).iter().filter_map(usable).collect();
    let mut points = Vec::new();
    for (at, port) in passes.iter().enumerate() {
        if passes.get(at + 1).is_some_and(|next| belongs_behind(&graph, port, next)) {
            continue;
        }
        #[allow(clippy::cast_precision_loss, reason = "a share; FLOPs lie far below 2^52")]
        let fraction = flops(&[&port.tensor]) as f64 / total.max(1) as f64;
        let op = graph.maker(&port.tensor).map_or_else(String::new, |node| node.op_type().to_owned());
        points.push(CutPoint { port: port.clone(), op, fraction });
    }
    Ok((points, total))
}

/// Positions of at most `count` of the points, spread evenly in FLOPs.
pub(crate) fn spread(points: &[CutPoint], count: usize, usable: impl Fn(&CutPoint) -> bool) -> Vec<usize> {
    let in_range = |point: &CutPoint| (FRACTION_MIN..=FRACTION_MAX).contains(&point.fraction);
    let mut open: Vec<(usize, &CutPoint)> =
        points.iter().enumerate().filter(|(_, point)| in_range(point) && usable(point)).collect();
    if open.len() <= count {
        return open.into_iter().map(|(at, _)| at).collect();
    }
    let smallest = open.iter().map(|(_, point)| point.port.row()).min().unwrap_or(1).max(1);
    #[allow(clippy::cast_precision_loss, reason = "small counts and sizes")]
    let (spacing, smallest) = (1.0 / (count + 1) as f64, smallest as f64);
    let mut chosen = Vec::new();
    let mut target = spacing;
    for _ in 0..count {
        #[allow(clippy::cast_precision_loss, reason = "tensor sizes")]
        let score = |point: &CutPoint| {
            (point.fraction - target).abs() / spacing + SIZE_WEIGHT * (point.port.row() as f64 / smallest).log2()
        };
        let best = open.iter().enumerate().min_by(|(_, (_, a)), (_, (_, b))| score(a).total_cmp(&score(b)));
        let Some(best) = best.map(|(position, _)| position) else {
            break;
        };
        chosen.push(open.remove(best).0);
        target += spacing;
    }
    chosen.sort_unstable();
    chosen
}

/// Element types that rows can be carried in: f32, f16, u8, i8.
fn carried(element: i32) -> bool {
    use super::onnx::DataType::{Float, Float16, Int8, Uint8};
    [Float, Float16, Uint8, Int8].iter().any(|&kind| kind as i32 == element)
}

/// Whether only light work lies between two neighbouring cut points of one size: then the second is the better place. A
/// cut in front of an activation or a normalisation would keep the runtime from fusing it into what comes before.
fn belongs_behind(graph: &Graph<'_>, port: &Port, next: &Port) -> bool {
    port.row() == next.row()
        && graph
            .between(&[&port.tensor], &[&next.tensor])
            .iter()
            .filter(|node| node.makes().any(|name| graph.class(name) == Class::Data))
            .all(|node| light(node))
}

fn light(node: &NodeProto) -> bool {
    matches!(
        node.op_type(),
        "Relu"
            | "LeakyRelu"
            | "PRelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Clip"
            | "Sigmoid"
            | "HardSigmoid"
            | "HardSwish"
            | "Swish"
            | "Mish"
            | "Softplus"
            | "Softsign"
            | "Tanh"
            | "Gelu"
            | "Erf"
            | "BatchNormalization"
            | "Identity"
            | "Dropout"
            | "Cast"
            | "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Pow"
            | "Sqrt"
            | "Min"
            | "Max"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "QuantizeLinear"
            | "DequantizeLinear"
    )
}

/// Shapes of everything a node may read: tensors as seen when probing, weights as declared.
struct Sizes<'a> {
    shapes: &'a Shapes,
    weights: std::collections::HashMap<&'a str, Vec<usize>>,
}

impl<'a> Sizes<'a> {
    fn new(proto: &'a GraphProto, shapes: &'a Shapes) -> Self {
        let dims = |dims: &[i64]| dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        let weights = proto.initializer.iter().map(|tensor| (tensor.name(), dims(&tensor.dims))).collect();
        Self { shapes, weights }
    }

    fn flops(&self, node: &NodeProto) -> u64 {
        node_flops(node, &|name| self.weights.get(name).map(Vec::as_slice).or_else(|| self.shapes.shape(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{FLOAT, TensorProto};
    use super::super::shapes::Seen;
    use super::*;

    /// Goal: weights that are declared larger than anything that exists make no count run over (found by the fuzz target).
    #[test]
    fn absurd_weights_saturate() {
        let mut graph = GraphProto::default();
        let mut shapes = Shapes::default();
        for (read, made) in [("image", "a"), ("a", "b"), ("b", "c")] {
            let weight = format!("w_{made}");
            graph.node.push(NodeProto::new("ConvTranspose", made, &[read, &weight], &[made]));
            let dims = vec![3, i64::MAX, i64::MAX];
            graph.initializer.push(TensorProto { name: Some(weight), dims, ..TensorProto::default() });
            let seen = Seen { element: FLOAT, at_one: vec![1, 1 << 40, 1 << 40], finite: true, ..Seen::default() };
            shapes.seen.insert(made.to_owned(), seen);
        }
        let (points, total) = cut_points(&graph, "image", "c", &shapes).expect("a sound graph");
        assert_eq!(total, u64::MAX);
        assert!(points.iter().all(|point| (0.0..=1.0).contains(&point.fraction)), "{points:?}");
        assert!(spread(&points, 4, |_| true).len() <= 4);
    }
}
