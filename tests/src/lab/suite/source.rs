//! Tests that need no host: formatting, lints, unit tests, and the kernel's own style checks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Suite;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::{command, files};

/// The tests of the crates.
pub(super) fn workspace(suite: &mut Suite<'_>) {
    suite.check("source/rustfmt", |lab| {
        cargo(lab, "rustfmt", &["fmt", "--all", "--check"])
    });
    suite.check("source/clippy", |lab| {
        let arguments = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        cargo(lab, "clippy", &arguments)
    });
    suite.check("source/rustdoc", |lab| {
        let arguments = [
            "--config",
            "build.rustdocflags=['-Dwarnings']",
            "doc",
            "--package",
            "vmm-fdbox",
            "--no-deps",
            "--all-features",
            "--locked",
        ];
        cargo(lab, "rustdoc", &arguments)
    });
    suite.check("source/unit-tests", |lab| {
        cargo(
            lab,
            "unit-tests",
            &["test", "--workspace", "--locked", "--quiet"],
        )
    });
}

/// The tests of the module, which need its kernels.
pub(super) fn module(suite: &mut Suite<'_>) {
    suite.check("module/rustfmt", module_rustfmt);
    suite.check("module/checkpatch", module_checkpatch);
    suite.check("module/build", |lab| {
        let kernels = lab.kernels()?;
        for flavour in [Flavour::Stock, Flavour::A, Flavour::B] {
            lab.modules(&kernels.get(flavour)?)?.no_warnings()?;
        }
        Ok(())
    });
    suite.check("module/drift", super::drift::does_not_build);
    suite.check("module/noinit", super::noinit::survives_overlap);
}

fn cargo(lab: &Lab, what: &str, arguments: &[&str]) -> Result<()> {
    let log = lab.fresh_log(what)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&lab.checkout).args(arguments);
    // Set by `cargo lab` itself, for this crate: it would cause everything to be rebuilt.
    cargo.env_remove("CARGO_MANIFEST_DIR");
    command::logged(&mut cargo, &log, |_| {})
}

/// The files of kmod/ with one of these extensions, as paths in kmod/.
fn kmod_files(lab: &Lab, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let kmod = lab.checkout.join("kmod");
    let mut found = Vec::new();
    for path in files::sources(&kmod)? {
        let name = path.to_string_lossy();
        if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path.strip_prefix(&kmod)?.to_owned());
        }
    }
    if found.is_empty() {
        bail!("kmod/ has no files that end in {}", endings.join(" or "));
    }
    Ok(found)
}

/// The kernel's formatting rules, checked with the kernel's rustfmt configuration.
fn module_rustfmt(lab: &Lab) -> Result<()> {
    let log = lab.fresh_log("module-rustfmt")?;
    let source = lab.kernels()?.source.dir;
    let kmod = lab.checkout.join("kmod");
    let mounts = [
        (kmod.as_path(), "/lab/kmod"),
        (source.as_path(), "/lab/linux"),
    ];
    let mut sh = lab.toolchain.command(&mounts, "sh");
    let script = "exec 2>&1; cd /lab/kmod; \
        rustfmt --check --config-path /lab/linux/.rustfmt.toml --edition 2021 \"$@\"";
    sh.args(["-ec", script, "sh"])
        .args(kmod_files(lab, &[".rs"])?);
    command::logged(&mut sh, &log, |_| {}).context("rustfmt on kmod/")
}

/// Checks that checkpatch is told to skip, and why.
const CHECKPATCH_IGNORED: &[(&str, &str)] = &[
    (
        "WEAK_DECLARATION",
        "the module asks whether the kernel has what the patches add",
    ),
    ("FILE_PATH_CHANGES", "MAINTAINERS is the kernel's"),
    ("MISSING_SIGN_OFF", "only a person can sign off"),
    ("NO_AUTHOR_SIGN_OFF", "the same"),
];

/// The same for kmod/patches only.
const CHECKPATCH_IGNORED_IN_PATCHES: &[(&str, &str)] = &[
    (
        "PARENTHESIS_ALIGNMENT",
        "mm/filemap.c and its header indent the second line by tabs",
    ),
    (
        "CONST_STRUCT",
        "KVM's file operations of /dev/kvm are not const, and so their declaration is not",
    ),
];

fn module_checkpatch(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let kmod = lab.checkout.join("kmod");
    let mounts = [
        (kmod.as_path(), "/lab/kmod"),
        (kernels.source.dir.as_path(), "/lab/linux"),
    ];
    let checkpatch = |mode: &str, ignored: &[(&str, &str)], files: &[PathBuf]| {
        let log = lab.fresh_log("module-checkpatch")?;
        let mut sh = lab.toolchain.command(&mounts, "sh");
        let script = "exec 2>&1; cd /lab/kmod; \
            perl /lab/linux/scripts/checkpatch.pl --root=/lab/linux --strict --no-summary \
            --terse --show-types --ignore \"$0\" \"$@\"";
        let ignored = CHECKPATCH_IGNORED.iter().chain(ignored);
        let ignored: Vec<&str> = ignored.map(|(name, _)| *name).collect();
        sh.args(["-ec", script, &ignored.join(","), mode])
            .args(files);
        command::logged(&mut sh, &log, |_| {})
    };
    let files = kmod_files(lab, &[".c", ".h"])?;
    checkpatch("--file", &[], &files).context("checkpatch on kmod/")?;
    let patches = kernels.patch_files()?;
    let in_kmod = |path: &PathBuf| path.strip_prefix(&kmod).map(Path::to_owned);
    let patches: Vec<PathBuf> = patches.iter().map(in_kmod).collect::<Result<_, _>>()?;
    if patches.is_empty() {
        return Ok(());
    }
    checkpatch("--patch", CHECKPATCH_IGNORED_IN_PATCHES, &patches)
        .context("checkpatch on kmod/patches")
}
