//! A private temporary folder that lives as long as its value; what a killed process left behind is swept away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

const PREFIX: &str = "offramp-";
const LOCK: &str = "lock";
/// A folder this young may not have been locked yet.
const YOUNG: Duration = Duration::from_mins(1);

/// A folder that only this user can read, removed with the value. Its lock tells others that somebody lives in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes one in the system's temporary folder.
    pub(crate) fn make() -> std::io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(parent: &Path) -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep(parent);
        let mut taken = None;
        // Another process of the same number may live in another container with the same temporary folder.
        for _ in 0..16 {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
            match create(&path) {
                Ok(()) => {
                    let lock = File::create(path.join(LOCK))?;
                    lock.lock()?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(error) => taken = Some(error),
            }
        }
        Err(taken.unwrap_or_else(|| std::io::ErrorKind::AlreadyExists.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes folders whose owner was killed: nobody holds their lock. What cannot be removed is somebody else's.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
    for path in entries.filter(ours).map(|entry| entry.path()) {
        let age =
            |file: &File| SystemTime::now().duration_since(file.metadata()?.modified()?).map_err(std::io::Error::other);
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if age(&lock).is_ok_and(|age| age > YOUNG) && lock.try_lock().is_ok() && fs::remove_dir_all(&path).is_ok() {
            tracing::debug!(folder = %path.display(), "removed what a killed process had left behind");
        }
    }
}

#[cfg(unix)]
fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Fails if something stands there: nobody can lay a trap.
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a temporary folder stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a killed process left goes, what somebody lives in stays. Method: two old folders, one of them locked.
    #[test]
    fn only_deserted_folders_are_swept() {
        let parent = tempfile::tempdir().expect("a folder");
        let old = SystemTime::now() - 2 * YOUNG;
        let [deserted, inhabited, young] = ["1-0", "2-0", "3-0"].map(|name| {
            let path = parent.path().join(format!("{PREFIX}{name}"));
            create(&path).expect("a folder");
            (File::create(path.join(LOCK)).expect("a file"), path)
        });
        inhabited.0.lock().expect("nobody else has it");
        for (lock, _) in [&deserted, &inhabited] {
            lock.set_modified(old).expect("ours");
        }
        let mine = Folder::make_in(parent.path()).expect("a folder");
        assert_eq!([deserted, inhabited, young].map(|(_, path)| path.exists()), [false, true, true]);
        let path = mine.path().to_owned();
        assert!(path.exists());
        drop(mine);
        assert!(!path.exists());
    }
}
