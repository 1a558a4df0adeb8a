//! The IDX format of MNIST: `00 00 type rank`, then the dimensions as big-endian `u32`, then the values.

use std::io::BufRead;
use std::path::Path;

use super::SourceError;
use super::pixels::Pixels;
use super::sniff::Opened;

/// Unsigned bytes: the only type that pictures and labels come in.
const UNSIGNED_BYTE: u8 = 0x08;
const FIX: &str = "give an IDX file of unsigned bytes, such as MNIST's";

/// Reads an array's header: the lengths of its dimensions.
pub(super) fn header(path: &Path, bytes: &mut dyn BufRead) -> Result<Vec<u64>, SourceError> {
    let short =
        |_| SourceError::content(path, "it ends inside its IDX header", "the file is truncated: fetch it again");
    let mut magic = [0; 4];
    bytes.read_exact(&mut magic).map_err(short)?;
    let [_, _, kind, rank] = magic;
    if kind != UNSIGNED_BYTE || !(1..=4).contains(&rank) {
        let reason = format!("IDX type 0x{kind:02x} with {rank} dimensions");
        return Err(SourceError::content(path, reason, FIX));
    }
    (0..rank)
        .map(|_| {
            let mut length = [0; 4];
            bytes.read_exact(&mut length).map_err(short)?;
            Ok(u64::from(u32::from_be_bytes(length)))
        })
        .collect()
}

/// Opens an array of pictures: `[frames, height, width]` or `[frames, height, width, channels]`.
pub(super) fn open(path: &Path, mut opened: Opened) -> Result<Pixels, SourceError> {
    let dims = header(path, opened.bytes.as_mut())?;
    match *dims.as_slice() {
        [frames, height, width] => Pixels::new(path, frames, (height, width, 1), opened.bytes),
        [frames, height, width, channels] => Pixels::new(path, frames, (height, width, channels), opened.bytes),
        _ => {
            let reason = format!("it has {} dimensions: these are labels, or no pictures", dims.len());
            Err(SourceError::content(path, reason, "give the file with the pictures (idx3) as --frames"))
        }
    }
}
