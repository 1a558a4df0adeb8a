//! The backbone cut after ONNX Runtime has rewritten it: blocked layouts and fusions stay as they are across a cut.
//!
//! The rewritten graph belongs to this CPU and this library: it is made at start-up, kept in memory and never shipped.
//! Names of inner tensors do not survive, so a cut is found again by where its pooled features branch off.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::facts::Seen;
use super::graph::{Class, Graph};
use super::onnx::{ModelProto, NodeProto, ValueInfoProto};
use super::prepare::{Candidate, Prepared};
use super::probe;
use super::reader;
use super::session::{Feed, Level, Session};
use super::split::{self, Port};

/// The rewritten graph with every candidate's features as outputs.
#[derive(Debug, Clone)]
pub(super) struct Optimised {
    pub(super) model: ModelProto,
    /// Per candidate: the tensor to cut at; `None` where the rewriting left none.
    pub(super) ports: Vec<Option<Port>>,
}

/// Lets ONNX Runtime rewrite the model and finds the cuts again.
///
/// # Errors
/// Why it cannot be done, in words for the log: the plain split serves then.
pub(super) fn optimise(prepared: &Prepared, threads: usize) -> Result<Optimised, String> {
    let input = &prepared.input.tensor;
    let mut whole = prepared.model.clone();
    split::add_features(&mut whole, prepared.candidates.iter().map(|candidate| &candidate.pooling));
    // Only what the outputs need, in an order that any reader takes.
    let mut ends = vec![prepared.scores.as_str()];
    ends.extend(prepared.candidates.iter().map(|candidate| candidate.pooling.output.as_str()));
    let whole = split::extract(&whole, input, &prepared.input, &ends)?;
    let folder = Folder::make().map_err(|error| format!("no temporary folder: {error}"))?;
    let file = folder.0.join("optimised.onnx");
    Session::load(&whole, Level::All, threads, Some(&file)).map_err(|error| error.to_string())?;
    let bytes = fs::read(&file).map_err(|error| format!("ONNX Runtime wrote no optimised model: {error}"))?;
    let model = reader::parse(Bytes::from(bytes))?;
    let tensors = branches(&model, prepared)?;
    let ports = ports(&model, prepared, &tensors)?;
    Ok(Optimised { model, ports })
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

/// Types and shapes of the cut tensors, asked of the runtime: blocked channels are padded.
fn ports(model: &ModelProto, prepared: &Prepared, tensors: &[Option<String>]) -> Result<Vec<Option<Port>>, String> {
    let mut names: Vec<&String> = tensors.iter().flatten().collect();
    names.dedup();
    if names.is_empty() {
        return Err("no cut is left in the optimised graph".to_owned());
    }
    let mut open = model.clone();
    if let Some(graph) = open.graph.as_mut() {
        graph.output = names.iter().map(|name| ValueInfoProto::named(name)).collect();
        graph.value_info.clear();
    }
    let mut session = Session::load(&open, Level::AsIs, 1, None).map_err(|error| error.to_string())?;
    let dims = &prepared.input.dims;
    let frames = probe::noise(2 * dims.iter().product::<usize>());
    let mut seen = Vec::new();
    for rows in [1, if prepared.batches { 2 } else { 1 }] {
        let made = session.run(&Feed::Frames(&frames), rows, dims).map_err(|error| error.to_string())?;
        seen.push(made.iter().map(|buffer| (buffer.element_number(), buffer.shape().to_vec())).collect::<Vec<_>>());
    }
    let port = |tensor: &String| {
        let at = names.iter().position(|name| *name == tensor)?;
        let (element, at_one) = seen.first()?.get(at)?.clone();
        let at_two = prepared.batches.then(|| seen.get(1)?.get(at).map(|(_, shape)| shape.clone())).flatten();
        let seen = Seen { element, at_one, at_two, integers: None, finite: true };
        Some(Port { tensor: tensor.clone(), element, dims: seen.row_dims()?.to_vec() })
    };
    Ok(tensors.iter().map(|tensor| tensor.as_ref().and_then(port)).collect())
}

/// A folder that only this user can read, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut taken = None;
        // A killed process of the same number may have left a folder behind.
        for _ in 0..16 {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("offramp-{}-{count}", std::process::id()));
            match create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) => taken = Some(error),
            }
        }
        Err(taken.unwrap_or_else(|| std::io::ErrorKind::AlreadyExists.into()))
    }
}

#[cfg(unix)]
fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Fails if something stands there: nobody can lay a trap.
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a temporary folder stays behind");
        }
    }
}
