//! What a loaded backbone says about itself, for people and for `inspect --json`.

use serde::Serialize;

use super::cut::Backbone;
use super::graph::cut_points::CutPoint;

/// A model's outside.
#[derive(Debug, Clone, Serialize)]
pub struct ModelView {
    /// blake3 of the model file and its external data, hex.
    pub fingerprint: String,
    /// FLOPs (2 x MACs) for one frame.
    pub flops: u64,
    /// Number of weights.
    pub params: u64,
    /// What is fed; a dim of -1 is the batch.
    pub inputs: Vec<TensorView>,
    /// What is read.
    pub outputs: Vec<TensorView>,
    /// Operator set of the default domain.
    pub opset: i64,
}

/// A tensor's name and shape.
#[derive(Debug, Clone, Serialize)]
pub struct TensorView {
    /// Its name in the graph.
    pub name: String,
    /// Its dims; -1 is the batch.
    pub shape: Vec<i64>,
}

/// A tensor that everything passes through.
#[derive(Debug, Clone, Serialize)]
pub struct CutView {
    /// Its name in the user's graph.
    pub tensor: String,
    /// The operator that makes it.
    pub op: String,
    /// Its dims; -1 is the batch.
    pub shape: Vec<i64>,
    /// Share of the FLOPs spent up to and including it.
    pub flops_fraction: f64,
}

impl Backbone {
    /// The model's outside: who it is, what goes in and comes out.
    #[must_use]
    pub fn view(&self) -> ModelView {
        let tensor = |name: &str, dims: &[usize]| TensorView { name: name.to_owned(), shape: shape(dims) };
        ModelView {
            fingerprint: self.plan.backbone.to_string(),
            flops: self.plan.flops,
            params: self.prepared.params,
            inputs: vec![tensor(&self.prepared.input.tensor, &self.prepared.input.dims)],
            outputs: vec![tensor(&self.prepared.scores, &[self.prepared.classes])],
            opset: self.prepared.opset,
        }
    }

    /// Every cut point, in order; candidates are some of them.
    #[must_use]
    pub fn cut_points(&self) -> Vec<CutView> {
        let view = |point: &CutPoint| CutView {
            tensor: point.port.tensor.clone(),
            op: point.op.clone(),
            shape: shape(&point.port.dims),
            flops_fraction: point.fraction,
        };
        self.prepared.points.iter().map(view).collect()
    }
}

fn shape(dims: &[usize]) -> Vec<i64> {
    std::iter::once(-1).chain(dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))).collect()
}
