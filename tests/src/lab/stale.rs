//! What is out of date in a copied kernel build that continues with another source.
//!
//! make compares file times, but those of two source trees are unrelated: the unpatched files are
//! older than any object, and patched ones may be older than objects that were built later from
//! unpatched ones. Therefore everything built from a changed file is removed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// The start of 2026, as time since 1970.
const BEFORE_ANY_BUILD: Duration = Duration::from_secs(1_767_225_600);
/// The path of the source during the build.
pub(crate) const SOURCE: &str = "/lab/linux";

/// The kernel's files that these patches change, add or remove.
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

/// Makes these files older than any object.
pub(crate) fn backdate(source: &Path, files: &[String]) -> Result<()> {
    for name in files {
        let path = source.join(name.trim_start_matches(SOURCE).trim_start_matches('/'));
        let file = match File::options().write(true).open(&path) {
            Ok(file) => file,
            // A patch removed the file.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("Open {}", path.display())),
        };
        file.set_modified(SystemTime::UNIX_EPOCH + BEFORE_ANY_BUILD)
            .with_context(|| format!("Set the time of {}", path.display()))?;
    }
    Ok(())
}

/// How many object files a build has, and how many of them were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub objects: u64,
    pub of: u64,
}

impl Lost {
    /// Of the `lines` that a full build prints, roughly the number for the removed objects.
    pub(crate) fn share(self, lines: u64) -> u64 {
        lines * self.objects / self.of.max(1)
    }
}

/// Removes from the build in `objects` everything made from any of these files. Kbuild records the
/// inputs of each file it makes in `.NAME.cmd` next to it.
pub(crate) fn remove(objects: &Path, changed: &[String]) -> Result<Lost> {
    let mut lost = Lost::default();
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let below = remove(&entry.path(), changed)?;
            lost.objects += below.objects;
            lost.of += below.of;
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
        if !made.exists() {
            continue;
        }
        let is_object = u64::from(made.extension().is_some_and(|extension| extension == "o"));
        lost.of += is_object;
        if note.split_whitespace().any(is_changed) {
            fs::remove_file(&made).with_context(|| format!("Remove {}", made.display()))?;
            lost.objects += is_object;
        }
    }
    Ok(lost)
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
        // A recorded file that does not exist is not an error.
        fs::write(mm.join(".gone.o.cmd"), "/lab/linux/mm/a.h").unwrap();
        // Files other than objects do not matter to the build.
        fs::write(mm.join("a.i"), "").unwrap();
        fs::write(mm.join(".a.i.cmd"), "/lab/linux/mm/a.h").unwrap();
        let lost = remove(dir.path(), &["/lab/linux/mm/a.h".into()]).unwrap();
        assert_eq!(lost, Lost { objects: 1, of: 2 });
        assert_eq!(lost.share(3000), 1500);
        assert!(!mm.join("a.o").exists());
        assert!(!mm.join("a.i").exists());
        assert!(mm.join("b.o").exists());
    }
}
