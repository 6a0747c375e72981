//! The cache outside the checkout: each artifact is in a directory named by a key of its inputs.
//!
//! An artifact is made in a temporary directory next to its final place and then renamed, so
//! whatever is found under a key is complete. A lock per artifact keeps two runs from making it
//! twice.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::stages::Stages;

/// How many artifacts of one kind are kept, the most recently used ones.
const KEEP: usize = 4;
/// How many artifacts of small kinds are kept: a run builds modules for every kernel it boots, and
/// several checkouts may share the cache.
const KEEP_SMALL: usize = 40;
const SMALL: [&str; 3] = ["drift", "modules", "program-"];

#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
    stages: Stages,
}

impl Cache {
    /// `$FDBOX_LAB_CACHE`, or `fdbox-lab` in the user's cache directory.
    pub(crate) fn open() -> Result<Self> {
        let root = match std::env::var_os("FDBOX_LAB_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
                (Some(dir), _) => Path::new(&dir).join("fdbox-lab"),
                (None, Some(home)) => Path::new(&home).join(".cache/fdbox-lab"),
                (None, None) => bail!("Neither HOME nor FDBOX_LAB_CACHE is set: set one"),
            },
        };
        let root = std::path::absolute(root)?;
        fs::create_dir_all(&root).with_context(|| format!("Create {}", root.display()))?;
        let stages = Stages::begin();
        Ok(Self { root, stages })
    }

    #[cfg(test)]
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            root: dir.to_owned(),
            stages: Stages::now(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The stages of this run: what was built, and what else took time.
    pub(crate) fn stages(&self) -> &Stages {
        &self.stages
    }

    /// A directory without a key: for things that are updated in place, and for logs.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("Create {}", dir.display()))?;
        Ok(dir)
    }

    /// The place of the artifact with this kind and key, once it is made.
    pub(crate) fn place(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{kind}-{}", key.0))
    }

    /// The keys of the existing artifacts of a kind.
    pub(crate) fn keys(&self, kind: &str) -> Result<Vec<Key>> {
        let prefix = format!("{kind}-");
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            keys.extend(name.strip_prefix(&prefix).and_then(Key::parse));
        }
        Ok(keys)
    }

    /// Takes the lock with this name, waiting for it if necessary; it is held until the file is
    /// closed.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let lock = self.lock_file(name)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("Lock the cache")?;
        Ok(lock)
    }

    /// Keeps an artifact from being pruned until the file is closed.
    pub(crate) fn hold(&self, kind: &str, key: &Key) -> Result<File> {
        let held = self.lock_file(&format!("{kind}-{}", key.0))?;
        rustix::fs::flock(&held, FlockOperation::LockShared).context("Lock the cache")?;
        Ok(held)
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.root.join(format!(".lock-{name}"));
        File::create(&path).context("Create a lock in the cache")
    }

    /// The artifact with this kind and key; if it is missing, `make` fills an empty directory with
    /// it.
    pub(crate) fn get(
        &self,
        kind: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.place(kind, key);
        let started = Instant::now();
        // Users of the artifact hold the lock shared, maybe for long: others that find the artifact
        // do not have to wait for it.
        let lock = self.hold(kind, key)?;
        let missing = !place.is_dir();
        if missing {
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("Lock the cache")?;
        }
        if !place.is_dir() {
            let unfinished = self.root.join(format!(".making-{kind}-{}", key.0));
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished).context("Remove an unfinished artifact")?;
            }
            fs::create_dir(&unfinished).context("Create a directory in the cache")?;
            make(&unfinished)?;
            fs::rename(&unfinished, &place).context("Put the artifact in its place")?;
            self.prune(kind, &place)?;
        }
        if missing {
            self.stages.note(kind, started);
        }
        // The directory's mtime is the time of its last use: pruning goes by it.
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &place,
            &times,
            rustix::fs::AtFlags::empty(),
        )?;
        Ok(place)
    }

    /// Removes the least recently used artifacts of `kind` that are not held.
    fn prune(&self, kind: &str, newest: &Path) -> Result<()> {
        let mut found = Vec::new();
        for key in self.keys(kind)? {
            let path = self.place(kind, &key);
            if path != newest {
                found.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        found.sort();
        let is_small = SMALL.iter().any(|small| kind.starts_with(small));
        let keep = if is_small { KEEP_SMALL } else { KEEP };
        for (_, path) in found.iter().rev().skip(keep - 1) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let lock = self.lock_file(&name)?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            fs::remove_dir_all(path).with_context(|| format!("Remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// A hash of what an artifact is made from. Parts are labelled, so that moving a byte from one part
/// to the next gives another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    const LEN: usize = 16;

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the key in the name of an artifact.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_key = text.len() == Self::LEN && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_key.then(|| Self(text.to_owned()))
    }
}

#[derive(Debug)]
pub(crate) struct KeyBuilder(Sha256);

impl KeyBuilder {
    pub(crate) fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text("recipe", recipe)
    }

    pub(crate) fn text(self, label: &str, value: &str) -> Self {
        self.bytes(label, value.as_bytes())
    }

    pub(crate) fn file(self, path: &Path) -> Result<Self> {
        let mut content = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .with_context(|| format!("Read {}", path.display()))?;
        Ok(self.bytes("file", &content))
    }

    /// Adds every file under `dir`, by name and content; build products are ignored.
    pub(crate) fn tree(mut self, dir: &Path) -> Result<Self> {
        for path in crate::files::sources(dir)? {
            let name = path
                .strip_prefix(dir)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            self = self.text("name", &name).file(&path)?;
        }
        Ok(self)
    }

    pub(crate) fn build(self) -> Key {
        let digest = self.0.finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Key(hex[..Key::LEN].to_owned())
    }

    fn bytes(mut self, label: &str, value: &[u8]) -> Self {
        for part in [label.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_part_and_its_place() {
        let key = |a, b| KeyBuilder::new("r").text("a", a).text("b", b).build();
        assert_eq!(key("x", "y"), key("x", "y"));
        assert_ne!(key("x", "y"), key("y", "x"));
        assert_ne!(key("xy", ""), key("x", "y"));
        assert_ne!(KeyBuilder::new("r").build(), KeyBuilder::new("s").build());
    }

    #[test]
    fn an_artifact_is_made_once_and_never_found_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let key = KeyBuilder::new("test").build();
        let failed = cache.get("thing", &key, |tmp| {
            fs::write(tmp.join("half"), "x")?;
            bail!("no disk")
        });
        assert!(failed.is_err());
        let place = dir.path().join(format!("thing-{}", key.as_str()));
        assert!(!place.exists());

        let made = cache
            .get("thing", &key, |tmp| Ok(fs::write(tmp.join("whole"), "x")?))
            .unwrap();
        assert!(made.join("whole").exists());
        assert!(!made.join("half").exists());
        let again = cache.get("thing", &key, |_| bail!("made twice")).unwrap();
        assert_eq!(again, made);
        let noted: Vec<_> = cache
            .stages()
            .list()
            .into_iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(noted, ["thing"], "What was made is in the table, once");
    }

    #[test]
    fn what_is_held_is_found_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let key = |n: usize| KeyBuilder::new(&n.to_string()).build();
        let place = cache.get("thing", &key(0), |_| Ok(())).unwrap();
        let held = cache.hold("thing", &key(0)).unwrap();
        // Neither waits for the holder.
        cache
            .get("thing", &key(0), |_| bail!("made twice"))
            .unwrap();
        for n in 1..KEEP + 3 {
            cache.get("thing", &key(n), |_| Ok(())).unwrap();
        }
        assert!(place.exists());
        drop(held);
        cache.get("thing", &key(KEEP + 3), |_| Ok(())).unwrap();
        assert!(!place.exists());
    }

    #[test]
    fn only_the_last_few_of_a_kind_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let make = |kind: &str, n: usize| {
            let key = KeyBuilder::new(&n.to_string()).build();
            cache.get(kind, &key, |_| Ok(())).unwrap()
        };
        let other = make("thing-else", 0);
        let places: Vec<_> = (0..KEEP + 2).map(|n| make("thing", n)).collect();
        let left = places.iter().filter(|place| place.exists()).count();
        assert_eq!(left, KEEP);
        assert!(places.last().unwrap().exists());
        assert!(other.exists());
        let small: Vec<_> = (0..KEEP_SMALL + 2).map(|n| make("modules", n)).collect();
        let left = small.iter().filter(|place| place.exists()).count();
        assert_eq!(left, KEEP_SMALL);
    }
}
