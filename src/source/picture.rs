//! A frame as a camera would send it, and where such come from.

use std::fmt;

use super::error::SourceError;

/// A frame as a camera would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it came from, for people: a file's name, or the file's name and the frame's number.
    pub name: String,
    /// The encoded picture or raw tensor.
    pub bytes: Vec<u8>,
    /// Its media type, as for the `content-type` header.
    pub content_type: String,
    /// Its true class, where the source knows it. Never sent to Kafka.
    pub label: Option<Label>,
}

/// A true class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Label {
    /// Index in the backbone's output.
    Index(usize),
    /// Name, as in the backbone's labels.
    Name(String),
}

impl Label {
    /// The index in the backbone's output; names are compared without regard to case and to `-`, `_` and space.
    #[must_use]
    pub fn resolve(&self, labels: &[String]) -> Option<usize> {
        let plain = |text: &str| -> String {
            text.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).flat_map(char::to_lowercase).collect()
        };
        match self {
            Self::Index(index) => (*index < labels.len()).then_some(*index),
            Self::Name(name) => labels.iter().position(|label| plain(label) == plain(name)),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => index.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Frames one after the other. After an error about one frame the source may go on; after `None` it is at its end.
pub trait FrameSource: Iterator<Item = Result<Picture, SourceError>> + Send {
    /// How many frames it has in all, where that is known beforehand.
    fn frames(&self) -> Option<u64>;
}
