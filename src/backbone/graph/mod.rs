//! Reading and cutting the graph: bytes in, graphs and what is known of them out. Pure: knows neither files nor ONNX Runtime, and
//! nothing else of ours. The fuzz target takes this folder as it is.
//!
//! | file | what it knows |
//! |---|---|
//! | `parse` | a model's bytes, its external weights, its one input |
//! | `onnx` | ONNX's protobuf schema |
//! | `dataflow` | what depends on the picture, in which order, and what everything passes through |
//! | `shapes` | types and shapes of all tensors, as seen when the graph ran |
//! | `flops` | what a node costs |
//! | `cut_points` | where the graph can be cut, and which cuts are worth an exit |
//! | `pooling` | an exit's features as nodes of the graph |
//! | `split` | segments between two cuts |
//! | `port` | a tensor at which a segment starts or ends |
//! | `prepared` | a model that is ready to be cut |

pub(crate) mod cut_points;
pub(crate) mod dataflow;
pub(crate) mod flops;
#[cfg(test)]
mod known_networks;
pub(crate) mod onnx;
pub(crate) mod parse;
pub(crate) mod pooling;
pub(crate) mod port;
pub(crate) mod prepared;
pub(crate) mod shapes;
pub(crate) mod split;
