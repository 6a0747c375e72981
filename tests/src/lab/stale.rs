//! What of a copied kernel build is out of date, when it goes on from another source.
//!
//! make compares times, and those of two source trees say nothing about each other: the unpatched
//! files are older than any object, and patched ones may be older than objects that were built from
//! unpatched ones later. What the changed files went into is therefore removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where kbuild saw the source.
const SOURCE: &str = "/lab/linux";

/// The files of the kernel's that these patches change, add or remove.
pub(crate) fn changed(patches: &[PathBuf]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for patch in patches {
        let text =
            fs::read_to_string(patch).with_context(|| format!("Read {}", patch.display()))?;
        let name = |line: &str| {
            let file = line.strip_prefix("--- a/").or(line.strip_prefix("+++ b/"));
            file.map(|file| format!("{SOURCE}/{file}"))
        };
        files.extend(text.lines().filter_map(name));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Removes from the build in `objects` what was made from any of these files. Kbuild keeps a note of
/// that beside each thing it makes, `.NAME.cmd`. Returns how much that was.
pub(crate) fn remove(objects: &Path, changed: &[String]) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove(&entry.path(), changed)?;
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let made = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(".cmd"));
        let Some(made) = made else { continue };
        let note = fs::read_to_string(entry.path())?;
        let made = objects.join(made);
        let is_changed = |word: &str| {
            changed
                .binary_search_by(|file| file.as_str().cmp(word))
                .is_ok()
        };
        if made.exists() && note.split_whitespace().any(is_changed) {
            fs::remove_file(&made).with_context(|| format!("Remove {}", made.display()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_what_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let patch = dir.path().join("0001-x.patch");
        let text = "Subject: x\n\n--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1 +1 @@\n-x\n+y\n\
                    --- /dev/null\n+++ b/mm/new.h\n--- a/mm/old.h\n+++ /dev/null\n";
        fs::write(&patch, text).unwrap();
        let expected = [
            "/lab/linux/mm/a.c",
            "/lab/linux/mm/new.h",
            "/lab/linux/mm/old.h",
        ];
        assert_eq!(changed(&[patch]).unwrap(), expected);
    }

    #[test]
    fn only_what_a_changed_file_went_into_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mm = dir.path().join("mm");
        fs::create_dir(&mm).unwrap();
        for (object, header) in [
            ("a.o", "/lab/linux/mm/a.h"),
            ("b.o", "/lab/linux/mm/a.h.orig"),
        ] {
            fs::write(mm.join(object), "").unwrap();
            let note = format!("deps_mm/{object} := \\\n  {header} \\\n");
            fs::write(mm.join(format!(".{object}.cmd")), note).unwrap();
        }
        // What is noted and not there is no error.
        fs::write(mm.join(".gone.o.cmd"), "/lab/linux/mm/a.h").unwrap();
        assert_eq!(
            remove(dir.path(), &["/lab/linux/mm/a.h".into()]).unwrap(),
            1
        );
        assert!(!mm.join("a.o").exists());
        assert!(mm.join("b.o").exists());
    }
}
