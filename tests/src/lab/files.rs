//! Reads and copies the trees of a checkout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// File name endings of the products of a module build.
const BUILT: &[&str] = &[
    ".o",
    ".ko",
    ".mod",
    ".mod.c",
    ".cmd",
    ".symvers",
    ".order",
    ".rmeta",
    "_generated.rs",
];

/// The source files under `dir`, sorted: no hidden files, no build products.
pub(crate) fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("Read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || BUILT.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => left.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the source files under `from` to the same relative paths under `to`.
pub(crate) fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    for path in sources(from)? {
        let place = to.join(path.strip_prefix(from)?);
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
        }
        fs::copy(&path, &place).with_context(|| format!("Copy {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_and_hidden_files_are_no_sources() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in [
            "a.rs",
            "sub/b.c",
            "a.o",
            "a_generated.rs",
            "x.mod.c",
            ".a.o.cmd",
            "Module.symvers",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = sources(dir.path()).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|p| p.strip_prefix(dir.path()).unwrap())
            .collect();
        assert_eq!(names, [Path::new("a.rs"), Path::new("sub/b.c")]);
    }
}
