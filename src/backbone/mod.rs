//! 4 · The backbone: the user's ONNX model, read, cut where it can be left, and run.
//!
//! `manifest` and `model` open files; `probe` asks ONNX Runtime for shapes; `reader`, `facts`, `graph`, `cuts`, `flops`,
//! `pool`, `blocked` and `split` are pure; `session`, `tensor`, `execution` and `runtime` alone use `ort`. Knows nothing of Kafka, of heads
//! or of policies.

mod blocked;
mod chain;
mod choice;
mod clock;
mod cuts;
mod describe;
mod execution;
mod facts;
mod folder;
mod flops;
mod graph;
#[cfg(test)]
mod known;
mod lanes;
mod manifest;
mod measure;
mod model;
mod onnx;
mod optimised;
mod options;
mod pace;
mod pool;
mod prepare;
mod probe;
mod reader;
pub mod runtime;
mod session;
mod split;
mod tensor;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use chain::{Audited, Chain};
pub use clock::{Clock, Moment};
pub use describe::{CutView, ModelView, TensorView};
pub use lanes::LaneRates;
pub use measure::Timing;
pub use options::{LoadOptions, SplitChoice};

use crate::cascade::EngineError;
use crate::frame::InputSpec;
use crate::plan::{CostTable, ExitId, ExitPoint, Fingerprint, HEAD_HIDDEN, Plan};
use chain::{Frames, Probabilities, Queue, Runner, Shown, Stage};
use manifest::Manifest;
use model::ModelFile;
use optimised::{Cut, Optimised};
use pace::Pace;
use prepare::{Candidate, Prepared};
use session::{Session, SessionError};

/// Why a backbone cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// ONNX Runtime's library is missing or too old.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// A file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The manifest is wrong; every problem is listed.
    #[error("{}:\n  {problems}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// One per line.
        problems: String,
    },
    /// The model is broken or of a kind that cannot be served.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what helps.
        reason: String,
    },
    /// A cut was asked for that the plan does not have.
    #[error("exits {} are not in ascending order among the plan's {candidates} candidates", listed(asked))]
    Exits {
        /// What was asked for.
        asked: Vec<ExitId>,
        /// How many there are.
        candidates: usize,
    },
    /// The runtime's library cannot execute on what was asked for.
    #[error("{0}")]
    Provider(String),
    /// A part of the model cannot be loaded.
    #[error("segment {segment} cannot be loaded: {reason}")]
    Segment {
        /// Which, 0 based.
        segment: usize,
        /// The runtime's own words.
        reason: String,
    },
    /// A run failed while measuring.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn listed(exits: &[ExitId]) -> String {
    exits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl BackboneError {
    fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }

    fn model(path: &Path, reason: impl Into<String>) -> Self {
        Self::Model { path: path.to_owned(), reason: reason.into() }
    }

    fn provider(error: SessionError) -> Self {
        match error {
            SessionError::Runtime(error) => Self::Runtime(error),
            SessionError::Ort(reason) => Self::Provider(reason),
        }
    }

    fn segment(segment: usize, error: SessionError) -> Self {
        match error {
            SessionError::Runtime(error) => Self::Runtime(error),
            error @ SessionError::Ort(_) => Self::Segment { segment, reason: error.to_string() },
        }
    }
}

/// A loaded model with its plan; shared by all lanes. A clone shares the model's bytes.
#[derive(Debug, Clone)]
pub struct Backbone {
    plan: Arc<Plan>,
    prepared: Prepared,
    options: LoadOptions,
    /// The graph as ONNX Runtime rewrote it, where cutting that one was found to be right and faster.
    optimised: Option<Optimised>,
    /// What its parts cost, by the rows in a run; empty: not measured.
    paces: Vec<Pace>,
}

/// Which of the two graphs a chain is cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// The user's graph; every segment is optimised by itself.
    Plain,
    /// The graph that ONNX Runtime optimised as a whole.
    Optimised,
}

impl Backbone {
    /// Loads the model at `path`: a folder with a `model.toml`, such a file, or a bare `.onnx`.
    ///
    /// # Errors
    /// When ONNX Runtime is missing, a file cannot be read, the manifest or the model is wrong, or the model is no image
    /// classifier. A model without usable cut points is no error: its plan has no candidates.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, BackboneError> {
        runtime::init()?;
        execution::check(&options.provider).map_err(BackboneError::provider)?;
        let manifest = Manifest::read(path)?;
        let file = ModelFile::read(&manifest.model).map_err(|error| manifest.unusable(error))?;
        let graph = file.model.graph.as_ref();
        let input = graph.ok_or_else(|| "holds no graph".to_owned()).and_then(reader::image_input);
        let input = input.map_err(|reason| manifest.unusable(BackboneError::model(&manifest.model, reason)))?;
        let mut problems = Vec::new();
        let spec = manifest.input_spec(&input, &mut problems).ok_or_else(|| manifest.refusal(&problems))?;
        let prepared = match prepare::prepare(file.model, &input, &spec, &manifest, options) {
            Ok(prepared) => prepared,
            // May be no more than what follows from the manifest's problems.
            Err(error) => return Err(manifest.verdict(&problems).err().unwrap_or(error)),
        };
        let labels = manifest.class_labels(prepared.classes, &mut problems);
        manifest.verdict(&problems)?;
        let plan = plan(file.fingerprint, spec, labels, &prepared);
        let mut backbone =
            Self { plan: Arc::new(plan), prepared, options: options.clone(), optimised: None, paces: Vec::new() };
        backbone.choose_split()?;
        let Self { plan, prepared, .. } = &backbone;
        if plan.candidates.is_empty() {
            tracing::warn!(model = %manifest.model.display(), "no usable cut points: the model runs whole");
        }
        if !prepared.batches {
            tracing::warn!(model = %manifest.model.display(), "the graph takes one frame at a time");
        }
        tracing::info!(
            model = %manifest.model.display(),
            cut_points = prepared.points.len(),
            candidates = plan.candidates.len(),
            mflops = plan.flops / 1_000_000,
            "backbone loaded"
        );
        Ok(backbone)
    }

    /// How segments are made, for people.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match (&self.optimised, self.plan.candidates.is_empty()) {
            (_, true) => "whole: no usable cut points",
            (Some(_), _) => "cut after optimisation",
            (None, _) => "cut before optimisation (plain split)",
        }
    }

    /// What serving and learning must know of it.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The backbone cut at `exits` (ascending); without exits the uncut model.
    ///
    /// # Errors
    /// When an exit is unknown or a segment cannot be loaded.
    pub fn chain(&self, exits: &[ExitId]) -> Result<Chain, BackboneError> {
        self.chain_of(exits, if self.optimised.is_some() { Split::Optimised } else { Split::Plain }, &self.paces)
    }

    /// The model as it would run without us: what a cut is measured against.
    ///
    /// # Errors
    /// When the model cannot be loaded.
    pub fn uncut(&self) -> Result<Chain, BackboneError> {
        self.chain_of(&[], Split::Plain, &[])
    }

    /// A chain whose segments run as many rows at a time as is best by these measurements, a whole batch without.
    fn chain_of(&self, exits: &[ExitId], wanted: Split, paces: &[Pace]) -> Result<Chain, BackboneError> {
        let chosen = self.candidates(exits)?;
        let optimised = self.optimised.as_ref().filter(|_| wanted == Split::Optimised);
        // A cut that the optimised graph does not have is made in the user's graph, and with it all others.
        let found = |optimised: &'_ Optimised| -> Option<Vec<Cut>> {
            exits.iter().map(|exit| optimised.cuts.get(exit.index())?.clone()).collect()
        };
        let (cuts, optimised) = match optimised.and_then(|optimised| Some((found(optimised)?, optimised))) {
            Some((cuts, optimised)) => (cuts, Some(optimised)),
            None => (chosen.iter().map(|cut| Cut { port: cut.port.clone(), layout: None }).collect(), None),
        };
        let mut stages = Vec::with_capacity(cuts.len() + 1);
        let mut start = &self.prepared.input;
        let mut best = pace::best_rows(paces, exits).into_iter();
        let mut stage = |session, dims: &[usize], shown| {
            let best = best.next().unwrap_or(usize::MAX);
            Stage::new(session, dims.to_vec(), shown, self.prepared.batches, best)
        };
        for (segment, (candidate, Cut { port, layout })) in chosen.iter().zip(&cuts).enumerate() {
            let ends = [port.tensor.as_str(), candidate.pooling.output.as_str()];
            let ends = if layout.is_some() { &ends[..1] } else { &ends };
            let session = match optimised {
                Some(optimised) => self.optimised_session(optimised, segment, start, ends)?,
                None => self.session(segment, start, ends, std::slice::from_ref(candidate))?,
            };
            let shown = layout.clone().map_or(Shown::Width(candidate.pooling.width), Shown::Pooled);
            stages.push(stage(session, &start.dims, shown));
            start = port;
        }
        let ends = [self.prepared.scores.as_str()];
        let session = match optimised {
            Some(optimised) => self.optimised_session(optimised, cuts.len(), start, &ends)?,
            None => self.session(cuts.len(), start, &ends, &[])?,
        };
        stages.push(stage(session, &start.dims, Shown::Width(self.plan.classes())));
        Ok(Chain {
            exits: exits.to_vec(),
            queues: exits.iter().map(|_| Queue::default()).collect(),
            stages,
            frames: Frames::new(self.plan.input.len()),
            scores: Probabilities::new(self.plan.classes(), self.prepared.meaning),
        })
    }

    /// The whole model with the pooled features of every candidate.
    ///
    /// # Errors
    /// When the model cannot be loaded.
    pub fn auditor(&self) -> Result<Audited, BackboneError> {
        let candidates: Vec<&Candidate> = self.prepared.candidates.iter().collect();
        let mut ends = vec![self.prepared.scores.as_str()];
        ends.extend(candidates.iter().map(|candidate| candidate.pooling.output.as_str()));
        let session = match &self.optimised {
            Some(optimised) => self.optimised_session(optimised, 0, &self.prepared.input, &ends)?,
            None => self.session(0, &self.prepared.input, &ends, &candidates)?,
        };
        let mut widths = vec![self.plan.classes()];
        widths.extend(self.plan.feature_widths());
        let best = self.best_rows(&[]).first().copied().unwrap_or(usize::MAX);
        Ok(Audited {
            whole: Runner::new(session, self.prepared.input.dims.clone(), widths, self.prepared.batches, best),
            frames: Frames::new(self.plan.input.len()),
            scores: Probabilities::new(self.plan.classes(), self.prepared.meaning),
        })
    }

    /// Measures what the parts cost on this machine; chains and auditors that are made from now on run as many rows at a time
    /// as they run best. Gives the costs per frame: medians, cut and uncut model in turns. What a head costs is told by its
    /// maker: `head_ms`, milliseconds per frame by the width of its features and the rows in a run.
    ///
    /// # Errors
    /// When a part cannot be loaded or run.
    pub fn measure(&mut self, head_ms: impl Fn(usize, usize) -> f64) -> Result<CostTable, BackboneError> {
        self.paces = measure::paces(self)?;
        Ok(pace::costs(&self.paces, &self.plan, &self.cut_sizes(), head_ms))
    }

    /// Times the backbone cut at `exits` against the uncut one.
    ///
    /// # Errors
    /// When a part cannot be loaded or run.
    pub fn time(&self, exits: &[ExitId], batch: usize) -> Result<Timing, BackboneError> {
        measure::time(self, exits, batch)
    }

    /// How many rows each segment runs at a time when cut at `exits`; empty where that was not measured: all there are.
    #[must_use]
    pub fn best_rows(&self, exits: &[ExitId]) -> Vec<usize> {
        pace::best_rows(&self.paces, exits)
    }

    /// Elements per row of each candidate's cut tensor.
    #[allow(clippy::cast_precision_loss, reason = "tensor sizes")]
    fn cut_sizes(&self) -> Vec<f64> {
        self.prepared.candidates.iter().map(|candidate| candidate.port.row() as f64).collect()
    }

    fn candidates(&self, exits: &[ExitId]) -> Result<Vec<&Candidate>, BackboneError> {
        let unknown = || BackboneError::Exits { asked: exits.to_vec(), candidates: self.prepared.candidates.len() };
        if !exits.is_sorted_by(|a, b| a < b) {
            return Err(unknown());
        }
        let find = |exit: &ExitId| usize::from(exit.0).checked_sub(1).and_then(|at| self.prepared.candidates.get(at));
        exits.iter().map(|exit| find(exit).ok_or_else(unknown)).collect()
    }

    fn optimised_session(
        &self,
        optimised: &Optimised,
        segment: usize,
        start: &split::Port,
        ends: &[&str],
    ) -> Result<Session, BackboneError> {
        let part = split::extract(&optimised.model, &self.prepared.input.tensor, start, ends)
            .map_err(|reason| BackboneError::Segment { segment, reason })?;
        optimised.load(part, self.options.intra_threads).map_err(|error| BackboneError::segment(segment, error))
    }

    fn session(
        &self,
        segment: usize,
        start: &split::Port,
        ends: &[&str],
        pooled: &[&Candidate],
    ) -> Result<Session, BackboneError> {
        let mut model = self.prepared.model.clone();
        split::add_features(&mut model, pooled.iter().map(|candidate| &candidate.pooling));
        let mut part = split::extract(&model, &self.prepared.input.tensor, start, ends)
            .map_err(|reason| BackboneError::Segment { segment, reason })?;
        split::shorten(&mut part);
        Session::load(&part, &self.options.provider, self.options.intra_threads)
            .map_err(|error| BackboneError::segment(segment, error))
    }
}

fn plan(backbone: Fingerprint, input: InputSpec, labels: Vec<String>, prepared: &Prepared) -> Plan {
    let (classes, hidden) = (labels.len() as u64, HEAD_HIDDEN as u64);
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{input:?} {classes}").as_bytes());
    let mut candidates = Vec::new();
    for (index, candidate) in prepared.candidates.iter().enumerate() {
        let width = candidate.pooling.width;
        // Lengths first: no two lists of names may read the same.
        hasher.update(format!(" {} {} {width}", candidate.port.tensor.len(), candidate.port.tensor).as_bytes());
        candidates.push(ExitPoint {
            exit: ExitId::from_index(index),
            tensor: candidate.port.tensor.clone(),
            flops_fraction: candidate.fraction,
            feature_width: width,
            head_flops: 2 * width as u64 + 2 * width as u64 * hidden + 2 * hidden * classes + 4 * classes,
        });
    }
    let plan = Fingerprint(*hasher.finalize().as_bytes());
    Plan { backbone, plan, input, labels, candidates, flops: prepared.flops }
}
