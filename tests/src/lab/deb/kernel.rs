//! Packages of patched kernels and their headers, made by the kernel's own `bindeb-pkg`, and of the module for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{TOOLS, run_script};
use crate::cache::KeyBuilder;
use crate::kernel::{Flavour, Kernel};
use crate::lab::Lab;
use crate::{command, package};

const SCRIPT: &str = "kernel";
const MODULE: &str = "fdbox.ko";

/// The packages of a kernel, of its headers and of the module for it.
pub(super) fn packages(lab: &Lab, flavour: Flavour) -> Result<Vec<PathBuf>> {
    let kernel = lab.kernels()?.get(flavour)?;
    let entries: std::io::Result<Vec<_>> = fs::read_dir(of(lab, &kernel)?)?.collect();
    let mut paths: Vec<_> = entries?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

fn of(lab: &Lab, kernel: &Kernel) -> Result<PathBuf> {
    let modules = lab.modules(kernel)?.paths()?;
    let mut modules = modules.iter();
    let module = modules.find(|path| path.ends_with(MODULE));
    let module = module.context("There is no fdbox.ko")?;
    let script = lab.checkout.join("tests/packaging/lab").join(SCRIPT);
    let key = KeyBuilder::new("kernel package 2")
        .text("kernel", kernel.key.as_str())
        .file(module)?
        .file(&script)?
        .build();
    let kind = format!("package-of-{}", kernel.release);
    let dir = lab
        .cache
        .get(&kind, &key, |dir| make(lab, kernel, module, dir))?;
    Ok(dir.join("out"))
}

fn make(lab: &Lab, kernel: &Kernel, module: &Path, dir: &Path) -> Result<()> {
    let tools = package::with_dependencies(&lab.cache, &lab.toolchain, "packaging", TOOLS)?;
    let (objects, out) = (dir.join("obj"), dir.join("out"));
    fs::create_dir(&out)?;
    let [(source, linux), (built, obj)] = kernel.mounts();
    // `make` notes things among the objects.
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto"]).arg(built).arg(&objects);
    command::output(&mut cp).context("Copy the kernel's objects")?;
    let mounts = [
        (tools.as_path(), "/lab/debs"),
        (&source, linux),
        (&objects, obj),
        (module.parent().context("It is in a folder")?, "/lab/ko"),
        (&out, "/lab/out"),
    ];
    run_script(lab, SCRIPT, &mounts, &[env!("CARGO_PKG_VERSION")])?;
    Ok(fs::remove_dir_all(objects)?)
}
