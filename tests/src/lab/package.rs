//! Debian packages in addition to the toolchain, not in it: adding a package to the toolchain would
//! require every kernel to be rebuilt.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::toolchain::Toolchain;

/// A package, unpacked into a directory of its own.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name in Debian.
    name: &'static str,
    /// Where it is mounted in the toolchain.
    pub(crate) place: &'static str,
}

/// The program that compresses the image of a kernel optimised for a short boot.
pub(crate) const LZ4: Package = Package {
    name: "lz4",
    place: "/lab/lz4",
};

/// The library that the kernel's VFIO selftests use for UUIDs.
pub(crate) const UUID: Package = Package {
    name: "uuid-dev",
    place: "/lab/uuid",
};

/// The compiler of SELinux policies. Its library is in the toolchain, because other packages need
/// it, too.
pub(crate) const SECILC: Package = Package {
    name: "secilc",
    place: "/lab/secilc",
};

const FETCH: &str = "exec 2>&1; apt-get update; cd /lab/work; apt-get download \"$1\"; \
    dpkg-deb -x ./*.deb .; rm ./*.deb";

impl Package {
    /// The directory to mount at its place.
    pub(crate) fn get(&self, cache: &Cache, toolchain: &Toolchain) -> Result<PathBuf> {
        let key = KeyBuilder::new(&format!("{} 1", self.name))
            .text("toolchain", toolchain.key().as_str())
            .build();
        cache.get(self.name, &key, |dir| self.fetch(cache, toolchain, dir))
    }

    fn fetch(&self, cache: &Cache, toolchain: &Toolchain, dir: &Path) -> Result<()> {
        let log = cache.dir("logs")?.join(format!("{}.log", self.name));
        let progress = Progress::start(self.name, None);
        let mut sh = toolchain.command(&[(dir, "/lab/work")], "sh");
        sh.args(["-ec", FETCH, "sh", self.name]);
        command::logged(&mut sh, &log, |_| {})
            .with_context(|| format!("Download {}", self.name))?;
        progress.done();
        Ok(())
    }
}

const FETCH_ALL: &str = "exec 2>&1; apt-get update; mkdir -p /lab/work/partial; apt-get install --yes \
    --no-install-recommends --download-only -o Dir::Cache::archives=/lab/work \"$@\"; rm -rf /lab/work/partial \
    /lab/work/lock";

/// Downloads packages with all that they depend on and the toolchain lacks: a directory of files
/// for dpkg. `purpose` names them in the cache.
pub(crate) fn with_dependencies(
    cache: &Cache,
    toolchain: &Toolchain,
    purpose: &str,
    packages: &[&str],
) -> Result<PathBuf> {
    let key = KeyBuilder::new(&format!("{purpose} 1"))
        .text("toolchain", toolchain.key().as_str())
        .text("packages", &packages.join(","))
        .build();
    cache.get(purpose, &key, |dir| {
        let log = cache.dir("logs")?.join(format!("{purpose}.log"));
        let progress = Progress::start(&format!("Packages for the {purpose}"), None);
        let mut sh = toolchain.throwaway(&[(dir, "/lab/work")], "sh");
        sh.args(["-ec", FETCH_ALL, "sh"]).args(packages);
        command::logged(&mut sh, &log, |_| {})
            .with_context(|| format!("Download packages for the {purpose}"))?;
        progress.done();
        Ok(())
    })
}
