//! A folder in which measurements are kept from one start to the next: a small file for each.
//!
//! What lies in a folder may be old, cut short, or somebody else's: a file is believed only if its checksum is right and it was
//! made for just this. Whatever is wrong with it, the answer is to measure again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::record::{Key, Record};
use crate::files;

/// A record has some kilobytes.
const BYTES_MAX: u64 = 256 << 10;
/// Records that are kept; the oldest go first.
const RECORDS_MAX: usize = 64;
const PREFIX: &str = "measured-";

/// Where measurements are kept.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// Whether the folder was chosen by us, perhaps where others can write: then it must be ours alone.
    private: bool,
}

impl Cache {
    /// As the setting `engine.cache_dir` says: nothing is kept where it is empty; `auto` is the user's own cache folder, or one in
    /// the folder for temporary files where there is none.
    #[must_use]
    pub fn from_setting(setting: &str) -> Option<Self> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        match setting {
            "" => None,
            "auto" => {
                let own = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
                let folder = own.map_or_else(|| std::env::temp_dir().join("offramp.cache"), |own| own.join("offramp"));
                Some(Self { folder, private: true })
            }
            path => Some(Self { folder: path.into(), private: false }),
        }
    }

    /// The record for this, if there is one that can be believed. A line in the log says why not.
    pub(super) fn find(&self, key: &Key, candidates: usize) -> Option<Record> {
        let file = self.file(key);
        match self.read(&file, key, candidates) {
            Ok(found) => found,
            Err(reason) => {
                tracing::warn!(file = %file.display(), reason, "what was measured before is ignored and measured again");
                None
            }
        }
    }

    fn read(&self, file: &Path, key: &Key, candidates: usize) -> Result<Option<Record>, String> {
        let bytes = match files::read(file, BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| format!("cannot be read: {error}"))?,
        };
        if self.private {
            owned(&self.folder)?;
        }
        let damaged = || "is damaged or was edited".to_owned();
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        let (sum, body) = text.split_once('\n').ok_or_else(damaged)?;
        if sum != checksum(body) {
            return Err(damaged());
        }
        let record: Record = serde_json::from_str(body).map_err(|error| format!("is of another form: {error}"))?;
        record.check(key, candidates)?;
        Ok(Some(record))
    }

    /// Keeps a record. Where that cannot be a line in the log says so: the next start measures again.
    pub(super) fn keep(&self, record: &Record) {
        let file = self.file(&record.key);
        match self.write(&file, record) {
            Ok(()) => tracing::info!(file = %file.display(), "what was measured is kept for the next start"),
            Err(error) => tracing::warn!(
                file = %file.display(),
                %error,
                "what was measured cannot be kept: set engine.cache_dir to a folder that can be written, or \"\" to keep nothing"
            ),
        }
    }

    fn write(&self, file: &Path, record: &Record) -> std::io::Result<()> {
        make(&self.folder)?;
        let body = serde_json::to_string(record)?;
        // Whole or not at all: others may read it at any moment. Two of one name and process cannot write at once.
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        let written = fs::write(&draft, format!("{}\n{body}", checksum(&body))).and_then(|()| fs::rename(&draft, file));
        if written.is_err() {
            // It may not be there at all.
            fs::remove_file(&draft).unwrap_or_default();
        }
        written?;
        self.sweep();
        Ok(())
    }

    /// Removes the oldest records above the limit, and drafts that a killed process left. What cannot be removed stays.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let ours = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let age = |entry: fs::DirEntry| {
            let changed = entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            (changed, entry.path())
        };
        let mut records: Vec<(SystemTime, PathBuf)> = entries.filter(ours).map(age).collect();
        records.sort();
        let surplus = records.len().saturating_sub(RECORDS_MAX);
        for (_, path) in records.into_iter().take(surplus) {
            fs::remove_file(&path).unwrap_or_default();
        }
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{PREFIX}{}.json", key.name()))
    }
}

fn checksum(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

#[cfg(unix)]
fn make(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)
}

/// Nobody else may have laid something into the folder.
#[cfg(unix)]
fn owned(folder: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(folder).map_err(|error| error.to_string())?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if ours { Ok(()) } else { Err("lies in a folder that others can write to".to_owned()) }
}

#[cfg(not(unix))]
fn owned(_folder: &Path) -> Result<(), String> {
    Ok(())
}
