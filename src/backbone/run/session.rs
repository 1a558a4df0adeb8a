//! Sessions of ONNX Runtime.
//!
//! A session that serves writes what it makes for a number of rows into the same tensors every time: making a tensor, and
//! asking what was made, costs more than a small segment's fair share (docs/measurements.md has the figures).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session as OrtSession, SessionOutputs};
use ort::value::{DynTensor, DynValue, TensorElementType};
use prost::Message;

use super::error::SessionError;
use super::execution_provider;
use super::runtime;
use super::tensor::{Buffer, Feed};
use crate::backbone::graph::onnx::ModelProto;
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

/// One loaded graph with one input that is fed, its first; shape arithmetic aside every graph here has exactly one.
#[derive(Debug)]
pub(crate) struct Session {
    inner: OrtSession,
    outputs: Vec<String>,
    /// Tensors in the graph that lie where its first output will, each written over by the next.
    under: Vec<String>,
    kept: Kept,
    made: Made,
}

/// What [`Session::run_again`] made last.
#[derive(Debug, Default)]
enum Made {
    #[default]
    Nothing,
    /// In the tensors for so many rows.
    Kept(usize),
    /// In tensors of its own.
    Anew(Vec<Buffer>),
}

/// Tensors that runs write into, by the number of rows.
#[derive(Default)]
struct Kept {
    kinds: Kinds,
    by_rows: BTreeMap<usize, Place>,
    bytes: usize,
}

/// Tensors for so many rows.
struct Place {
    options: RunOptions<HasSelectedOutputs>,
    /// Handles of them in the order of the outputs; the first run gives them.
    buffers: Vec<Buffer>,
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

impl Session {
    /// Loads a model to be asked about itself, not to be fast.
    pub(crate) fn load_as_it_stands(model: &ModelProto) -> Result<Self, SessionError> {
        Self::commit(Self::builder(Level::AsIs, 1)?, model)
    }

    /// Loads a model, which ONNX Runtime rewrites as far as it can for what it is to run on.
    pub(crate) fn load(model: &ModelProto, provider: &Provider, threads: usize) -> Result<Self, SessionError> {
        let builder = execution_provider::register(Self::builder(Level::All, threads)?, provider, threads)?;
        Self::commit(builder, model)
    }

    /// Rewrites a model as far as ONNX Runtime can, into a file.
    pub(crate) fn optimise(model: &ModelProto, threads: usize, file: &Path) -> Result<(), SessionError> {
        let builder = Self::builder(Level::All, threads)?.with_optimized_model_path(file)?;
        Self::commit(builder, model).map(drop)
    }

    /// Loads a model as it stands whose large weights lie in a file of `folder`: mapped, and shared with all who do so.
    pub(crate) fn load_sharing(model: &ModelProto, threads: usize, folder: &Path) -> Result<Self, SessionError> {
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
        if inner.inputs().is_empty() {
            return Err(SessionError::Ort("the graph has no input".to_owned()));
        }
        let outputs = inner.outputs().iter().map(|output| output.name().to_owned()).collect();
        Ok(Self { inner, outputs, under: Vec::new(), kept: Kept::default(), made: Made::Nothing })
    }

    /// Lets [`Session::run_again`] make these tensors, which the graph must give as outputs too, in the memory of the first
    /// one: whoever adds to them makes it in place.
    pub(crate) fn written_over(mut self, under: Vec<String>) -> Self {
        self.outputs.retain(|name| !under.contains(name));
        self.under = under;
        self
    }

    /// Names of what [`Session::run`] gives, in order.
    pub(crate) fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the graph on `rows` rows of `dims` values each; gives its outputs in order.
    pub(crate) fn run(&mut self, feed: &Feed<'_>, rows: usize, dims: &[usize]) -> Result<Vec<Buffer>, SessionError> {
        let made = self.inner.run([feed.value(rows, dims)?])?;
        taken(made, &self.outputs)
    }

    /// The same, for a graph whose outputs all have a row for each of its input: what an earlier run on as many rows made
    /// is written over. [`Session::made`] tells what it made.
    pub(crate) fn run_again(&mut self, feed: &Feed<'_>, rows: usize, dims: &[usize]) -> Result<(), SessionError> {
        // Old tensors go first, so that the arena can give their memory to the new ones.
        self.made = Made::Nothing;
        if self.kept.make(rows, &self.outputs)? && !self.under.is_empty() {
            self.share_memory(feed, rows, dims)?;
        }
        let Some(place) = self.kept.by_rows.get_mut(&rows) else {
            let made = self.run(feed, rows, dims)?;
            self.kept.learn(rows, &made);
            self.made = Made::Anew(made);
            return Ok(());
        };
        let made = self.inner.run_with_options([feed.value(rows, dims)?], &place.options)?;
        if place.buffers.is_empty() {
            place.buffers = taken(made, &self.outputs)?;
        }
        self.made = Made::Kept(rows);
        Ok(())
    }

    /// What the last [`Session::run_again`] made, by output; nothing if it failed.
    pub(crate) fn made(&self) -> &[Buffer] {
        match &self.made {
            Made::Nothing => &[],
            Made::Kept(rows) => self.kept.by_rows.get(rows).map_or(&[], |place| &place.buffers),
            Made::Anew(buffers) => buffers,
        }
    }

    /// The same, to be moved about in.
    pub(crate) fn made_mut(&mut self) -> &mut [Buffer] {
        match &mut self.made {
            Made::Nothing => &mut [],
            Made::Kept(rows) => self.kept.by_rows.get_mut(rows).map_or(&mut [], |place| &mut place.buffers),
            Made::Anew(buffers) => buffers,
        }
    }

    /// Binds the tensors below the first output to its memory. The crate gives another handle of a tensor only with the
    /// outputs of a run.
    fn share_memory(&mut self, feed: &Feed<'_>, rows: usize, dims: &[usize]) -> Result<(), SessionError> {
        let (Some(place), Some(first)) = (self.kept.by_rows.get(&rows), self.outputs.first()) else { return Ok(()) };
        let mut handles = |names: &[String]| -> Result<Vec<DynValue>, SessionError> {
            let mut made = self.inner.run_with_options([feed.value(rows, dims)?], &place.options)?;
            names.iter().map(|name| handed(&mut made, name)).collect()
        };
        let mut bound = OutputSelector::default();
        for name in &self.under {
            for first in handles(std::slice::from_ref(first))? {
                bound = bound.preallocate(name, first);
            }
        }
        for (name, value) in self.outputs.iter().zip(handles(&self.outputs)?) {
            bound = bound.preallocate(name, value);
        }
        self.kept.by_rows.insert(rows, Place::new(bound)?);
        Ok(())
    }
}

impl Place {
    fn new(outputs: OutputSelector) -> Result<Self, SessionError> {
        Ok(Self { options: RunOptions::new()?.with_outputs(outputs), buffers: Vec::new() })
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
            let kind = |buffer: &Buffer| match buffer.shape().split_first() {
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
        self.by_rows.insert(rows, Place::new(outputs)?);
        self.bytes += bytes;
        Ok(true)
    }
}
