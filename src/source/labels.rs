//! True classes and picked frames: one number or name per frame.

use std::io::{BufRead, Read};
use std::path::Path;

use super::sniff::{Kind, sniff};
use super::{Label, SourceError, idx, npy};

/// Labels that are still believed; MNIST has 70,000.
const LABELS_MAX: u64 = 100_000_000;

/// Reads labels: IDX with one dimension, `.npy` of integers with one dimension, or text with a number or name per line.
pub(super) fn read(path: &Path) -> Result<Vec<Label>, SourceError> {
    let mut opened = sniff(path)?;
    let labels = match opened.kind {
        Kind::Npy | Kind::Idx => integers(path, opened.kind, opened.bytes.as_mut())?
            .into_iter()
            .map(|value| Label::Index(usize::try_from(value).unwrap_or(usize::MAX)))
            .collect(),
        Kind::Jpegs | Kind::Other => {
            let mut text = String::new();
            opened.bytes.take(LABELS_MAX).read_to_string(&mut text).map_err(|error| {
                SourceError::content(path, error.to_string(), "give labels as IDX, .npy or text with one a line")
            })?;
            text.lines().map(|line| line_label(line.trim())).collect()
        }
    };
    Ok(labels)
}

fn line_label(line: &str) -> Label {
    line.parse().map_or_else(|_| Label::Name(line.to_owned()), Label::Index)
}

/// Reads indices of frames.
pub(super) fn read_indices(path: &Path) -> Result<Vec<u64>, SourceError> {
    let mut opened = sniff(path)?;
    match opened.kind {
        Kind::Npy | Kind::Idx => integers(path, opened.kind, opened.bytes.as_mut()),
        Kind::Jpegs | Kind::Other => {
            Err(SourceError::content(path, "it is neither .npy nor IDX", "write the indices with numpy.save"))
        }
    }
}

/// An array of one dimension of non-negative integers.
fn integers(path: &Path, kind: Kind, bytes: &mut dyn BufRead) -> Result<Vec<u64>, SourceError> {
    let (shape, width, is_signed, is_big_endian) = if kind == Kind::Idx {
        (idx::header(path, bytes)?, 1, false, false)
    } else {
        let header = npy::header(path, bytes)?;
        let width = match header.kind.as_str() {
            "u1" | "i1" | "b1" => 1,
            "u2" | "i2" => 2,
            "u4" | "i4" => 4,
            "u8" | "i8" => 8,
            other => {
                let reason = format!("its values are of type {other:?}");
                return Err(SourceError::content(path, reason, "give integers"));
            }
        };
        (header.shape, width, header.kind.starts_with('i'), header.is_big_endian)
    };
    let &[count] = shape.as_slice() else {
        let reason = format!("it has {} dimensions where one is needed", shape.len());
        return Err(SourceError::content(path, reason, "give one number per frame"));
    };
    if count > LABELS_MAX {
        return Err(SourceError::content(
            path,
            format!("it claims {count} values"),
            "the file is damaged: fetch it again",
        ));
    }
    let mut values = Vec::new();
    for number in 0..count {
        let mut cell = [0; 8];
        // Little-endian values fill the cell from the front, big-endian ones from the back.
        let part = if is_big_endian { cell.get_mut(8 - width..) } else { cell.get_mut(..width) };
        bytes
            .read_exact(part.unwrap_or(&mut []))
            .map_err(|error| SourceError::content(path, error.to_string(), "the file is truncated: fetch it again"))?;
        let value = if is_big_endian { u64::from_be_bytes(cell) } else { u64::from_le_bytes(cell) };
        // The sign is the highest bit of those that were read.
        let unused = 64 - 8 * width;
        let signed = (value << unused).cast_signed() >> unused;
        if is_signed && signed < 0 {
            let reason = format!("value {number} is {signed}");
            return Err(SourceError::content(path, reason, "give numbers from 0 on"));
        }
        values.push(value);
    }
    Ok(values)
}
