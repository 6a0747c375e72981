//! The program `lz4`, which packs the image of a kernel that is to be up soon. It lies beside the
//! toolchain, not in it: a toolchain with one program more would have every kernel built again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::toolchain::Toolchain;

/// Where it is seen in the toolchain.
pub(crate) const PLACE: &str = "/lab/lz4";
pub(crate) const PROGRAM: &str = "usr/bin/lz4";

const FETCH: &str = "exec 2>&1; apt-get update; cd /lab/work; apt-get download lz4; \
    dpkg-deb -x ./*.deb .; rm ./*.deb";

/// The directory to be mounted at [`PLACE`].
pub(crate) fn get(cache: &Cache, toolchain: &Toolchain) -> Result<PathBuf> {
    let key = KeyBuilder::new("lz4 1")
        .text("toolchain", toolchain.key().as_str())
        .build();
    cache.get("lz4", &key, |dir| fetch(cache, toolchain, dir))
}

fn fetch(cache: &Cache, toolchain: &Toolchain, dir: &Path) -> Result<()> {
    let log = cache.dir("logs")?.join("lz4.log");
    let progress = Progress::start("lz4", None);
    let mut sh = toolchain.command(&[(dir, "/lab/work")], "sh");
    sh.args(["-ec", FETCH]);
    command::logged(&mut sh, &log, |_| {}).context("Download lz4")?;
    progress.done();
    Ok(())
}
