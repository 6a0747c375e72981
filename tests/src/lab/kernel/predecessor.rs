//! The most recent kernel with the same options that was built from other patches.
//!
//! A changed patch affects a few files. The debug kernel shares no objects with any other kernel,
//! so without its predecessor each change of a patch would require a full build.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::debian::field;
use crate::source::Source;

/// The file in a kernel's directory that records what it was built from.
const BUILT_FROM: &str = "built-from";
/// The file next to a patched source that lists the files changed by the patches.
const TOUCHED: &str = "touched";

/// A kernel to start from.
pub(super) struct Predecessor {
    /// Its directory in the cache.
    pub dir: PathBuf,
    /// The source it was built from.
    source: PathBuf,
    /// Protects the kernel and its source from pruning while they are copied.
    _held: [File; 2],
}

/// Records what a kernel was built from: `recipe` is the key without the patches.
pub(super) fn note(dir: &Path, recipe: &Key, source: &Source) -> Result<()> {
    let note = format!(
        "recipe={}\nsource={}\n",
        recipe.as_str(),
        source.key.as_str()
    );
    fs::write(dir.join(BUILT_FROM), note).context("Note what the kernel was built from")
}

/// Records which files the patches of a patched source change.
pub(super) fn note_touched(source: &Path, files: &[String]) -> Result<()> {
    fs::write(source.with_file_name(TOUCHED), files.join("\n")).context("Note what is patched")
}

/// The most recently used kernel of this kind and recipe whose source still exists.
pub(super) fn find(cache: &Cache, kind: &str, recipe: &Key) -> Result<Option<Predecessor>> {
    let mut found = Vec::new();
    for key in cache.keys(kind)? {
        let dir = cache.place(kind, &key);
        let Ok(note) = fs::read_to_string(dir.join(BUILT_FROM)) else {
            continue;
        };
        if field(&note, "recipe") != Some(recipe.as_str()) {
            continue;
        }
        let Some(patched) = field(&note, "source").and_then(Key::parse) else {
            continue;
        };
        let source = cache.place("patched", &patched).join("linux");
        if source.with_file_name(TOUCHED).is_file() {
            let used = fs::metadata(&dir)?.modified()?;
            found.push((used, dir, source, key, patched));
        }
    }
    let Some((_, dir, source, key, patched)) = found.into_iter().max_by_key(|found| found.0) else {
        return Ok(None);
    };
    let _held = [cache.hold(kind, &key)?, cache.hold("patched", &patched)?];
    // It may have been pruned before it was held.
    let is_there = dir.is_dir() && source.is_dir();
    Ok(is_there.then_some(Predecessor { dir, source, _held }))
}

impl Predecessor {
    /// The files of `source` that differ from the predecessor's, by the names that kbuild uses.
    pub(super) fn changed(&self, source: &Path) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for tree in [&*self.source, source] {
            let touched = fs::read_to_string(tree.with_file_name(TOUCHED));
            let touched = touched.context("Read what is patched")?;
            names.extend(touched.lines().map(str::to_owned));
        }
        let content = |tree: &Path, name: &str| {
            let file = name.trim_start_matches(crate::stale::SOURCE);
            fs::read(tree.join(file.trim_start_matches('/'))).ok()
        };
        let differs = |name: &String| content(&self.source, name) != content(source, name);
        Ok(names.into_iter().filter(differs).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    fn key(of: &str) -> Key {
        KeyBuilder::new(of).build()
    }

    /// A patched source in the cache, with these files.
    fn source(cache: &Cache, of: &str, files: &[(&str, &str)]) -> Source {
        let place = cache.get("patched", &key(of), |dir| {
            for (name, content) in files {
                let path = dir.join("linux").join(name);
                fs::create_dir_all(path.parent().unwrap())?;
                fs::write(path, content)?;
            }
            let names: Vec<_> = files
                .iter()
                .map(|(name, _)| format!("/lab/linux/{name}"))
                .collect();
            note_touched(&dir.join("linux"), &names)
        });
        Source {
            dir: place.unwrap().join("linux"),
            key: key(of),
        }
    }

    #[test]
    fn only_what_the_patches_make_differ_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let old = source(
            &cache,
            "old",
            &[("mm/a.c", "1"), ("mm/b.c", "1"), ("mm/gone.c", "1")],
        );
        let new = source(
            &cache,
            "new",
            &[("mm/a.c", "1"), ("mm/b.c", "2"), ("mm/new.h", "1")],
        );
        cache
            .get("kernel-x", &key("k"), |dir| note(dir, &key("r"), &old))
            .unwrap();
        let found = find(&cache, "kernel-x", &key("r")).unwrap().unwrap();
        let expected = [
            "/lab/linux/mm/b.c",
            "/lab/linux/mm/gone.c",
            "/lab/linux/mm/new.h",
        ];
        assert_eq!(found.changed(&new.dir).unwrap(), expected);
    }

    #[test]
    fn a_kernel_of_other_options_or_without_its_source_is_none_to_go_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let gone = Source {
            dir: PathBuf::new(),
            key: key("gone"),
        };
        let old = source(&cache, "old", &[("mm/a.c", "1")]);
        for (of, recipe, source) in [("k1", "r1", &gone), ("k2", "r2", &old)] {
            cache
                .get("kernel-x", &key(of), |dir| note(dir, &key(recipe), source))
                .unwrap();
        }
        for (recipe, is_found) in [("r1", false), ("r2", true), ("r3", false)] {
            let found = find(&cache, "kernel-x", &key(recipe)).unwrap();
            assert_eq!(found.is_some(), is_found, "{recipe}");
        }
    }
}
