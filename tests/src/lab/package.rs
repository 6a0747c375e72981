//! Debian packages beside the toolchain, not in it: a toolchain with one package more would have
//! every kernel built again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::toolchain::Toolchain;

/// A package, unpacked into a directory of its own.
#[derive(Debug)]
pub(crate) struct Package {
    /// Debian's name of it.
    name: &'static str,
    /// Where it is to be seen in the toolchain.
    pub(crate) place: &'static str,
}

/// The program that packs the image of a kernel which is to be up soon.
pub(crate) const LZ4: Package = Package {
    name: "lz4",
    place: "/lab/lz4",
};

/// The library that the kernel's VFIO selftests read UUIDs with.
pub(crate) const UUID: Package = Package {
    name: "uuid-dev",
    place: "/lab/uuid",
};

/// The compiler of SELinux policies. Its library is in the toolchain: other packages want it, too.
pub(crate) const SECILC: Package = Package {
    name: "secilc",
    place: "/lab/secilc",
};

const FETCH: &str = "exec 2>&1; apt-get update; cd /lab/work; apt-get download \"$1\"; \
    dpkg-deb -x ./*.deb .; rm ./*.deb";

impl Package {
    /// The directory to be mounted at its place.
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
