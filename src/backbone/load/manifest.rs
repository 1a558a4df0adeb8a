//! `model.toml`: what offramp must know about a model that its file does not say. Unknown keys are refused and all
//! problems are told at once, those that only the graph shows among them. Defaults come from the graph.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::backbone::error::BackboneError;
use crate::backbone::graph::parse::GraphInput;
use crate::backbone::graph::prepared::Scores;
use crate::files;
use crate::frame::{Channels, InputSpec, Layout, Resize};

/// File name looked for in a model's folder.
const FILE: &str = "model.toml";
/// A manifest or a list of labels; a million classes have less.
const BYTES_MAX: u64 = 64 << 20;
/// 1 / 255: bytes to the unit range.
const SCALE: f32 = 1.0 / 255.0;
/// A picture side that no classifier exceeds; keeps a foreign manifest from asking for all memory.
const SIDE_MAX: i64 = 8192;

/// The manifest as typed; `None` means: as the graph says.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) model: PathBuf,
    pub(crate) scores: Option<Scores>,
    pub(crate) labels: Option<Vec<String>>,
    width: Option<i64>,
    height: Option<i64>,
    channels: Option<Channels>,
    layout: Option<Layout>,
    scale: Option<f32>,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
    resize: Option<Resize>,
    mirror: Option<bool>,
    /// Where it was read, for messages.
    source: PathBuf,
    /// What is wrong in it by itself; kept until the graph has shown the rest.
    problems: Vec<String>,
}

impl Manifest {
    /// Reads the manifest at `path`: a folder that holds one, such a file, or a bare `.onnx`.
    ///
    /// # Errors
    /// A missing file or bad TOML. What else is wrong in it comes with [`Manifest::verdict`].
    pub(crate) fn read(path: &Path) -> Result<Self, BackboneError> {
        let source = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        if source.extension().is_some_and(|extension| extension == "onnx") {
            return Ok(Self { model: source.clone(), source, ..Self::default() });
        }
        let text = files::read_text(&source, BYTES_MAX).map_err(|error| BackboneError::read(&source, &error))?;
        let folder = source.parent().unwrap_or(Path::new("."));
        let table: Table = text.parse().map_err(|error: toml::de::Error| BackboneError::Manifest {
            path: source.clone(),
            problems: error.to_string(),
        })?;
        Ok(Self::parse(&table, folder, &source))
    }

    fn parse(table: &Table, folder: &Path, source: &Path) -> Self {
        let mut problems = Vec::new();
        for key in table.keys().filter(|key| !matches!(key.as_str(), "model" | "input")) {
            problems.push(format!("unknown section [{key}]; known: model, input"));
        }
        let mut model = Section::of(table, "model", &mut problems);
        let file = model.text("file");
        let scores = model.word("output", &[("logits", Scores::Logits), ("probabilities", Scores::Probabilities)]);
        let labels = model.text("labels");
        model.finish();
        let mut input = Section::of(table, "input", &mut problems);
        let mut manifest = Self {
            model: folder.join(file.as_deref().unwrap_or("backbone.onnx")),
            scores,
            labels: None,
            width: input.side("width"),
            height: input.side("height"),
            channels: input
                .word("channels", &[("gray", Channels::Gray), ("rgb", Channels::Rgb), ("bgr", Channels::Bgr)]),
            layout: input.word("layout", &[("nchw", Layout::Nchw), ("nhwc", Layout::Nhwc)]),
            scale: input.number("scale"),
            mean: input.numbers("mean"),
            std: input.numbers("std"),
            resize: input.word(
                "resize",
                &[("stretch", Resize::Stretch), ("crop", Resize::Crop), ("letterbox", Resize::Letterbox)],
            ),
            mirror: input.switch("mirror"),
            source: source.to_owned(),
            problems: Vec::new(),
        };
        input.finish();
        if manifest.std.as_ref().is_some_and(|std| std.contains(&0.0)) {
            problems.push("input.std: holds a zero, it is divided by".to_owned());
        }
        if let Some(name) = labels {
            let path = folder.join(name);
            match files::read_text(&path, BYTES_MAX) {
                Ok(text) => manifest.labels = Some(text.lines().map(|line| line.trim().to_owned()).collect()),
                Err(error) => problems.push(format!("model.labels: {}: {error}", path.display())),
            }
        }
        manifest.problems = problems;
        manifest
    }

    /// The model's file cannot be used: one more problem of a manifest that has some, or that names the file.
    pub(crate) fn unusable(&self, error: BackboneError) -> BackboneError {
        let named = self.source != self.model && matches!(error, BackboneError::Read { .. });
        if self.problems.is_empty() && !named {
            return error;
        }
        self.refusal(&[format!("model.file: {error}")])
    }

    /// All that is wrong: the manifest's own problems, and those found with the graph.
    pub(crate) fn refusal(&self, found: &[String]) -> BackboneError {
        let all: Vec<&str> = self.problems.iter().chain(found).map(String::as_str).collect();
        BackboneError::Manifest { path: self.source.clone(), problems: all.join("\n  ") }
    }

    /// The last word, once the graph was held against it.
    ///
    /// # Errors
    /// The refusal, if anything is wrong.
    pub(crate) fn verdict(&self, found: &[String]) -> Result<(), BackboneError> {
        if self.problems.is_empty() && found.is_empty() { Ok(()) } else { Err(self.refusal(found)) }
    }

    /// Lays the manifest over what the graph's input says, and adds contradictions and what neither says to `problems`.
    /// Where they contradict each other the graph is believed, so that the rest can still be looked at; none: neither says
    /// how large a picture is.
    pub(crate) fn input_spec(&self, graph: &GraphInput, problems: &mut Vec<String>) -> Option<InputSpec> {
        let dim = |at: usize| graph.dims.get(at).copied().flatten();
        let layout = self.layout.unwrap_or_else(|| {
            let planes = matches!(dim(1), Some(1 | 3)) || !matches!(dim(3), Some(1 | 3));
            if planes { Layout::Nchw } else { Layout::Nhwc }
        });
        let [channel_at, height_at, width_at] = match layout {
            Layout::Nchw => [1, 2, 3],
            Layout::Nhwc => [3, 1, 2],
        };
        let shown = if dim(channel_at) == Some(1) { Channels::Gray } else { Channels::Rgb };
        let mut channels = self.channels.unwrap_or(shown);
        let contradicted = dim(channel_at).filter(|&found| usize::try_from(found) != Ok(channels.count()));
        if let Some(found) = contradicted {
            problems.push(format!(
                "input.channels: the graph's input \"{}\" has {found} channels, {} are fed",
                graph.name,
                channels.count()
            ));
        }
        let mut side = |key: &str, typed: Option<i64>, at: usize| {
            if let (Some(typed), Some(found)) = (typed, dim(at))
                && typed != found
            {
                problems.push(format!("input.{key} = {typed}, but the graph's input \"{}\" has {found}", graph.name));
            }
            match dim(at).or(typed) {
                Some(side) if (1..=SIDE_MAX).contains(&side) => usize::try_from(side).ok(),
                Some(side) => {
                    problems.push(format!("input.{key}: {side} is out of 1 to {SIDE_MAX}"));
                    None
                }
                None => {
                    problems.push(format!("input.{key} is free in the graph: set it in {FILE}"));
                    None
                }
            }
        };
        let (height, width) = (side("height", self.height, height_at), side("width", self.width, width_at));
        let mut per_channel = |key: &str, typed: &Option<Vec<f32>>, default: f32| match typed.as_deref() {
            None => vec![default; channels.count()],
            Some([all]) => vec![*all; channels.count()],
            Some(list) => {
                if list.len() != channels.count() {
                    problems.push(format!("input.{key}: {} values for {} channels", list.len(), channels.count()));
                }
                list.to_vec()
            }
        };
        let (mean, std) = (per_channel("mean", &self.mean, 0.0), per_channel("std", &self.std, 1.0));
        let (scale, resize) = (self.scale.unwrap_or(SCALE), self.resize.unwrap_or(Resize::Stretch));
        let mirror = self.mirror.unwrap_or(true);
        if contradicted.is_some() {
            channels = shown;
        }
        Some(InputSpec { width: width?, height: height?, channels, layout, scale, mean, std, resize, mirror })
    }

    /// The labels for so many classes: as given, or `class-0` and on. A list of another length is a problem.
    pub(crate) fn class_labels(&self, classes: usize, problems: &mut Vec<String>) -> Vec<String> {
        match &self.labels {
            None => (0..classes).map(|class| format!("class-{class}")).collect(),
            Some(labels) => {
                if labels.len() != classes {
                    problems.push(format!("model.labels: {} lines, but the model has {classes} classes", labels.len()));
                }
                labels.clone()
            }
        }
    }
}

/// One section being read: every key is taken once, what is left over is unknown.
struct Section<'p> {
    name: &'static str,
    table: Table,
    known: Vec<&'static str>,
    problems: &'p mut Vec<String>,
}

impl<'p> Section<'p> {
    fn of(table: &Table, name: &'static str, problems: &'p mut Vec<String>) -> Self {
        let section = match table.get(name) {
            None => Table::new(),
            Some(Value::Table(section)) => section.clone(),
            Some(_) => {
                problems.push(format!("{name} must be a section, [{name}]"));
                Table::new()
            }
        };
        Self { name, table: section, known: Vec::new(), problems }
    }

    fn take<T>(&mut self, key: &'static str, what: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        let found = read(&value);
        if found.is_none() {
            self.problems.push(format!("{}.{key} = {value}: must be {what}", self.name));
        }
        found
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, "a file name", |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    }

    fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let list = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        self.take(key, &list, |value| {
            let text = value.as_str()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
        })
    }

    fn side(&mut self, key: &'static str) -> Option<i64> {
        let what = format!("a number of pixels, 1 to {SIDE_MAX}");
        self.take(key, &what, |value| value.as_integer().filter(|side| (1..=SIDE_MAX).contains(side)))
    }

    fn switch(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, "true or false", Value::as_bool)
    }

    fn number(&mut self, key: &'static str) -> Option<f32> {
        self.take(key, "a finite number", number)
    }

    fn numbers(&mut self, key: &'static str) -> Option<Vec<f32>> {
        self.take(key, "a list of finite numbers, one per channel", |value| match value {
            Value::Array(list) if !list.is_empty() => list.iter().map(number).collect(),
            _ => None,
        })
    }

    fn finish(self) {
        for key in self.table.keys() {
            self.problems.push(format!("unknown key {}.{key}; known: {}", self.name, self.known.join(", ")));
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "pixel maths is in f32")]
fn number(value: &Value) -> Option<f32> {
    let number = value.as_float().or_else(|| value.as_integer().map(|integer| integer as f64))?;
    Some(number as f32).filter(|number| number.is_finite())
}
