//! The FDBox module and its sample driver, built out of tree for one kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder};
use crate::kernel::Kernel;
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::{command, files};

/// The modules for one kernel, by path.
#[derive(Debug, Clone)]
pub(crate) struct Modules(PathBuf);

impl Modules {
    pub(crate) fn get(
        cache: &Cache,
        toolchain: &Toolchain,
        kernel: &Kernel,
        kmod: &Path,
    ) -> Result<Self> {
        let key = KeyBuilder::new("modules 3")
            .text("kernel", kernel.key.as_str())
            .tree(kmod)?
            .build();
        let dir = cache.get("modules", &key, |dir| build(toolchain, kernel, kmod, dir))?;
        Ok(Self(dir.join("ko")))
    }

    /// Fails if the compilers issued warnings.
    pub(crate) fn no_warnings(&self) -> Result<()> {
        let log = fs::read_to_string(self.0.with_file_name("build.log"))?;
        let warnings: Vec<&str> = log
            .lines()
            .filter(|line| line.to_lowercase().contains("warning"))
            .collect();
        if !warnings.is_empty() {
            bail!("The module builds with warnings:\n{}", warnings.join("\n"));
        }
        Ok(())
    }

    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        let entries: std::io::Result<Vec<_>> = fs::read_dir(&self.0)?.collect();
        let mut paths: Vec<_> = entries?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        Ok(paths)
    }
}

fn build(toolchain: &Toolchain, kernel: &Kernel, kmod: &Path, dir: &Path) -> Result<()> {
    let log = dir.join("build.log");
    let mut progress = Progress::start(&format!("Module for {}", kernel.release), Some(40));
    let work = dir.join("kmod");
    files::copy_sources(kmod, &work)?;
    let mounts = kernel.mounts();
    let mut mounts: Vec<_> = mounts
        .iter()
        .map(|(path, place)| (path.as_path(), *place))
        .collect();
    mounts.push((&work, "/lab/kmod"));
    let mut sh = toolchain.command(&mounts, "sh");
    sh.args([
        "-ec",
        "exec 2>&1; make -C /lab/obj M=/lab/kmod KMOD_SAMPLES=m -j\"$(nproc)\" modules",
    ]);
    sh.envs(kernel.environment().iter().copied());
    command::counted(&mut sh, &log, &mut progress).context("Build the module")?;

    let ko = dir.join("ko");
    fs::create_dir(&ko)?;
    let mut left = vec![work];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ko") {
                fs::copy(&path, ko.join(path.file_name().unwrap_or_default()))?;
            }
        }
    }
    progress.done();
    Ok(())
}
