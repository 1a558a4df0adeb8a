//! Opens a model's files, the one with the graph and those with external weights, and tells who it is.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::backbone::error::BackboneError;
use crate::backbone::graph::onnx::ModelProto;
use crate::backbone::graph::parse;
use crate::files;
use crate::plan::Fingerprint;

/// Protobuf's own limit for one message, in which a segment's weights are handed to ONNX Runtime.
const BYTES_MAX: u64 = (1 << 31) - 1;

const TOO_LARGE: &str = "holds more than 2 GB, protobuf's limit: export it in half precision, or a smaller model";

/// A model in memory; its weights are slices of the files' buffers.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) model: ModelProto,
    pub(crate) fingerprint: Fingerprint,
}

impl ModelFile {
    /// Reads `path` and the external weight files that it names, which must lie in its folder.
    ///
    /// # Errors
    /// A file that cannot be read, is no ONNX model, or refers to weights that are missing or too short.
    pub(crate) fn read(path: &Path) -> Result<Self, BackboneError> {
        let bytes = files::read(path, BYTES_MAX).map(Bytes::from).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => BackboneError::model(path, TOO_LARGE),
            _ => BackboneError::read(path, &error),
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let mut model = parse::parse(bytes).map_err(|reason| BackboneError::model(path, reason))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut outside: BTreeMap<PathBuf, Bytes> = BTreeMap::new();
        if let Some(graph) = model.graph.as_mut() {
            parse::resolve(graph, &mut |location| external(folder, location, &mut outside))
                .map_err(|reason| BackboneError::model(path, reason))?;
        }
        // By name, so that the fingerprint does not depend on the order of the tensors.
        for (name, bytes) in &outside {
            hasher.update(name.to_string_lossy().as_bytes());
            hasher.update(bytes);
        }
        Ok(Self { model, fingerprint: Fingerprint(*hasher.finalize().as_bytes()) })
    }
}

fn external(folder: &Path, location: &Path, held: &mut BTreeMap<PathBuf, Bytes>) -> Result<Bytes, String> {
    if let Some(bytes) = held.get(location) {
        return Ok(bytes.clone());
    }
    let path = folder.join(location);
    let read: u64 = held.values().map(|bytes| bytes.len() as u64).sum();
    let bytes =
        files::read(&path, BYTES_MAX.saturating_sub(read)).map(Bytes::from).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => format!("with external file {} the model {TOO_LARGE}", path.display()),
            _ => format!("external file {}: {error}; it must lie beside the model", path.display()),
        })?;
    held.insert(location.to_owned(), bytes.clone());
    Ok(bytes)
}
