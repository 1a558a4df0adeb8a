//! A folder of pictures. A sub-folder's name is the class of what lies in it.

use std::path::{Path, PathBuf};

use super::{FrameSource, Label, Picture, SourceError};

/// Folders inside folders that are still followed; ends loops made of links.
const DEPTH_MAX: usize = 16;

/// A source over the pictures of a folder, sorted by path.
pub(super) struct Folder {
    root: PathBuf,
    files: std::vec::IntoIter<PathBuf>,
    count: u64,
    labels: Option<std::vec::IntoIter<Label>>,
}

impl Folder {
    pub(super) fn open(root: &Path, labels: Option<Vec<Label>>) -> Result<Self, SourceError> {
        let mut files = Vec::new();
        collect(root, DEPTH_MAX, &mut files)?;
        files.sort();
        let count = files.len() as u64;
        if count == 0 {
            let fix = "give a folder with .jpg, .jpeg, .png or .webp files, in sub-folders by class if you like";
            return Err(SourceError::content(root, "there are no pictures in this folder", fix));
        }
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() as u64 != count) {
            let reason = format!("{} labels for {count} pictures", labels.len());
            return Err(SourceError::content(root, reason, "give one label per picture, in the order of their paths"));
        }
        let labels = labels.map(Vec::into_iter);
        Ok(Self { root: root.to_owned(), files: files.into_iter(), count, labels })
    }

    fn class_of(&self, file: &Path) -> Option<Label> {
        let mut parts = file.strip_prefix(&self.root).ok()?.components();
        let first = parts.next()?;
        // With only one part the file lies in the folder itself.
        parts.next().map(|_| Label::Name(first.as_os_str().to_string_lossy().into_owned()))
    }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let fault = |source| SourceError::io(folder, source);
    if depth == 0 {
        let reason = format!("folders are nested more than {DEPTH_MAX} deep");
        return Err(SourceError::content(folder, reason, "flatten them"));
    }
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if path.is_dir() {
            collect(&path, depth - 1, files)?;
        } else if content_type(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}

fn content_type(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "jpg" | "jpeg" => Some("image/jpeg"),
        "png" => Some("image/png"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

impl Iterator for Folder {
    type Item = Result<Picture, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let file = self.files.next()?;
        let label = match &mut self.labels {
            Some(labels) => labels.next(),
            None => self.class_of(&file),
        };
        let name = file.strip_prefix(&self.root).unwrap_or(&file).display().to_string();
        let content_type = content_type(&file).unwrap_or_default().to_owned();
        let bytes = std::fs::read(&file).map_err(|source| SourceError::io(&file, source));
        Some(bytes.map(|bytes| Picture { name, bytes, content_type, label }))
    }
}

impl FrameSource for Folder {
    fn frames(&self) -> Option<u64> {
        Some(self.count)
    }
}
