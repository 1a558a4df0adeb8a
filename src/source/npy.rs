//! `NumPy`'s `.npy`: a magic, a version, the length of a header, a Python dict as text, then the values.

use std::io::BufRead;
use std::path::Path;

use super::SourceError;
use super::pixels::Pixels;
use super::sniff::Opened;

/// Real headers have some 120 bytes; a forged length must not be allocated.
const HEADER_MAX: u32 = 64 << 10;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `NumPy`'s type string without byte order mark, such as `u1`.
    pub(super) kind: String,
    /// Whether the values are big-endian.
    pub(super) is_big_endian: bool,
    /// Lengths of the dimensions.
    pub(super) shape: Vec<u64>,
}

/// Reads a header; the values follow.
pub(super) fn header(path: &Path, bytes: &mut dyn BufRead) -> Result<Header, SourceError> {
    let short = |_| SourceError::content(path, "it ends inside its header", "the file is truncated: copy it again");
    let mut magic = [0; 8];
    bytes.read_exact(&mut magic).map_err(short)?;
    let length = if magic[6] == 1 {
        let mut length = [0; 2];
        bytes.read_exact(&mut length).map_err(short)?;
        u32::from(u16::from_le_bytes(length))
    } else {
        let mut length = [0; 4];
        bytes.read_exact(&mut length).map_err(short)?;
        u32::from_le_bytes(length)
    };
    if length > HEADER_MAX {
        let reason = format!("its header claims {length} bytes");
        return Err(SourceError::content(path, reason, "the file is damaged: write it again with numpy.save"));
    }
    let mut text = vec![0; length as usize];
    bytes.read_exact(&mut text).map_err(short)?;
    parse(&String::from_utf8_lossy(&text)).map_err(|reason| {
        SourceError::content(path, reason, "write it with numpy.save(path, numpy.ascontiguousarray(array))")
    })
}

/// Parses `{'descr': '|u1', 'fortran_order': False, 'shape': (10, 28, 28), }`.
fn parse(text: &str) -> Result<Header, String> {
    let after = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':")).ok_or_else(|| format!("its header has no '{key}'"))?;
        Ok::<&str, String>(rest.trim_start())
    };
    let mut quoted = after("descr")?.split('\'');
    let (Some(""), Some(descr)) = (quoted.next(), quoted.next()) else {
        return Err("its values are records, not numbers".to_owned());
    };
    if !after("fortran_order")?.starts_with("False") {
        return Err("it is in Fortran order".to_owned());
    }
    let shape = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (inside, _) = shape.ok_or("its shape is no tuple")?;
    let lengths = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
    let shape =
        lengths.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| "its shape is no tuple of numbers")?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']).to_owned();
    Ok(Header { kind, is_big_endian: descr.starts_with('>'), shape })
}

/// Opens an array of pictures: `(N, H, W)` or `(N, H, W, C)` of `uint8`.
pub(super) fn open(path: &Path, mut opened: Opened) -> Result<Pixels, SourceError> {
    let header = header(path, opened.bytes.as_mut())?;
    if header.kind != "u1" {
        let reason = format!("its values are of type {:?}", header.kind);
        return Err(SourceError::content(path, reason, "give pixels from 0 to 255: array.astype(numpy.uint8)"));
    }
    match *header.shape.as_slice() {
        [frames, height, width] => Pixels::new(path, frames, (height, width, 1), opened.bytes),
        [frames, channels @ (1 | 3), height, width] if !matches!(width, 1 | 3) => {
            let reason = format!("its shape ({frames}, {channels}, {height}, {width}) has the channels first");
            Err(SourceError::content(path, reason, "put them last: numpy.moveaxis(array, 1, -1)"))
        }
        [frames, height, width, channels] => Pixels::new(path, frames, (height, width, channels), opened.bytes),
        _ => {
            let reason = format!("its shape has {} dimensions", header.shape.len());
            Err(SourceError::content(path, reason, "give (N, H, W) or (N, H, W, C)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpys_own_headers_are_read() {
        let header = parse("{'descr': '<i8', 'fortran_order': False, 'shape': (10000,), }     \n").unwrap();
        assert_eq!(header, Header { kind: "i8".to_owned(), is_big_endian: false, shape: vec![10_000] });
        let header = parse("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 28, 28, 3), }\n").unwrap();
        assert_eq!(header, Header { kind: "u1".to_owned(), is_big_endian: false, shape: vec![2, 28, 28, 3] });
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(
            parse("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }")
                .unwrap_err()
                .contains("records")
        );
        assert!(parse("{'descr': '|u1', 'fortran_order': True, 'shape': (1,), }").unwrap_err().contains("Fortran"));
        assert!(parse("").unwrap_err().contains("descr"));
    }
}
