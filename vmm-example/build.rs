//! Tells the program which source revision it is built from.

use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let revision = packaged().or_else(checked_out);
    // Without either, the version alone is shown.
    let shown = revision.map_or_else(String::new, |revision| format!(" ({revision})"));
    println!("cargo::rustc-env=VMM_EXAMPLE_REVISION={shown}");
}

/// The revision of a packaged crate, where cargo recorded it.
fn packaged() -> Option<String> {
    let note = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, hash) = note.split_once("\"sha1\"")?;
    short(hash.split('"').nth(1)?)
}

/// The revision of a checkout, if git is available.
fn checked_out() -> Option<String> {
    // Not that of another repository that contains this one.
    if !Path::new("../.git").exists() {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        println!("cargo::rerun-if-changed={path}");
    }
    short(&git(&["rev-parse", "HEAD"])?)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn short(hash: &str) -> Option<String> {
    let is_hash = hash.len() >= 40 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hash.then(|| hash[..12].to_owned())
}
