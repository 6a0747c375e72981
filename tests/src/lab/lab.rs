//! The basis of every command of the lab: the checkout, the cache and what is in it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, anyhow};

use crate::cache::Cache;
use crate::kernel::{Flavour, Kernel, Kernels};
use crate::machine;
use crate::module::Modules;
use crate::programs::{Program, Programs};
use crate::source::Source;
use crate::toolchain::Toolchain;

#[derive(Debug)]
pub(crate) struct Lab {
    pub cache: Cache,
    pub checkout: PathBuf,
    pub toolchain: Toolchain,
    programs: Mutex<Option<Programs>>,
    preparing: Mutex<()>,
}

impl Lab {
    /// Checks the machine, and makes the toolchain if it is missing.
    pub(crate) fn open() -> Result<Self> {
        Self::open_with(&[])
    }

    /// The same, and meanwhile builds these programs, which do not need the toolchain: making the
    /// toolchain is mostly downloading.
    pub(crate) fn open_with(needed: &[Program]) -> Result<Self> {
        machine::check()?;
        let cache = Cache::open()?;
        let checkout = checkout()?;
        let (toolchain, programs) = std::thread::scope(|scope| {
            let programs = scope.spawn(|| build(&cache, &checkout, needed));
            (Toolchain::get(&cache), programs.join())
        });
        let programs = programs.map_err(|_| anyhow!("Building programs panicked"))??;
        Ok(Self {
            toolchain: toolchain?,
            cache,
            checkout,
            programs: Mutex::new(programs),
            preparing: Mutex::default(),
        })
    }

    pub(crate) fn kernels(&self) -> Result<Kernels<'_>> {
        let kernel = self.checkout.join("tests/kernel");
        Ok(Kernels {
            cache: &self.cache,
            toolchain: &self.toolchain,
            source: Source::get(&self.cache, &self.toolchain, &kernel.join("version"))?,
            config: kernel.join("host.config"),
            patches: self.kmod().join("patches"),
        })
    }

    pub(crate) fn modules(&self, kernel: &Kernel) -> Result<Modules> {
        Modules::get(&self.cache, &self.toolchain, kernel, &self.kmod())
    }

    /// Gets a kernel, and builds its modules if they can be built.
    pub(crate) fn build(&self, flavour: Flavour) -> Result<()> {
        let kernel = self.kernels()?.get(flavour)?;
        if kernel.takes_module() {
            self.modules(&kernel)?;
        }
        Ok(())
    }

    /// Held while a host is prepared: even with several hosts at a time, builds run one at a time.
    pub(crate) fn preparing(&self) -> MutexGuard<'_, ()> {
        self.preparing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Builds these programs if they are missing. All programs in one run of the lab come from the
    /// same sources.
    pub(crate) fn programs(&self, programs: &[Program]) -> Result<Programs> {
        let mut of = self.programs.lock().unwrap_or_else(|e| e.into_inner());
        let found = match &*of {
            Some(found) => found.clone(),
            None => of
                .insert(Programs::of(&self.cache, &self.checkout)?)
                .clone(),
        };
        found.build(programs)?;
        Ok(found)
    }

    pub(crate) fn busybox(&self) -> PathBuf {
        self.toolchain.root().join("bin/busybox")
    }

    /// Creates an empty log with this name.
    pub(crate) fn fresh_log(&self, name: &str) -> Result<PathBuf> {
        let log = self.cache.dir("logs")?.join(format!("{name}.log"));
        std::fs::write(&log, "").with_context(|| format!("Write {}", log.display()))?;
        Ok(log)
    }

    fn kmod(&self) -> PathBuf {
        self.checkout.join("kmod")
    }
}

/// The checkout that this program belongs to.
pub(crate) fn checkout() -> Result<PathBuf> {
    // cargo sets the path of the crate; without cargo, it is the path at compile time.
    let tests = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let checkout = tests.parent().context("tests/ is in a checkout")?;
    Ok(checkout.to_owned())
}

/// Builds these programs, if any.
fn build(cache: &Cache, checkout: &Path, needed: &[Program]) -> Result<Option<Programs>> {
    if needed.is_empty() {
        return Ok(None);
    }
    let programs = Programs::of(cache, checkout)?;
    programs.build(needed)?;
    Ok(Some(programs))
}
