//! The nouns of the stream's entry: where a frame came from, its bytes, and what the backbone wants of it.
//!
//! Imports nothing of ours.

use std::fmt;
use std::sync::Arc;

/// The place of a record in Kafka; also the frame's identity for audits and for de-duplication downstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

/// A frame as Kafka delivered it: nothing is known about its bytes yet.
#[derive(Debug, Clone)]
pub struct RawFrame {
    /// Where the record stands.
    pub origin: Origin,
    /// The record's key, as it came: the camera's id, UTF-8 by convention.
    pub key: Option<Vec<u8>>,
    /// The encoded picture (JPEG, PNG, WebP) or raw tensor.
    pub payload: Vec<u8>,
    /// The record's timestamp: capture time, milliseconds since the Unix epoch.
    pub captured_at_ms: Option<i64>,
    /// The headers as they came.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// How many headers were left out: they cannot be read, or there are too many.
    pub headers_left_out: usize,
}

impl RawFrame {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        length(&self.key) + self.payload.len() + headers
    }

    /// The camera's id as text; bytes that are not UTF-8 are replaced, an absent key is the empty string.
    #[must_use]
    pub fn camera(&self) -> String {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default()
    }

    /// The last `content-type` header, in letters of either case, whose value is UTF-8.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        let mut values = self.headers.iter().rev().filter(|(key, _)| key.eq_ignore_ascii_case("content-type"));
        values.find_map(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
    }
}

/// Order of the colour channels that the backbone was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// One luma channel.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red (OpenCV's order).
    Bgr,
}

impl Channels {
    /// How many values a pixel has.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::Bgr => 3,
        }
    }
}

/// Memory layout of one frame in the backbone's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Channel planes: `[channels, height, width]`.
    Nchw,
    /// Interleaved pixels: `[height, width, channels]`.
    Nhwc,
}

/// What happens to a picture whose size is not the backbone's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Scaled to the input size; the aspect ratio may change.
    Stretch,
    /// Scaled until it covers the input, then the middle is cut out.
    Crop,
    /// Scaled until it fits, the rest is filled with black.
    Letterbox,
}

/// What is done about the tag with which a camera tells how it was held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orientation {
    /// The picture is turned upright as its EXIF block says (JPEG, PNG, WebP).
    #[default]
    Exif,
    /// The picture is taken as its pixels are stored.
    Ignore,
}

/// What the backbone wants of a frame. The value fed is `(pixel * scale - mean) / std`, per channel in input order.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Channel order.
    pub channels: Channels,
    /// Memory layout.
    pub layout: Layout,
    /// Factor on the 8-bit pixel value.
    pub scale: f32,
    /// Subtracted after scaling; one value per channel.
    pub mean: Vec<f32>,
    /// Divided by at last; one value per channel, none zero.
    pub std: Vec<f32>,
    /// Rule for pictures of another size.
    pub resize: Resize,
    /// Whether a mirrored picture is one that the camera might have shown.
    pub mirror: bool,
}

impl InputSpec {
    /// Number of `f32` values in one decoded frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.width * self.height * self.channels.count()
    }

    /// True only for a degenerate spec; `Backbone::load` never makes one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a frame can never be classified, however often it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The record has no bytes.
    Empty,
    /// More bytes or pixels than the configured limit.
    TooLarge,
    /// Neither a known picture format nor a declared raw tensor.
    UnknownFormat,
    /// The format is known and the content begins well, but part of the picture is missing.
    Truncated,
    /// The format is known, the content is broken.
    Corrupt,
    /// A raw tensor whose declared type or shape does not fit its bytes or the backbone.
    BadTensor,
    /// The backbone's output for it is NaN or infinite.
    BadOutput,
}

impl RejectReason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::TooLarge,
        Self::UnknownFormat,
        Self::Truncated,
        Self::Corrupt,
        Self::BadTensor,
        Self::BadOutput,
    ];

    /// The word used in dead-letter headers and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too-large",
            Self::UnknownFormat => "unknown-format",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::BadTensor => "bad-tensor",
            Self::BadOutput => "bad-output",
        }
    }
}

/// The verdict on a frame that cannot be classified: made where its bytes are decoded, and where the backbone's answer
/// to it is no number. An outage is not a rejection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Rejection {
    reason: RejectReason,
    detail: String,
}

impl Rejection {
    pub(crate) fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The class of the fault.
    #[must_use]
    pub fn reason(&self) -> RejectReason {
        self.reason
    }

    /// What was found, in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}
