//! Lays out the source package: tests/packaging/debian, the sources it installs, and the files that are already built.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, files};

/// Directories of the checkout, with their place in the source package.
const FOLDERS: [(&str, &str); 4] = [
    ("tests/packaging/debian", "debian"),
    ("tests/packaging", "packaging"),
    ("kmod", "kmod"),
    ("vmm-example/dist", "vmm-example/dist"),
];
const DOCUMENT: &str = "docs/operations.md";

/// Shells, with the place where debian/vmm-example.install expects their completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash/vmm-example"),
    ("zsh", "zsh/_vmm-example"),
    ("fish", "fish/vmm-example.fish"),
];

pub(super) fn write(checkout: &Path, vmm: &Path, tree: &Path) -> Result<()> {
    for (from, to) in FOLDERS {
        files::copy_sources(&checkout.join(from), &tree.join(to))?;
    }
    fs::create_dir_all(tree.join("docs"))?;
    fs::copy(checkout.join(DOCUMENT), tree.join(DOCUMENT))?;
    let built = tree.join("built");
    fs::create_dir_all(&built)?;
    fs::copy(vmm, built.join("vmm-example")).context("Copy the VMM")?;
    // The program runs on this machine, too.
    command::output(Command::new(vmm).arg("man").arg(built.join("man")))?;
    for (shell, place) in COMPLETIONS {
        let place = built.join("completions").join(place);
        fs::create_dir_all(place.parent().context("It is in a folder")?)?;
        let script = command::output(Command::new(vmm).args(["completions", shell]))?;
        fs::write(place, format!("{script}\n"))?;
    }
    Ok(())
}
