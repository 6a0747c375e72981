//! The SELinux policy of the hosts that have SELinux, compiled from `tests/kernel/selinux.cil`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::KeyBuilder;
use crate::command;
use crate::lab::Lab;
use crate::package;
use crate::progress::Progress;

/// Where it is in a host.
pub(crate) const PLACE: &str = "/etc/selinux-policy";
/// A version that all recent kernels can read.
const VERSION: &str = "33";

/// Finds it in the cache, or compiles it.
pub(crate) fn get(lab: &Lab) -> Result<PathBuf> {
    let source = lab.checkout.join("tests/kernel/selinux.cil");
    let key = KeyBuilder::new("selinux-policy 1")
        .text("toolchain", lab.toolchain.key().as_str())
        .text("version", VERSION)
        .file(&source)?
        .build();
    let dir = lab.cache.get("selinux-policy", &key, |dir| {
        let compiler = package::SECILC.get(&lab.cache, &lab.toolchain)?;
        let progress = Progress::start("SELinux policy", None);
        std::fs::copy(&source, dir.join("policy.cil")).context("Copy the policy")?;
        let mounts = [
            (compiler.as_path(), package::SECILC.place),
            (dir, "/lab/work"),
        ];
        let program = format!("{}/usr/bin/secilc", package::SECILC.place);
        let mut secilc = lab.toolchain.command(&mounts, &program);
        secilc.args(["-c", VERSION, "-f", "/dev/null", "-o", "/lab/work/policy"]);
        secilc.arg("/lab/work/policy.cil");
        command::logged(&mut secilc, &lab.fresh_log("selinux-policy")?, |_| {})
            .context("Compile tests/kernel/selinux.cil")?;
        progress.done();
        Ok(())
    })?;
    Ok(dir.join("policy"))
}
