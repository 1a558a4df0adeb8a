//! Finds and loads ONNX Runtime's shared library, once per process.
//!
//! Must run before anything else of `ort`: that crate panics when it is used without a library. Knows nothing of models.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;

/// What was loaded.
#[derive(Debug, Clone)]
pub struct RuntimeInfo {
    /// The library's file, or its bare name if the system's search path found it.
    pub path: PathBuf,
    /// Its version as its file name tells it, else "1.x".
    pub version: String,
    /// ONNX Runtime's own description of its build: branch, commit, flags.
    pub build: String,
}

/// No usable ONNX Runtime.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no usable ONNX Runtime library (1.{minimum} or newer).\ntried:\n{tried}fix: `make runtime`, or set ORT_DYLIB_PATH to {name}"
)]
pub struct RuntimeError {
    tried: String,
    minimum: u32,
    name: String,
}

struct Loaded {
    environment: Environment,
    info: RuntimeInfo,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads ONNX Runtime if no call before has done so. Looks in `ORT_DYLIB_PATH` (if set, nowhere else), beside the
/// binary, in a `.runtime` folder beside or above the binary or the working directory, then in the system's search path.
///
/// # Errors
/// When no place has a library that loads and is new enough; the message lists the places and the reasons.
pub fn init() -> Result<RuntimeInfo, RuntimeError> {
    loaded().map(|loaded| loaded.info.clone())
}

/// The process's one environment.
pub(crate) fn environment() -> Result<&'static Environment, RuntimeError> {
    loaded().map(|loaded| &loaded.environment)
}

fn loaded() -> Result<&'static Loaded, RuntimeError> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded);
    }
    let name = library_name();
    let explicit = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let places = explicit.map_or_else(|| places(&name), |path| vec![path]);
    let mut tried = String::new();
    for path in places {
        match load(&path) {
            Ok(loaded) => {
                tracing::info!(path = %loaded.info.path.display(), build = loaded.info.build, "ONNX Runtime loaded");
                return Ok(LOADED.get_or_init(|| loaded));
            }
            Err(reason) => tried.extend([format!("  {}: {reason}\n", path.display())]),
        }
    }
    Err(RuntimeError { tried, minimum: ort::MINOR_VERSION, name })
}

fn load(path: &Path) -> Result<Loaded, String> {
    // A path with a folder is checked first: the loader's own message for a missing file is long and unclear.
    let bare = path.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    if !bare && !path.exists() {
        return Err("no such file".to_owned());
    }
    // Telemetry off: a worker reports to its operator, to no one else.
    let builder = ort::init_from(path).map_err(|error| error.to_string())?.with_name("offramp").with_telemetry(false);
    let environment = builder.build().map_err(|error| error.message().to_owned())?;
    // Failures come back as errors with the same words; printed besides, expected ones would alarm.
    environment.set_log_level(ort::logging::LogLevel::Fatal);
    let info = RuntimeInfo { path: path.to_owned(), version: version(path), build: ort::info().to_owned() };
    Ok(Loaded { environment, info })
}

/// `libonnxruntime.so` is a link to `libonnxruntime.so.1.31.1`; the API does not tell the version, the name does.
fn version(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let digits = name.find("1.").map(|at| name.split_at(at).1.trim_end_matches(".dylib").to_owned());
    digits.filter(|text| text.chars().all(|c| c.is_ascii_digit() || c == '.')).unwrap_or_else(|| "1.x".to_owned())
}

fn library_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn places(name: &str) -> Vec<PathBuf> {
    let binary = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let working = std::env::current_dir().ok();
    let mut places: Vec<PathBuf> = binary.iter().map(|folder| folder.join(name)).collect();
    for folder in binary.iter().chain(&working).flat_map(|folder| folder.ancestors()) {
        let place = folder.join(".runtime").join(name);
        // Beside the binary and in the working directory it is named even if absent; above them only where it exists.
        let named = Some(folder) == binary.as_deref() || Some(folder) == working.as_deref();
        if (named || place.exists()) && !places.contains(&place) {
            places.push(place);
        }
    }
    places.push(PathBuf::from(name));
    places
}
