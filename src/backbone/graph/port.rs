//! A tensor at which a segment starts or ends.

use super::onnx::{DimValue, ValueInfoProto};

/// Name of the free batch dimension and of the tensor that holds its size.
pub(crate) const BATCH: &str = "offramp_batch";

/// A tensor where a segment starts or ends: `rows x dims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) tensor: String,
    pub(crate) element: i32,
    pub(crate) dims: Vec<usize>,
}

impl Port {
    /// Elements per row.
    pub(crate) fn row(&self) -> usize {
        self.dims.iter().fold(1, |product, &dim| product.saturating_mul(dim))
    }

    /// As a graph declares its input.
    pub(crate) fn info(&self) -> ValueInfoProto {
        ValueInfoProto::rows(&self.tensor, self.element, DimValue::DimParam(BATCH.to_owned()), &self.dims)
    }
}
