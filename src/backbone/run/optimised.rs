//! The backbone cut after ONNX Runtime has rewritten it: blocked layouts and fusions stay as they are across a cut.
//!
//! The rewritten graph belongs to this CPU and this library: it is made at start-up and never shipped. Its weights lie in
//! one file that ONNX Runtime maps into memory, so all sessions of all lanes share them.
//! Names of inner tensors do not survive, so a cut is found again by where its pooled features branch off.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::blocked_layout::Blocked;
use super::error::SessionError;
use super::noise::noise;
use super::session::Session;
use super::temp_folder::Folder;
use super::tensor::{Buffer, Feed};
use crate::backbone::graph::dataflow::{Class, Graph};
use crate::backbone::graph::onnx::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::backbone::graph::parse;
use crate::backbone::graph::port::Port;
use crate::backbone::graph::prepared::{Candidate, Prepared};
use crate::backbone::graph::shapes::Seen;
use crate::backbone::graph::split;

/// Smaller weights stay in the graph.
const SHARED_FROM: usize = 4096;
/// Weights begin at pages of their own.
const PAGE: usize = 4096;
const WEIGHTS: &str = "weights";

/// The rewritten graph with every candidate's features as outputs.
#[derive(Debug, Clone)]
pub(crate) struct Optimised {
    pub(crate) model: ModelProto,
    /// Where its large weights lie.
    folder: Arc<Folder>,
    /// Per candidate; `None` where the rewriting left no tensor to cut at.
    pub(crate) cuts: Vec<Option<Cut>>,
}

/// Where the rewritten graph is cut for a candidate.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) port: Port,
    /// The layout that its features can be had of as they are by the graph's own nodes, without those.
    pub(crate) layout: Option<Blocked>,
}

/// Lets ONNX Runtime rewrite the model and finds the cuts again.
///
/// # Errors
/// Why it cannot be done, in words for the log: the plain split serves then.
pub(crate) fn optimise(prepared: &Prepared, threads: usize) -> Result<Optimised, String> {
    let input = &prepared.input.tensor;
    let mut whole = prepared.model.clone();
    split::add_features(&mut whole, prepared.candidates.iter().map(|candidate| &candidate.pooling));
    // Only what the outputs need, in an order that any reader takes.
    let mut ends = vec![prepared.scores.as_str()];
    ends.extend(prepared.candidates.iter().map(|candidate| candidate.pooling.output.as_str()));
    let whole = split::extract(&whole, input, &prepared.input, &ends)?;
    let folder = Folder::make().map_err(|error| format!("no temporary folder: {error}"))?;
    let file = folder.path().join("optimised.onnx");
    Session::optimise(&whole, threads, &file).map_err(|error| error.to_string())?;
    let bytes = fs::read(&file).map_err(|error| format!("ONNX Runtime wrote no optimised model: {error}"))?;
    let mut model = parse::parse(Bytes::from(bytes))?;
    let moved = fs::remove_file(&file).and_then(|()| move_weights(&mut model, folder.path()));
    moved.map_err(|error| format!("the temporary folder cannot hold the weights: {error}"))?;
    let tensors = branches(&model, prepared)?;
    let cuts = cuts(&model, prepared, &tensors, folder.path())?;
    let pooled = cuts.iter().flatten().filter(|cut| cut.layout.is_some()).count();
    tracing::debug!(cuts = cuts.iter().flatten().count(), pooled, "cuts found in the optimised graph");
    Ok(Optimised { model, folder: Arc::new(folder), cuts })
}

impl Optimised {
    /// Loads a part of the graph. As it stands: even the lowest level of rewriting would bring the loss of a plain split
    /// back, and make weights of its own.
    pub(crate) fn load(&self, mut part: ModelProto, threads: usize) -> Result<Session, SessionError> {
        let under = summands(&part);
        if let Some(graph) = part.graph.as_mut() {
            graph.output.extend(under.iter().map(|name| ValueInfoProto::named(name)));
        }
        let mut names = split::shorten(&mut part);
        let under = names.split_off(names.len().saturating_sub(under.len()));
        Ok(Session::load_sharing(&part, threads, self.folder.path())?.written_over(under))
    }
}

/// The tensors that the part's first output is added to, nearest first: a convolution that ends a residual block takes the
/// other branch as a sum to start from, and the sum may be the end of such a block itself. Inside a graph ONNX Runtime lets
/// it overwrite the sum. What is an output it makes in memory of its own and copies the sum there first, unless the sum
/// lies there already.
fn summands(part: &ModelProto) -> Vec<String> {
    let find = |proto: &GraphProto| -> Option<Vec<String>> {
        let start = proto.input.first()?.name();
        let graph = Graph::new(proto, start).ok()?;
        let mut found: Vec<String> = Vec::new();
        let mut over = proto.output.first()?.name();
        while let Some(sum) = graph.maker(over).and_then(summand).filter(|sum| graph.maker(sum).is_some()) {
            // All who read the sum must have done so before it is overwritten, whatever the order of the rest.
            let before = graph.between(&[start], &[over]);
            let early = |node: &NodeProto| before.iter().any(|other| std::ptr::eq(*other, node));
            if !proto.node.iter().filter(|node| node.reads().contains(&sum)).all(early) {
                break;
            }
            found.push(sum.to_owned());
            over = sum;
        }
        Some(found)
    };
    part.graph.as_ref().and_then(find).unwrap_or_default()
}

/// The sum that a convolution starts from: the fourth input of ONNX Runtime's own.
fn summand(node: &NodeProto) -> Option<&str> {
    let own = node.domain().starts_with("com.microsoft") && matches!(node.op_type(), "Conv" | "FusedConv");
    node.input.get(3).filter(|name| own && !name.is_empty()).map(String::as_str)
}

/// Moves the large weights into a file of the folder.
fn move_weights(model: &mut ModelProto, folder: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create_new(folder.join(WEIGHTS))?);
    let mut at = 0;
    for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= SHARED_FROM) else { continue };
        file.write_all(&raw)?;
        let padding = raw.len().next_multiple_of(PAGE) - raw.len();
        file.write_all(&[0; PAGE][..padding])?;
        tensor.lies_in(WEIGHTS, at, raw.len());
        at += raw.len() + padding;
    }
    // Read by this machine's running kernel only: nothing has to reach the disk.
    file.flush()
}

/// Per candidate: the last tensor of the main path that its features come from, through light work only.
fn branches(model: &ModelProto, prepared: &Prepared) -> Result<Vec<Option<String>>, String> {
    let proto = model.graph.as_ref().ok_or("the optimised model has no graph")?;
    let graph = Graph::new(proto, &prepared.input.tensor)?;
    let passes = graph.passes(&prepared.scores);
    let branch = |candidate: &Candidate| {
        passes
            .iter()
            .rev()
            .find(|pass| {
                let ends = [candidate.pooling.output.as_str()];
                let path = graph.between(&[pass], &ends);
                let reads = |node: &NodeProto| node.reads().contains(pass);
                let data = |node: &&&NodeProto| node.makes().any(|name| graph.class(name) == Class::Data);
                path.iter().any(|node| reads(node)) && path.iter().filter(data).all(|node| !heavy(node))
            })
            .map(|pass| (*pass).to_owned())
    };
    Ok(prepared.candidates.iter().map(branch).collect())
}

/// Work that belongs to the backbone: were it between a cut and its features, it would be done twice.
fn heavy(node: &NodeProto) -> bool {
    let op = node.op_type();
    op.contains("Conv") || op.contains("MatMul") || op.contains("Gemm") || op.contains("Attention") || op == "Einsum"
}

/// Types, shapes and layouts of the cut tensors, found by running: blocked channels are padded.
fn cuts(
    model: &ModelProto,
    prepared: &Prepared,
    tensors: &[Option<String>],
    folder: &Path,
) -> Result<Vec<Option<Cut>>, String> {
    let mut names: Vec<&str> = tensors.iter().flatten().map(String::as_str).collect();
    names.dedup();
    if names.is_empty() {
        return Err("no cut is left in the optimised graph".to_owned());
    }
    let features = prepared.candidates.iter().map(|candidate| candidate.pooling.output.as_str());
    let mut open = model.clone();
    if let Some(graph) = open.graph.as_mut() {
        graph.output = names.iter().copied().chain(features).map(ValueInfoProto::named).collect();
        graph.value_info.clear();
    }
    let mut session = Session::load_sharing(&open, 1, folder).map_err(|error| error.to_string())?;
    let dims = &prepared.input.dims;
    let frames = noise(2 * dims.iter().product::<usize>());
    let mut made = |rows| session.run(&Feed::Frames(&frames), rows, dims).map_err(|error| error.to_string());
    let one = made(1)?;
    let two = if prepared.batches { Some(made(2)?) } else { None };
    let cut = |(index, (tensor, candidate)): (usize, (&Option<String>, &Candidate))| {
        let tensor = tensor.as_ref()?;
        let at = names.iter().position(|name| name == tensor)?;
        let shape = |made: &Vec<Buffer>| made.get(at).map(|buffer| buffer.shape().to_vec());
        let (element, at_one, at_two) = (one.get(at)?.element_number(), shape(&one)?, two.as_ref().and_then(shape));
        let seen = Seen { element, at_one, at_two, integers: None, finite: true };
        let values = |at: usize| two.as_ref().unwrap_or(&one).get(at)?.floats().ok();
        let grid = candidate.pooling.grid.as_ref();
        let layout = grid.and_then(|grid| Blocked::found(grid, values(at)?, values(names.len() + index)?));
        Some(Cut { port: Port { tensor: tensor.clone(), element, dims: seen.row_dims()?.to_vec() }, layout })
    };
    Ok(tensors.iter().zip(&prepared.candidates).enumerate().map(cut).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::graph::onnx::TensorProto;

    /// x -> s -> t; y = t convolved onto s; `more` reads what it likes.
    fn block(more: NodeProto) -> ModelProto {
        let own = |mut node: NodeProto| {
            node.domain = Some("com.microsoft".to_owned());
            node
        };
        let node = vec![
            own(NodeProto::new("FusedConv", "s", &["x", "w", "b", "r"], &["s"])),
            NodeProto::new("Relu", "r", &["x"], &["r"]),
            NodeProto::new("Relu", "t", &["s"], &["t"]),
            own(NodeProto::new("FusedConv", "y", &["t", "w", "b", "s"], &["y"])),
            more,
        ];
        let weights = ["w", "b"].map(|name| TensorProto::int64s(name, &[]));
        let graph = GraphProto {
            node,
            initializer: weights.into(),
            input: vec![ValueInfoProto::named("x")],
            output: vec![ValueInfoProto::named("y"), ValueInfoProto::named("p")],
            ..GraphProto::default()
        };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    /// Goal: only what nobody reads afterwards is written over, back to what is made outside.
    #[test]
    fn a_sum_is_written_over_when_all_have_read_it() {
        let pool = |from: &str| NodeProto::new("GlobalAveragePool", "p", &[from], &["p"]);
        assert_eq!(summands(&block(pool("y"))), ["s", "r"]);
        assert_eq!(summands(&block(pool("s"))), Vec::<String>::new(), "the pool may come last");
        assert_eq!(summands(&block(pool("r"))), ["s"]);
        let onto_input = {
            let mut model = block(pool("y"));
            let first = model.graph.as_mut().and_then(|graph| graph.node.first_mut()).expect("a node");
            first.input = ["x", "w", "b", "x"].map(str::to_owned).into();
            model
        };
        assert_eq!(summands(&onto_input), ["s"], "the input is the segment's before");
    }
}
