//! The kernels: a stock one, and two host kernels with the project's patches that differ only in
//! their version string; kernels with other configurations, one of them Debian's, or of another version; and Debian's own.
//!
//! The stock kernel is built from nothing. The others start from a copy of existing objects, so
//! that a changed patch costs only a rebuild of what it affects: the objects of the kernel that
//! they derive from, or, if they have little in common with it, those of their own predecessor.

mod build;
mod distribution;
mod flavour;
mod packaged;
mod predecessor;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::source::Source;
use crate::stale;
use crate::toolchain::Toolchain;
use build::{Build, Start};
pub(crate) use flavour::Flavour;

/// The modules enabled by modular.config, by their paths among the objects.
const MODULAR: &[&str] = &[
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-amd.ko",
    "drivers/iommu/iommufd/iommufd.ko",
    "drivers/vfio/vfio.ko",
    "drivers/vfio/pci/vfio-pci-core.ko",
    "drivers/vfio/pci/vfio-pci.ko",
];

/// A kernel that has been built.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    flavour: Flavour,
    /// Contains bzImage, System.map and obj.
    dir: PathBuf,
    /// `uname -r`.
    pub release: String,
    pub key: Key,
    source: PathBuf,
}

impl Kernel {
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("bzImage")
    }

    /// A module that belongs to the kernel, by its path among the objects.
    pub(crate) fn module(&self, path: &str) -> PathBuf {
        self.dir.join("obj").join(path)
    }

    /// The kernel's own modules that every host of this flavour has, by their paths.
    pub(crate) fn own_modules(&self) -> Result<Vec<PathBuf>> {
        match self.flavour {
            Flavour::Modular => Ok(MODULAR.iter().map(|path| self.module(path)).collect()),
            _ => self.needed_modules(),
        }
    }

    /// Those of them that a host or a guest has to load before anything else, in this order.
    pub(crate) fn needed_modules(&self) -> Result<Vec<PathBuf>> {
        match self.is_packaged() {
            true => packaged::modules(&self.dir),
            false => Ok(Vec::new()),
        }
    }

    /// Whether it is one of Debian's own, for which nothing can be built here.
    pub(crate) fn is_packaged(&self) -> bool {
        self.flavour.is_packaged()
    }

    /// Whether the module can be built for it.
    pub(crate) fn takes_module(&self) -> bool {
        self.flavour.takes_module()
    }

    /// The environment for builds against this kernel.
    pub(crate) fn environment(&self) -> &'static [(&'static str, &'static str)] {
        self.flavour.environment()
    }

    /// Where the sources and the objects are mounted in the toolchain.
    pub(crate) fn mounts(&self) -> [(PathBuf, &'static str); 2] {
        [
            (self.source.clone(), "/lab/linux"),
            (self.dir.join("obj"), "/lab/obj"),
        ]
    }
}

/// What kernels are built from.
#[derive(Debug)]
pub(crate) struct Kernels<'a> {
    pub cache: &'a Cache,
    pub toolchain: &'a Toolchain,
    pub source: Source,
    /// tests/kernel/host.config.
    pub config: PathBuf,
    /// kmod/patches.
    pub patches: PathBuf,
}

impl Kernels<'_> {
    pub(crate) fn get(&self, flavour: Flavour) -> Result<Kernel> {
        if let Some(package) = flavour.package() {
            return packaged::get(self.cache, self.toolchain, flavour, package);
        }
        let base = flavour.base().map(|base| self.get(base)).transpose()?;
        let source = match flavour {
            Flavour::Older => self.older()?,
            _ if flavour.is_patched() => self.patched()?,
            _ => self.source.clone(),
        };
        let key = self.key(flavour, &source)?;
        let recipe = self.key(flavour, &self.source)?;
        let kind = format!("kernel-{}", flavour.name());
        let dir = self.cache.get(&kind, &key, |dir| {
            let predecessor = match flavour.is_patched() && !flavour.has_options_of_base() {
                true => predecessor::find(self.cache, &kind, &recipe)?,
                false => None,
            };
            let start = match (predecessor, &base) {
                (Some(predecessor), _) => Start::Predecessor(predecessor),
                (None, Some(base)) => Start::Base(base),
                (None, None) => Start::Nothing,
            };
            Build::new(self, flavour, &source, start, dir)?.all()?;
            predecessor::note(dir, &recipe, &source)
        })?;
        let release = fs::read_to_string(dir.join("obj/include/config/kernel.release"))?;
        Ok(Kernel {
            flavour,
            dir,
            release: release.trim().to_owned(),
            key,
            source: source.dir,
        })
    }

    fn key(&self, flavour: Flavour, source: &Source) -> Result<Key> {
        let mut key = KeyBuilder::new("kernel 1")
            .text("toolchain", self.toolchain.key().as_str())
            .text("source", source.key.as_str())
            .file(&self.base_config(flavour))?
            .text("flavour", flavour.name());
        for (name, value) in flavour.environment() {
            key = key.text(name, value);
        }
        for options in self.options(flavour) {
            key = key.file(&options)?;
        }
        Ok(key.build())
    }

    /// Makes the configuration of a kernel, which has to have all that is requested, and builds nothing.
    pub(crate) fn check_configuration(&self, flavour: Flavour) -> Result<()> {
        let source = self.patched()?;
        let key = self.key(flavour, &source)?;
        self.cache.get("configured", &key, |dir| {
            Build::new(self, flavour, &source, Start::Nothing, dir)?.configuration()
        })?;
        Ok(())
    }

    /// The options that all kernels have; one with Debian's configuration has those instead.
    fn base_config(&self, flavour: Flavour) -> PathBuf {
        match flavour {
            Flavour::Distribution => self.config.with_file_name("debian.config"),
            _ => self.config.clone(),
        }
    }

    /// The source of the older version.
    fn older(&self) -> Result<Source> {
        let pin = self.config.with_file_name("older-version");
        Source::pinned(self.cache, self.toolchain, &pin)
    }

    fn options(&self, flavour: Flavour) -> impl Iterator<Item = PathBuf> {
        let names = flavour.options().iter();
        names.map(|name| self.config.with_file_name(name))
    }

    /// The options of a kernel. If an option occurs twice, the later line counts.
    fn fragment(&self, flavour: Flavour) -> Result<String> {
        let mut fragment = fs::read_to_string(self.base_config(flavour))?;
        for options in self.options(flavour) {
            fragment += &fs::read_to_string(options)?;
        }
        Ok(fragment)
    }

    /// The patches, sorted by name.
    pub(crate) fn patch_files(&self) -> Result<Vec<PathBuf>> {
        let mut patches = Vec::new();
        for entry in fs::read_dir(&self.patches).context("Read kmod/patches")? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "patch")
            {
                patches.push(path);
            }
        }
        patches.sort();
        Ok(patches)
    }

    /// The source with the patches applied. Unchanged files are shared with the original.
    fn patched(&self) -> Result<Source> {
        let patches = self.patch_files()?;
        if patches.is_empty() {
            return Ok(self.source.clone());
        }
        let mut key = KeyBuilder::new("patched 1").text("source", self.source.key.as_str());
        for patch in &patches {
            key = key.file(patch)?;
        }
        let key = key.build();
        let dir = self.cache.get("patched", &key, |dir| {
            self.apply(&patches, &dir.join("linux"))
        })?;
        Ok(Source {
            dir: dir.join("linux"),
            key,
        })
    }

    fn apply(&self, patches: &[PathBuf], dir: &Path) -> Result<()> {
        let log = self.cache.dir("logs")?.join("patch.log");
        let progress = Progress::start(&format!("Applying {} patches", patches.len()), None);
        let copy = |how: &str| {
            let mut cp = std::process::Command::new("cp");
            command::logged(
                cp.args(["-a", how]).arg(&self.source.dir).arg(dir),
                &log,
                |_| {},
            )
        };
        // Hard links if possible: `patch` replaces a file instead of writing to it.
        if copy("--link").is_err() {
            let _ = fs::remove_dir_all(dir);
            copy("--reflink=auto").context("Copy the kernel source")?;
        }
        for patch in patches {
            let file = fs::File::open(patch)?;
            let mounts = [
                (dir, "/lab/linux"),
                (self.patches.as_path(), "/lab/patches"),
            ];
            let name = patch
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let mut sh = self.toolchain.command(&mounts, "sh");
            let script = "exec 2>&1; cd /lab/linux; \
                patch -p1 --batch --forward --fuzz=0 -i \"/lab/patches/$1\"";
            command::logged(sh.args(["-ec", script, "sh", &name]), &log, |_| {})
                .with_context(|| format!("Apply kmod/patches/{name}"))?;
            drop(file);
        }
        // What is out of date in a copied build is removed from it, by content. For make no source
        // file must be newer than an object: the objects may be older than this copy of the source.
        let touched = stale::changed(patches)?;
        stale::backdate(dir, &touched)?;
        predecessor::note_touched(dir, &touched)?;
        progress.done();
        Ok(())
    }
}
