//! Opens a model's files, the one with the graph and those with external weights, and tells who it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::BackboneError;
use super::onnx::ModelProto;
use super::reader;
use crate::plan::Fingerprint;

/// Protobuf's own limit for one message, in which a segment's weights are handed to ONNX Runtime.
const BYTES_MAX: u64 = (1 << 31) - 1;

const TOO_LARGE: &str = "holds more than 2 GB, protobuf's limit: export it in half precision, or a smaller model";

/// A model in memory; its weights are slices of the files' buffers.
#[derive(Debug)]
pub(super) struct ModelFile {
    pub(super) model: ModelProto,
    pub(super) fingerprint: Fingerprint,
}

impl ModelFile {
    /// Reads `path` and the external weight files that it names, which must lie in its folder.
    ///
    /// # Errors
    /// A file that cannot be read, is no ONNX model, or refers to weights that are missing or too short.
    pub(super) fn read(path: &Path) -> Result<Self, BackboneError> {
        let length = fs::metadata(path).map_err(|error| BackboneError::read(path, &error))?.len();
        if length > BYTES_MAX {
            return Err(BackboneError::model(path, TOO_LARGE));
        }
        let bytes = Bytes::from(fs::read(path).map_err(|error| BackboneError::read(path, &error))?);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let mut model = reader::parse(bytes).map_err(|reason| BackboneError::model(path, reason))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut files: BTreeMap<PathBuf, Bytes> = BTreeMap::new();
        if let Some(graph) = model.graph.as_mut() {
            reader::resolve(graph, &mut |location| external(folder, location, &mut files))
                .map_err(|reason| BackboneError::model(path, reason))?;
        }
        // By name, so that the fingerprint does not depend on the order of the tensors.
        for (name, bytes) in &files {
            hasher.update(name.to_string_lossy().as_bytes());
            hasher.update(bytes);
        }
        Ok(Self { model, fingerprint: Fingerprint(*hasher.finalize().as_bytes()) })
    }
}

fn external(folder: &Path, location: &Path, files: &mut BTreeMap<PathBuf, Bytes>) -> Result<Bytes, String> {
    if let Some(bytes) = files.get(location) {
        return Ok(bytes.clone());
    }
    let path = folder.join(location);
    let held: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    let length = fs::metadata(&path).map_or(0, |data| data.len());
    if held.saturating_add(length) > BYTES_MAX {
        return Err(format!("with external file {} the model {TOO_LARGE}", path.display()));
    }
    let bytes = fs::read(&path)
        .map(Bytes::from)
        .map_err(|error| format!("external file {}: {error}; it must lie beside the model", path.display()))?;
    files.insert(location.to_owned(), bytes.clone());
    Ok(bytes)
}
