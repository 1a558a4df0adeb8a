//! Loading: from a model's files to a backbone that lanes can be given.
//!
//! | file | what it knows |
//! |---|---|
//! | `manifest` | `model.toml` |
//! | `model_files` | the files of a model, and who it is |
//! | `prepare` | what must be rewritten in a graph before it can be cut |
//! | `plan` | what serving and learning must know of it |
//! | `choose_cut` | which way it is cut |

mod choose_cut;
mod manifest;
mod model_files;
mod plan;
mod prepare;

use std::path::Path;
use std::sync::Arc;

use super::cut::Backbone;
use super::error::BackboneError;
use super::graph::parse;
use super::measure::measured::Measured;
use super::options::LoadOptions;
use super::run::{execution_provider, runtime};
use crate::plan::Plan;
use manifest::Manifest;
use model_files::ModelFile;

impl Backbone {
    /// Loads the model at `path`: a folder with a `model.toml`, such a file, or a bare `.onnx`.
    ///
    /// # Errors
    /// When ONNX Runtime is missing, a file cannot be read, the manifest or the model is wrong, or the model is no image
    /// classifier. A model without usable cut points is no error: its plan has no candidates.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, BackboneError> {
        Self::load_recalling(path, options, |_| None).map(|(backbone, _)| backbone)
    }

    /// The same where it may have been measured at an earlier start: `recall` is asked for that, by the plan of the model with all
    /// its candidates. Nothing is measured then. Gives whether what was recalled could be used.
    ///
    /// # Errors
    /// As [`Backbone::load`].
    pub fn load_recalling(
        path: &Path,
        options: &LoadOptions,
        recall: impl FnOnce(&Plan) -> Option<Measured>,
    ) -> Result<(Self, bool), BackboneError> {
        let mut backbone = Self::read(path, options)?;
        let known = recall(&backbone.plan).is_some_and(|measured| backbone.recall(measured));
        if !known {
            backbone.choose_split()?;
        }
        let Self { plan, prepared, .. } = &backbone;
        if plan.candidates.is_empty() {
            tracing::warn!(model = %path.display(), "no usable cut points: the model runs whole");
        }
        if !prepared.batches {
            tracing::warn!(model = %path.display(), "the graph takes one frame at a time");
        }
        tracing::info!(
            model = %path.display(),
            cut_points = prepared.points.len(),
            candidates = plan.candidates.len(),
            mflops = plan.flops / 1_000_000,
            measured_before = known,
            "backbone loaded"
        );
        Ok((backbone, known))
    }

    /// Reads and prepares a model; how it is cut is still open.
    fn read(path: &Path, options: &LoadOptions) -> Result<Self, BackboneError> {
        runtime::init()?;
        execution_provider::check(&options.provider).map_err(BackboneError::provider)?;
        let manifest = Manifest::read(path)?;
        let file = ModelFile::read(&manifest.model).map_err(|error| manifest.unusable(error))?;
        let graph = file.model.graph.as_ref();
        let input = graph.ok_or_else(|| "holds no graph".to_owned()).and_then(parse::image_input);
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
        let plan = plan::plan(file.fingerprint, spec, labels, &prepared);
        Ok(Self { plan: Arc::new(plan), prepared, options: options.clone(), optimised: None, timings: Vec::new() })
    }
}
