//! Debian's configuration of its own kernel, of the version that the lab builds.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Kernels;
use crate::cache::KeyBuilder;
use crate::command;
use crate::debian::field;
use crate::progress::Progress;

/// What the name of the package of the sources begins with, and that of the package of the configurations.
const SOURCES: &str = "linux-source-";
const CONFIGURATIONS: &str = "linux-config-";

/// Arguments: the package of the configurations, and its version.
const FETCH: &str = r#"
exec 2>&1
apt-get update
cd /lab/work
apt-get download "$1=$2" || apt-get download "$1"
dpkg-deb -x ./*.deb deb
xz -dc "deb/usr/src/$1/config.amd64_none_amd64.xz" >config
rm -r deb ./*.deb
"#;

/// The file with the configuration.
pub(super) fn config(kernels: &Kernels<'_>) -> Result<PathBuf> {
    let pin = fs::read_to_string(kernels.config.with_file_name("version"))?;
    let pinned = |name| field(&pin, name).with_context(|| format!("kernel/version has no {name}="));
    let (sources, version) = (pinned("package")?, pinned("version")?);
    let package = sources.replace(SOURCES, CONFIGURATIONS);
    let key = KeyBuilder::new("configuration 1")
        .text("package", &package)
        .text("version", version)
        .build();
    let dir = kernels.cache.get("configuration", &key, |dir| {
        let log = kernels.cache.dir("logs")?.join("configuration.log");
        let progress = Progress::start("Debian's configuration", None);
        let mut sh = kernels.toolchain.throwaway(&[(dir, "/lab/work")], "sh");
        sh.args(["-ec", FETCH, "sh", &package, version]);
        command::logged(&mut sh, &log, |_| {}).with_context(|| format!("Get {package}"))?;
        progress.done();
        Ok(())
    })?;
    Ok(dir.join("config"))
}
