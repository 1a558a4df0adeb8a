//! Files that are read whole: regular ones, up to a limit. A device or a pipe may have no end, and opening one may wait for
//! ever.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// The system's, `InvalidInput` where `path` is no regular file, and `FileTooLarge`.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        let what = if found.is_dir() { "is a folder, not a file" } else { "is no regular file" };
        return Err(Error::new(ErrorKind::InvalidInput, what));
    }
    let too_large = || Error::new(ErrorKind::FileTooLarge, format!("holds more than {bytes_max} bytes"));
    if found.len() > bytes_max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    // The file may have grown since it was looked at, and those of /proc say nothing of their length.
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(too_large()) } else { Ok(bytes) }
}

/// The same for text.
///
/// # Errors
/// As [`read`], and `InvalidData` where it is no UTF-8.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| Error::new(ErrorKind::InvalidData, "is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_the_limit_and_no_further() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"12345").expect("written");
        assert_eq!(read(file.path(), 5).expect("it fits"), b"12345");
        assert_eq!(read(file.path(), 4).expect_err("too long").kind(), ErrorKind::FileTooLarge);
        for endless in ["/dev/zero", "/dev/null", "/dev", "/proc/self/fd"] {
            assert_eq!(read(Path::new(endless), 5).expect_err(endless).kind(), ErrorKind::InvalidInput);
        }
    }
}
