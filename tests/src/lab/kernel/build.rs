//! The build of a kernel: first its configuration, then its image and its modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::predecessor::Predecessor;
use super::{Flavour, Kernel, Kernels, distribution};
use crate::progress::Progress;
use crate::source::Source;
use crate::stale::{self, Lost};
use crate::{command, kconfig, package};

/// The number of lines that a build prints: in total, for all objects and archives, and for what is
/// always rebuilt. Only for the progress bar.
const LINES_FULL: u64 = 2790;
const LINES_OBJECTS: u64 = 2560;
const LINES_LINK: u64 = 70;

/// Debian's configuration takes many more lines, and nobody has counted them.
fn lines(flavour: Flavour) -> Option<u64> {
    (flavour != Flavour::Distribution).then_some(LINES_FULL)
}

/// What the build of a kernel starts from.
pub(super) enum Start<'a> {
    Nothing,
    Base(&'a Kernel),
    Predecessor(Predecessor),
}

impl Start<'_> {
    fn is_predecessor(&self) -> bool {
        matches!(self, Self::Predecessor(_))
    }
}

/// A kernel that is being built.
pub(super) struct Build<'a> {
    kernels: &'a Kernels<'a>,
    flavour: Flavour,
    source: &'a Source,
    start: Start<'a>,
    /// Where it is built; its objects are in `obj`.
    dir: &'a Path,
    obj: PathBuf,
    log: PathBuf,
    lz4: Option<PathBuf>,
    progress: Progress,
}

impl<'a> Build<'a> {
    pub(super) fn new(
        kernels: &'a Kernels<'a>,
        flavour: Flavour,
        source: &'a Source,
        start: Start<'a>,
        dir: &'a Path,
    ) -> Result<Self> {
        let name = flavour.name();
        let (cache, toolchain) = (kernels.cache, kernels.toolchain);
        let lz4 = match flavour {
            Flavour::Fast => Some(package::LZ4.get(cache, toolchain)?),
            _ => None,
        };
        Ok(Self {
            kernels,
            flavour,
            source,
            start,
            dir,
            obj: dir.join("obj"),
            log: cache.dir("logs")?.join(format!("kernel-{name}.log")),
            lz4,
            progress: Progress::start(&format!("Kernel {name}"), lines(flavour)),
        })
    }

    pub(super) fn all(mut self) -> Result<()> {
        self.configure()?;
        self.run(
            "make -C /lab/linux O=/lab/obj LOCALVERSION=\"$1\" LZ4=\"$2\" -j\"$(nproc)\" \
             bzImage modules",
        )
        .with_context(|| format!("Build the kernel {}", self.flavour.name()))?;
        let (obj, dir) = (&self.obj, self.dir);
        fs::copy(obj.join("arch/x86/boot/bzImage"), dir.join("bzImage"))?;
        fs::copy(obj.join("System.map"), dir.join("System.map"))?;
        self.progress.done();
        Ok(())
    }

    /// Makes the configuration, which has to have every option that is requested.
    fn configure(&mut self) -> Result<()> {
        let own_options = !self.flavour.has_options_of_base();
        let lost = self.copy_objects()?;
        if let Some(lost) = lost.filter(|_| !own_options || self.start.is_predecessor()) {
            self.progress.expect(lost.share(LINES_OBJECTS) + LINES_LINK);
        }
        let fragment = self.dir.join("fragment");
        fs::write(&fragment, self.kernels.fragment(self.flavour)?)?;
        let config = self.obj.join(".config");
        if matches!(self.start, Start::Nothing) {
            match self.flavour {
                Flavour::Distribution => {
                    fs::copy(distribution::config(self.kernels)?, &config)?;
                }
                _ => self.run("make -C /lab/linux O=/lab/obj tinyconfig")?,
            }
        }
        if own_options {
            self.run(
                "cd /lab/obj; \
                 KCONFIG_CONFIG=/lab/obj/.config /lab/linux/scripts/kconfig/merge_config.sh \
                 -m -O /lab/obj /lab/obj/.config /lab/work/fragment",
            )?;
        }
        self.run("make -C /lab/linux O=/lab/obj olddefconfig")?;
        check_options(&fragment, &config)
    }

    /// The same alone, without the start of a build.
    pub(super) fn configuration(mut self) -> Result<()> {
        self.configure()?;
        self.progress.done();
        Ok(())
    }

    fn run(&mut self, script: &str) -> Result<()> {
        let mut mounts = vec![
            (self.source.dir.as_path(), "/lab/linux"),
            (self.obj.as_path(), "/lab/obj"),
            (self.dir, "/lab/work"),
        ];
        mounts.extend(self.lz4.as_deref().map(|dir| (dir, package::LZ4.place)));
        let mut sh = self.kernels.toolchain.command(&mounts, "sh");
        let script = format!("exec 2>&1; {script}");
        let version = format!("-{}", self.flavour.name());
        let lz4 = format!("{}/usr/bin/lz4", package::LZ4.place);
        sh.args(["-ec", &script, "sh", &version, &lz4]);
        sh.envs([("KBUILD_BUILD_USER", "lab"), ("KBUILD_BUILD_HOST", "lab")]);
        sh.env("KBUILD_BUILD_TIMESTAMP", "2026-01-01");
        sh.envs(self.flavour.environment().iter().copied());
        command::counted(&mut sh, &self.log, &mut self.progress)
    }

    /// Copies another kernel's objects, except those that are out of date for this one. Returns how
    /// many those are.
    fn copy_objects(&self) -> Result<Option<Lost>> {
        let (from, changed) = match &self.start {
            Start::Nothing => {
                fs::create_dir(&self.obj)?;
                return Ok(None);
            }
            Start::Base(base) if base.source == self.source.dir => (&base.dir, Vec::new()),
            Start::Base(base) => {
                let patches = self.kernels.patch_files()?;
                (&base.dir, stale::changed(&patches)?)
            }
            Start::Predecessor(predecessor) => {
                (&predecessor.dir, predecessor.changed(&self.source.dir)?)
            }
        };
        let mut cp = Command::new("cp");
        cp.args(["-a", "--reflink=auto"])
            .arg(from.join("obj"))
            .arg(&self.obj);
        command::logged(&mut cp, &self.log, |_| {}).context("Copy the kernel's objects")?;
        let lost = stale::remove(&self.obj, &changed)
            .context("Remove the objects that are out of date")?;
        Ok(Some(lost))
    }
}

/// Every requested option must be in the configuration.
fn check_options(fragment: &Path, config: &Path) -> Result<()> {
    let missing = kconfig::missing(&fs::read_to_string(fragment)?, &fs::read_to_string(config)?);
    if !missing.is_empty() {
        bail!(
            "The kernel does not take these options: {}",
            missing.join(" ")
        );
    }
    Ok(())
}
