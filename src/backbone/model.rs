//! Reads a model file: protobuf, external weights, fingerprint. Foreign bytes: every fault is an error that names it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::BackboneError;
use super::onnx::{DataLocation, GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::plan::Fingerprint;

/// Protobuf's own limit for one message: more weights than that must lie in external files.
const FILE_BYTES_MAX: u64 = (1 << 31) - 1;

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
        if length > FILE_BYTES_MAX {
            return Err(BackboneError::model(
                path,
                "is larger than 2 GB, protobuf's limit: export it with its weights as external data",
            ));
        }
        let bytes = Bytes::from(fs::read(path).map_err(|error| BackboneError::read(path, &error))?);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let mut model = parse(bytes).map_err(|reason| BackboneError::model(path, reason))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut external = External { folder, files: BTreeMap::new() };
        if let Some(graph) = model.graph.as_mut() {
            external.resolve(graph).map_err(|reason| BackboneError::model(path, reason))?;
        }
        // By name, so that the fingerprint does not depend on the order of the tensors.
        for (name, bytes) in &external.files {
            hasher.update(name.to_string_lossy().as_bytes());
            hasher.update(bytes);
        }
        Ok(Self { model, fingerprint: Fingerprint(*hasher.finalize().as_bytes()) })
    }
}

/// Decodes and checks what every later step relies on.
pub(super) fn parse(bytes: Bytes) -> Result<ModelProto, String> {
    let mut model = ModelProto::decode(bytes)
        .map_err(|error| format!("is no ONNX model, or is cut short ({error}): export it again"))?;
    let Some(graph) = model.graph.as_mut() else {
        return Err("is no ONNX model: it holds no graph".to_owned());
    };
    if graph.node.is_empty() {
        return Err("holds a graph without nodes".to_owned());
    }
    // Old exporters (IR version 3) list weights among the inputs too; an input with a default value is not an input.
    let initializers: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    graph.input.retain(|input| !initializers.iter().any(|name| name == input.name()));
    if model.ir_version() < 4 {
        model.ir_version = Some(4);
    }
    Ok(model)
}

struct External<'a> {
    folder: &'a Path,
    files: BTreeMap<PathBuf, Bytes>,
}

impl External<'_> {
    fn resolve(&mut self, graph: &mut GraphProto) -> Result<(), String> {
        for tensor in &mut graph.initializer {
            self.resolve_tensor(tensor)?;
        }
        for node in &mut graph.node {
            for attribute in &mut node.attribute {
                for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                    self.resolve_tensor(tensor)?;
                }
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.resolve(graph)?;
                }
            }
        }
        Ok(())
    }

    fn resolve_tensor(&mut self, tensor: &mut TensorProto) -> Result<(), String> {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        let name = tensor.name().to_owned();
        let entry =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value);
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => {
                text.parse::<usize>().map(Some).map_err(|_| format!("weight \"{name}\": bad {key} \"{text}\""))
            }
        };
        let location =
            PathBuf::from(entry("location").ok_or_else(|| format!("weight \"{name}\" names no external file"))?);
        // A model is foreign: it may read files of its own folder only.
        if !location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(format!("weight \"{name}\" lies outside the model's folder ({})", location.display()));
        }
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(&location).map_err(|reason| format!("weight \"{name}\": {reason}"))?;
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        let range = end.filter(|&end| offset <= end && end <= file.len()).map(|end| offset..end).ok_or_else(|| {
            format!("weight \"{name}\": {} is too short ({} bytes); copy it again", location.display(), file.len())
        })?;
        tensor.raw_data = Some(file.slice(range));
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn file(&mut self, location: &Path) -> Result<Bytes, String> {
        if let Some(bytes) = self.files.get(location) {
            return Ok(bytes.clone());
        }
        let path = self.folder.join(location);
        let bytes = fs::read(&path)
            .map(Bytes::from)
            .map_err(|error| format!("external file {}: {error}; it must lie beside the model", path.display()))?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// The single image input of a graph: name, element type, dims with free ones as `None`.
#[derive(Debug, Clone)]
pub(super) struct GraphInput {
    pub(super) name: String,
    pub(super) element: i32,
    pub(super) dims: Vec<Option<i64>>,
}

/// Finds the one input that a classifier has.
pub(super) fn image_input(graph: &GraphProto) -> Result<GraphInput, String> {
    let [input] = graph.input.as_slice() else {
        let names: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
        return Err(format!(
            "is no image classifier: it needs exactly one input, has {} [{}]",
            names.len(),
            names.join(", ")
        ));
    };
    let name = input.name().to_owned();
    let (element, dims) = input.tensor().ok_or_else(|| format!("input \"{name}\" is no tensor"))?;
    let dims = dims.ok_or_else(|| format!("input \"{name}\" has no shape: export the model with one"))?;
    if dims.len() != 4 {
        return Err(format!(
            "is no image classifier: input \"{name}\" has {} dimensions, a batch of pictures has 4",
            dims.len()
        ));
    }
    Ok(GraphInput { name, element, dims })
}
