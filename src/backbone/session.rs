//! Sessions of ONNX Runtime and the tensors that they make. With [`super::runtime`] and [`super::execution`] the only user of `ort`.
//!
//! A session that serves writes what it makes for a number of rows into the same tensors every time: making a tensor, and
//! asking what was made, costs more than a small segment's fair share (ARCHITECTURE.md has the figures).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{
    HasSelectedOutputs, OutputSelector, RunOptions, Session as OrtSession, SessionInputValue, SessionOutputs,
};
use ort::value::{DynTensor, DynValue, TensorElementType, TensorRef};
use prost::Message;

use super::execution;
use super::onnx::{DataType, ModelProto};
use super::runtime::{self, RuntimeError};
use crate::provider::Provider;

/// Most bytes of tensors that a session keeps to write into. What does not fit comes from its arena, anew each time: of
/// tensors that large the making is no part worth naming.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// How far ONNX Runtime may rewrite what it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Everything it knows, layouts of this CPU included.
    All,
    /// Nothing: the graph is run as it stands.
    AsIs,
}

/// ONNX Runtime refused a model or failed on a batch; its own words.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("ONNX Runtime: {0}")]
    Ort(String),
}

impl<T> From<ort::Error<T>> for SessionError {
    fn from(error: ort::Error<T>) -> Self {
        Self::Ort(error.message().trim_end().to_owned())
    }
}

/// One loaded graph with one input that is fed.
#[derive(Debug)]
pub(super) struct Session {
    inner: OrtSession,
    /// The graph's input; shape arithmetic aside every graph here has exactly one.
    input: String,
    outputs: Vec<String>,
    /// Tensors in the graph that lie where its first output will, each written over by the next.
    under: Vec<String>,
    kept: Kept,
}

/// Tensors that runs write into, by the number of rows.
#[derive(Default)]
struct Kept {
    kinds: Kinds,
    by_rows: BTreeMap<usize, RunOptions<HasSelectedOutputs>>,
    bytes: usize,
}

/// What a run showed of a session's outputs.
#[derive(Default)]
enum Kinds {
    #[default]
    Unseen,
    /// Not a row for each row of the input: nothing is kept.
    Unfit,
    /// Type and dims of one row by output.
    Rows(Vec<(TensorElementType, Vec<usize>)>),
}

/// A tensor that a session made. Rows are contiguous.
#[derive(Debug)]
pub(super) struct Buffer {
    value: DynTensor,
    shape: Vec<usize>,
}

/// What a session is fed: `rows x dims`.
#[derive(Debug)]
pub(super) enum Feed<'a> {
    /// Frames as decoded.
    Frames(&'a [f32]),
    /// Rows of what a session before made, from this element on.
    Rows(&'a Buffer, usize),
    /// Rows of several such, put together, from this element on.
    Held(&'a Held, usize),
}

/// Rows of several tensors, one behind the other; its memory is kept for the next ones.
#[derive(Debug, Default)]
pub(super) struct Held {
    floats: Vec<f32>,
    halves: Vec<half::f16>,
    bytes: Vec<u8>,
    signed: Vec<i8>,
}

impl Held {
    /// Appends `length` elements of a tensor, from the element `from` on.
    pub(super) fn append(&mut self, buffer: &Buffer, from: usize, length: usize) -> Result<(), SessionError> {
        match buffer.element() {
            TensorElementType::Float32 => self.floats.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Float16 => self.halves.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Uint8 => self.bytes.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Int8 => self.signed.extend_from_slice(part(buffer.typed()?, from, length)?),
            other => return Err(foreign(other)),
        }
        Ok(())
    }

    /// Gives up the first `length` elements.
    pub(super) fn drop_front(&mut self, length: usize) {
        fn drop<T>(values: &mut Vec<T>, length: usize) {
            values.drain(..length.min(values.len()));
        }
        drop(&mut self.floats, length);
        drop(&mut self.halves, length);
        drop(&mut self.bytes, length);
        drop(&mut self.signed, length);
    }
}

fn foreign(element: TensorElementType) -> SessionError {
    SessionError::Ort(format!("cannot carry {element:?} across a cut"))
}

impl Session {
    /// Loads a model to be asked about itself, not to be fast.
    pub(super) fn load_as_it_stands(model: &ModelProto) -> Result<Self, SessionError> {
        Self::commit(Self::builder(Level::AsIs, 1)?, model)
    }

    /// Loads a model, which ONNX Runtime rewrites as far as it can for what it is to run on.
    pub(super) fn load(model: &ModelProto, provider: &Provider, threads: usize) -> Result<Self, SessionError> {
        let builder = execution::register(Self::builder(Level::All, threads)?, provider, threads)?;
        Self::commit(builder, model)
    }

    /// Rewrites a model as far as ONNX Runtime can, into a file.
    pub(super) fn optimise(model: &ModelProto, threads: usize, file: &Path) -> Result<(), SessionError> {
        let builder = Self::builder(Level::All, threads)?.with_optimized_model_path(file)?;
        Self::commit(builder, model).map(drop)
    }

    /// Loads a model as it stands whose large weights lie in a file of `folder`: mapped, and shared with all who do so.
    pub(super) fn load_sharing(model: &ModelProto, threads: usize, folder: &Path) -> Result<Self, SessionError> {
        let folder = folder.to_str().ok_or_else(|| SessionError::Ort("the folder's name is not UTF-8".to_owned()))?;
        let builder = Self::builder(Level::AsIs, threads)?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
        Self::commit(builder, model)
    }

    fn builder(level: Level, threads: usize) -> Result<SessionBuilder, SessionError> {
        let environment = runtime::environment()?;
        // Every option that timing or memory hangs on is set here and not left to a default.
        Ok(OrtSession::builder(environment)?
            .with_optimization_level(match level {
                Level::All => GraphOptimizationLevel::All,
                Level::AsIs => GraphOptimizationLevel::Disable,
            })?
            .with_parallel_execution(false)?
            .with_inter_threads(1)?
            .with_intra_threads(threads.max(1))?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(true)?)
    }

    fn commit(mut builder: SessionBuilder, model: &ModelProto) -> Result<Self, SessionError> {
        let bytes = model.encode_to_vec();
        // The crate panics on some shapes that only a broken graph has (a dim below -1): foreign bytes must not stop us.
        let inner = catch_unwind(AssertUnwindSafe(|| builder.commit_from_memory(&bytes))).map_err(|panic| {
            let words = panic.downcast_ref::<String>().map_or("the graph's shapes are broken", String::as_str);
            SessionError::Ort(words.to_owned())
        })??;
        let input = inner.inputs().first().map(|input| input.name().to_owned());
        let input = input.ok_or_else(|| SessionError::Ort("the graph has no input".to_owned()))?;
        let outputs = inner.outputs().iter().map(|output| output.name().to_owned()).collect();
        Ok(Self { inner, input, outputs, under: Vec::new(), kept: Kept::default() })
    }

    /// Lets [`Session::run_again`] make these tensors, which the graph must give as outputs too, in the memory of the first
    /// one: whoever adds to them makes it in place.
    pub(super) fn written_over(mut self, under: Vec<String>) -> Self {
        self.outputs.retain(|name| !under.contains(name));
        self.under = under;
        self
    }

    /// Names of what [`Session::run`] gives, in order.
    pub(super) fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the graph on `rows` rows of `dims` values each; gives its outputs in order.
    pub(super) fn run(&mut self, feed: &Feed<'_>, rows: usize, dims: &[usize]) -> Result<Vec<Buffer>, SessionError> {
        let input = feed.value(rows, dims)?;
        let made = self.inner.run(vec![(self.input.as_str(), input)])?;
        taken(made, &self.outputs)
    }

    /// The same, for a graph whose outputs all have a row for each of its input: what an earlier run on as many rows made
    /// is written over.
    pub(super) fn run_again(
        &mut self,
        feed: &Feed<'_>,
        rows: usize,
        dims: &[usize],
    ) -> Result<Vec<Buffer>, SessionError> {
        if self.kept.make(rows, &self.outputs)? && !self.under.is_empty() {
            self.share_memory(feed, rows, dims)?;
        }
        let Some(options) = self.kept.by_rows.get(&rows) else {
            let made = self.run(feed, rows, dims)?;
            self.kept.learn(rows, &made);
            return Ok(made);
        };
        let made = self.inner.run_with_options(vec![(self.input.as_str(), feed.value(rows, dims)?)], options)?;
        taken(made, &self.outputs)
    }

    /// Binds the tensors below the first output to its memory. The crate gives another handle of a tensor only with the
    /// outputs of a run.
    fn share_memory(&mut self, feed: &Feed<'_>, rows: usize, dims: &[usize]) -> Result<(), SessionError> {
        let (Some(options), Some(first)) = (self.kept.by_rows.get(&rows), self.outputs.first()) else { return Ok(()) };
        let mut bound = OutputSelector::default();
        for name in &self.under {
            let input = vec![(self.input.as_str(), feed.value(rows, dims)?)];
            let mut made = self.inner.run_with_options(input, options)?;
            bound = bound.preallocate(name, handed(&mut made, first)?);
        }
        let input = vec![(self.input.as_str(), feed.value(rows, dims)?)];
        let mut made = self.inner.run_with_options(input, options)?;
        for name in &self.outputs {
            bound = bound.preallocate(name, handed(&mut made, name)?);
        }
        drop(made);
        self.kept.by_rows.insert(rows, RunOptions::new()?.with_outputs(bound));
        Ok(())
    }
}

fn handed(made: &mut SessionOutputs<'_>, name: &str) -> Result<DynValue, SessionError> {
    made.remove(name).ok_or_else(|| SessionError::Ort(format!("no output \"{name}\"")))
}

fn taken(mut made: SessionOutputs<'_>, names: &[String]) -> Result<Vec<Buffer>, SessionError> {
    names.iter().map(|name| Buffer::new(handed(&mut made, name)?)).collect()
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("rows", &self.by_rows.keys()).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Kept {
    fn learn(&mut self, rows: usize, made: &[Buffer]) {
        if matches!(self.kinds, Kinds::Unseen) {
            let kind = |buffer: &Buffer| match buffer.shape.split_first() {
                Some((first, dims)) if *first == rows => Some((buffer.element(), dims.to_vec())),
                _ => None,
            };
            self.kinds = made.iter().map(kind).collect::<Option<_>>().map_or(Kinds::Unfit, Kinds::Rows);
        }
    }

    /// Makes the tensors for so many rows if there are none and there is room. True when they are new.
    fn make(&mut self, rows: usize, names: &[String]) -> Result<bool, SessionError> {
        let Kinds::Rows(kinds) = &self.kinds else { return Ok(false) };
        if self.by_rows.contains_key(&rows) {
            return Ok(false);
        }
        let values = |dims: &[usize]| dims.iter().product::<usize>();
        let size = |(kind, dims): &(TensorElementType, Vec<usize>)| kind.byte_size(rows * values(dims));
        let bytes = kinds.iter().map(size).sum::<Option<usize>>().unwrap_or(usize::MAX);
        if bytes > KEPT_BYTES_MAX - self.bytes {
            return Ok(false);
        }
        let mut outputs = OutputSelector::default();
        for (name, (kind, dims)) in names.iter().zip(kinds) {
            let shape: Vec<usize> = std::iter::once(rows).chain(dims.iter().copied()).collect();
            outputs = outputs.preallocate(name, DynTensor::new(&Allocator::default(), *kind, shape)?);
        }
        self.by_rows.insert(rows, RunOptions::new()?.with_outputs(outputs));
        self.bytes += bytes;
        Ok(true)
    }
}

impl Feed<'_> {
    /// As the session takes it; borrowed, not copied.
    fn value(&self, rows: usize, dims: &[usize]) -> Result<SessionInputValue<'_>, SessionError> {
        let shape: Vec<usize> = std::iter::once(rows).chain(dims.iter().copied()).collect();
        let length = shape.iter().product::<usize>();
        match self {
            Feed::Frames(frames) => lent(cut_to(frames, length)?, shape),
            Feed::Rows(buffer, from) => match buffer.element() {
                TensorElementType::Float32 => lent(part(buffer.typed::<f32>()?, *from, length)?, shape),
                TensorElementType::Uint8 => lent(part(buffer.typed::<u8>()?, *from, length)?, shape),
                TensorElementType::Int8 => lent(part(buffer.typed::<i8>()?, *from, length)?, shape),
                TensorElementType::Float16 => lent(part(buffer.typed::<half::f16>()?, *from, length)?, shape),
                other => Err(foreign(other)),
            },
            Feed::Held(held, from) => match (&held.floats[..], &held.halves[..], &held.bytes[..], &held.signed[..]) {
                (floats @ [_, ..], ..) => lent(part(floats, *from, length)?, shape),
                (_, halves @ [_, ..], ..) => lent(part(halves, *from, length)?, shape),
                (_, _, bytes @ [_, ..], _) => lent(part(bytes, *from, length)?, shape),
                (.., signed) => lent(part(signed, *from, length)?, shape),
            },
        }
    }
}

fn lent<T>(data: &[T], shape: Vec<usize>) -> Result<SessionInputValue<'_>, SessionError>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    Ok(SessionInputValue::from(TensorRef::from_array_view((shape, data))?))
}

fn cut_to<T>(data: &[T], length: usize) -> Result<&[T], SessionError> {
    data.get(..length).ok_or_else(|| SessionError::Ort(format!("needs {length} values, has {}", data.len())))
}

fn part<T>(data: &[T], from: usize, length: usize) -> Result<&[T], SessionError> {
    cut_to(data.get(from..).unwrap_or_default(), length)
}

impl Buffer {
    fn new(value: DynValue) -> Result<Self, SessionError> {
        let value: DynTensor = value.downcast()?;
        let shape = value.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        Ok(Self { value, shape })
    }

    /// Dims, the batch first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn element(&self) -> TensorElementType {
        *self.value.data_type()
    }

    /// Element type by ONNX's number; 0 for what is not carried.
    pub(super) fn element_number(&self) -> i32 {
        (match self.element() {
            TensorElementType::Float32 => DataType::Float,
            TensorElementType::Float16 => DataType::Float16,
            TensorElementType::Uint8 => DataType::Uint8,
            TensorElementType::Int8 => DataType::Int8,
            TensorElementType::Int32 => DataType::Int32,
            TensorElementType::Int64 => DataType::Int64,
            TensorElementType::Bool => DataType::Bool,
            TensorElementType::Float64 => DataType::Double,
            _ => DataType::Undefined,
        }) as i32
    }

    fn typed<T: ort::value::PrimitiveTensorElementType>(&self) -> Result<&[T], SessionError> {
        Ok(self.value.try_extract_tensor::<T>()?.1)
    }

    /// The values of an f32 tensor.
    pub(super) fn floats(&self) -> Result<&[f32], SessionError> {
        self.typed()
    }

    /// Whether all values are numbers; for whole numbers they always are.
    pub(super) fn is_finite(&self) -> bool {
        match self.element() {
            TensorElementType::Float32 => {
                self.typed().is_ok_and(|all: &[f32]| all.iter().all(|value| value.is_finite()))
            }
            TensorElementType::Float16 => {
                self.typed().is_ok_and(|all: &[half::f16]| all.iter().all(|value| value.is_finite()))
            }
            TensorElementType::Float64 => {
                self.typed().is_ok_and(|all: &[f64]| all.iter().all(|value| value.is_finite()))
            }
            _ => true,
        }
    }

    /// The values of an int64 tensor; `None` for another type.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        self.typed::<i64>().ok().map(<[i64]>::to_vec)
    }

    /// Moves the rows `keep` (ascending) of `row` elements each to the front.
    pub(super) fn compact(&mut self, row: usize, keep: &[usize]) -> Result<(), SessionError> {
        match self.element() {
            TensorElementType::Float32 => compact(self.value.try_extract_tensor_mut::<f32>()?.1, row, keep),
            TensorElementType::Uint8 => compact(self.value.try_extract_tensor_mut::<u8>()?.1, row, keep),
            TensorElementType::Int8 => compact(self.value.try_extract_tensor_mut::<i8>()?.1, row, keep),
            TensorElementType::Float16 => compact(self.value.try_extract_tensor_mut::<half::f16>()?.1, row, keep),
            other => return Err(foreign(other)),
        }
        Ok(())
    }
}

fn compact<T: Copy>(data: &mut [T], row: usize, keep: &[usize]) {
    for (to, &from) in keep.iter().enumerate().filter(|(to, from)| to != *from) {
        data.copy_within(from * row..(from + 1) * row, to * row);
    }
}
