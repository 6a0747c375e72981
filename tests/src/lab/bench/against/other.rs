//! The build that this checkout's VMM is compared with: a file, or a commit, which is built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::bench::HIDES_NOTHING;

use super::super::{Bench, PROGRAM};
use crate::lab::Lab;
use crate::{command, programs};

/// Where the two builds are in the host, and where the measuring program looks for the one whose
/// turn it is.
const PLACES: [&str; 2] = ["/bin/vmm-this", "/bin/vmm-other"];
const VMM: &str = "/bin/vmm-example";

/// The other build.
#[derive(Debug, Clone)]
pub(in super::super) struct Other {
    pub(in super::super) name: String,
    pub(super) path: PathBuf,
    /// It has no `--hide-cpuid`.
    hides_nothing: bool,
}

impl Other {
    /// From a file, or from a commit, which is built.
    pub(in super::super) fn get(lab: &Lab, what: &str) -> Result<Self> {
        let path = Path::new(what);
        if path.is_file() {
            return Self::new(what, path.to_owned());
        }
        let mut git = Command::new("git");
        git.args(["rev-parse", "--verify", "--quiet"]);
        git.arg(format!("{what}^{{commit}}"));
        let commit = command::output(&mut git)
            .with_context(|| format!("{what} is neither a file nor a commit"))?;
        let commit = commit.trim().to_owned();
        let unpack = |dir: &Path| unpack(&commit, dir);
        let built = programs::of_commit(&lab.cache, &commit, unpack)?;
        Self::new(&commit[..12.min(commit.len())], built)
    }

    fn new(name: &str, path: PathBuf) -> Result<Self> {
        let help = command::output(Command::new(&path).args(["run", "--help"]))
            .with_context(|| format!("Ask {} what it can do", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            path,
            hides_nothing: !help.contains("--hide-cpuid"),
        })
    }

    /// What is set for a command that starts it, with a blank behind it.
    pub(super) fn environment(&self) -> String {
        match self.hides_nothing {
            true => format!("{HIDES_NOTHING}=1 "),
            false => String::new(),
        }
    }

    /// For each of both VMMs, what has it run next in a host that has [`files`](Self::files), and then `words` by the
    /// program that measures.
    pub(in super::super) fn turn(&self, words: &str) -> [String; 2] {
        let [this, other] = PLACES.map(|place| format!("ln -sf {place} {VMM} &&"));
        let measured = format!("{PROGRAM} bench {words}");
        [
            format!("{this} {measured}"),
            format!("{other} {}{measured}", self.environment()),
        ]
    }

    /// A host's files with both VMMs, and neither where it is looked for.
    pub(in super::super) fn files(&self, bench: &Bench<'_>) -> Result<Vec<(PathBuf, String)>> {
        let guest = bench.guest()?;
        let mut files = guest.of_stage(0);
        files.retain(|(_, place)| place != VMM);
        let both = [&guest.vmm, &self.path].into_iter().zip(PLACES);
        files.extend(both.map(|(path, place)| (path.clone(), place.to_owned())));
        files.push(bench.scenarios());
        Ok(files)
    }
}

/// Unpacks the tree of a commit into a directory. The files are new: commits are built in one target
/// directory, in which cargo takes files that are older than the last build for what was built.
fn unpack(commit: &str, dir: &Path) -> Result<()> {
    let mut git = Command::new("git")
        .args(["archive", commit])
        .stdout(Stdio::piped())
        .spawn()?;
    let archive = git.stdout.take().context("git's output")?;
    let status = Command::new("tar")
        .args(["--extract", "--touch", "--directory"])
        .arg(dir)
        .stdin(archive)
        .status()?;
    ensure!(
        git.wait()?.success() && status.success(),
        "Cannot unpack {commit}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_files_of_a_commit_are_newer_than_what_was_built_before() {
        let dir = tempfile::tempdir().unwrap();
        let before = SystemTime::now() - Duration::from_secs(1);
        unpack("HEAD", dir.path()).unwrap();
        let file = dir.path().join("Cargo.toml").metadata().unwrap();
        assert!(file.modified().unwrap() > before);
    }
}
