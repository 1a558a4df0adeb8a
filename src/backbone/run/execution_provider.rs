//! ONNX Runtime's execution providers: whether its library has the one that is asked for, and how a session gets it.

use ort::ep::{
    ArbitrarilyConfigurableExecutionProvider, CUDA, ExecutionProvider, ExecutionProviderDispatch, OpenVINO, TensorRT,
};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::error::SessionError;
use super::runtime;
use crate::provider::{Provider, ProviderKind};

/// Whether the library that was loaded has the provider, and can make it with these options.
///
/// # Errors
/// What it lacks, and what helps.
pub(crate) fn check(provider: &Provider) -> Result<(), SessionError> {
    let here = match provider.kind {
        ProviderKind::Cpu => return Ok(()),
        ProviderKind::OpenVino => OpenVINO::is_available()?,
        ProviderKind::Cuda => CUDA::is_available()?,
        ProviderKind::TensorRt => TensorRT::is_available()?,
    };
    let path = runtime::init()?.path;
    if !here {
        return Err(SessionError::Ort(format!(
            "{} was built without the execution provider {provider}; set ORT_DYLIB_PATH to a library that has it, or use cpu",
            path.display()
        )));
    }
    let trial = Session::builder(runtime::environment()?)?;
    let why = |error| {
        SessionError::Ort(format!(
            "the execution provider {provider} cannot be used: {error}\nfix: its own libraries must be where the system's loader finds \
         them, its device must be there, and its options must be ones that ONNX Runtime knows; or use cpu"
        ))
    };
    register(trial, provider, 1).map(drop).map_err(why)
}

/// Lets a session run on the provider. What cannot be had is an error: quietly on the CPU it would be slow for no reason that
/// anybody sees.
pub(crate) fn register(
    builder: SessionBuilder,
    provider: &Provider,
    threads: usize,
) -> Result<SessionBuilder, SessionError> {
    let provider = match provider.kind {
        ProviderKind::Cpu => return Ok(builder),
        // Its threads are its own; it would take every core for each lane.
        ProviderKind::OpenVino => {
            let lane = OpenVINO::default().with_num_threads(threads.max(1));
            configured(lane, provider)
        }
        ProviderKind::Cuda => configured(CUDA::default(), provider),
        ProviderKind::TensorRt => configured(TensorRT::default(), provider),
    };
    Ok(builder.with_execution_providers([provider.error_on_failure()])?)
}

fn configured<P>(made: P, provider: &Provider) -> ExecutionProviderDispatch
where
    P: ArbitrarilyConfigurableExecutionProvider + Into<ExecutionProviderDispatch>,
{
    provider.options.iter().fold(made, |made, (name, value)| made.with_arbitrary_config(name, value)).into()
}
