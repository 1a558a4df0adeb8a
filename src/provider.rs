//! What runs the model: one of ONNX Runtime's execution providers, with its options.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// An execution provider. What it cannot run, the CPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProviderKind {
    /// ONNX Runtime's own kernels; every library has them.
    #[default]
    Cpu,
    /// Intel's CPUs, GPUs and NPUs.
    OpenVino,
    /// NVIDIA's GPUs.
    Cuda,
    /// NVIDIA's GPUs, by engines that are built when the model is loaded.
    TensorRt,
}

impl ProviderKind {
    const ALL: [Self; 4] = [Self::Cpu, Self::OpenVino, Self::Cuda, Self::TensorRt];

    /// Its word in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// A provider and its options, written `cuda` or `cuda,device_id=1`; the options are ONNX Runtime's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Provider {
    /// Which one.
    pub kind: ProviderKind,
    /// Its options, by name.
    pub options: BTreeMap<String, String>,
}

impl Provider {
    /// Whether all is left to the CPU.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.kind == ProviderKind::Cpu
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let word = parts.next().unwrap_or_default();
        let kind = ProviderKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
            let words = ProviderKind::ALL.map(ProviderKind::as_str).join(", ");
            format!("must be one of {words}, with options after it (cuda,device_id=1)")
        })?;
        let mut options = BTreeMap::new();
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let plain = |text: &str| !text.is_empty() && !text.contains('\0');
            if !plain(name) || !plain(value) {
                return Err(format!("has an option {part:?}: each must be NAME=VALUE"));
            }
            if kind == ProviderKind::Cpu {
                return Err("must be cpu alone: it takes no options".to_owned());
            }
            options.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self { kind, options })
    }
}

impl TryFrom<String> for Provider {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        self.options.iter().try_for_each(|(name, value)| write!(f, ",{name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_written() {
        for text in ["cpu", "cuda", "cuda,device_id=1", "openvino,device_type=GPU,num_streams=2"] {
            assert_eq!(text.parse::<Provider>().map(|provider| provider.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "gpu", "CUDA", "cuda,", "cuda,device_id", "cuda,=1", "cuda,a=\0", "cpu,threads=1"] {
            assert!(wrong.parse::<Provider>().is_err(), "{wrong:?}");
        }
    }
}
