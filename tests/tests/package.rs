//! The dependencies of the workspace, and the contents of the library's package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    let output = cargo.current_dir(root).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn metadata() -> Value {
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ];
    serde_json::from_str(&cargo(&arguments)).unwrap()
}

/// The licences that deny.toml allows.
fn allowed() -> BTreeSet<String> {
    let deny = include_str!("../../deny.toml");
    let list = deny.split_once("allow = [").unwrap().1;
    let list = list.split_once(']').unwrap().0;
    let quoted = list.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// Whether all licences of some choice allowed by an expression are permitted.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    let one = |all: &str| all.split(" OR ").any(|name| allowed.contains(name.trim()));
    plain.split(" AND ").all(one)
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed_and_comes_from_the_registry() {
    let (metadata, allowed) = (metadata(), allowed());
    assert!(allowed.len() >= 5 && !is_allowed("GPL-2.0-only", &allowed));
    assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    for package in packages {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{name}: {licence:?}");
        if let Some(source) = package["source"].as_str() {
            assert!(source.starts_with("registry+"), "{name}: {source}");
        }
    }
}

#[test]
fn the_library_depends_on_nothing_twice() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let nodes: BTreeMap<&str, &Value> = nodes
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let packages = metadata["packages"].as_array().unwrap();
    let id_of = |name: &str| {
        let package = packages.iter().find(|package| package["name"] == name);
        package.unwrap()["id"].as_str().unwrap()
    };
    let mut open = vec![id_of("vmm-fdbox")];
    let mut seen = BTreeSet::new();
    // Build dependencies of macros are not part of the library.
    let is_macro = |id: &str| {
        let package = packages.iter().find(|package| package["id"] == id).unwrap();
        let mut targets = package["targets"].as_array().unwrap().iter();
        targets.any(|target| target["kind"][0] == "proc-macro")
    };
    while let Some(id) = open.pop() {
        if seen.insert(id) && !is_macro(id) {
            let normal = |dep: &&Value| {
                let kinds = dep["dep_kinds"].as_array().unwrap();
                kinds.iter().any(|kind| kind["kind"].is_null())
            };
            let deps = nodes[id]["deps"].as_array().unwrap().iter();
            open.extend(deps.filter(normal).map(|dep| dep["pkg"].as_str().unwrap()));
        }
    }
    let mut names = BTreeSet::new();
    for package in packages
        .iter()
        .filter(|p| seen.contains(p["id"].as_str().unwrap()))
    {
        assert!(
            names.insert(package["name"].as_str()),
            "{} twice",
            package["name"]
        );
    }
    assert!((5..40).contains(&names.len()), "{names:?}");
}

/// Builds the package like a user who downloaded it: from its own files alone.
#[test]
fn the_package_builds_and_its_tests_pass() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let into = format!("--target-dir={}", dir.display());
    cargo(&[
        "package",
        "-p",
        "vmm-fdbox",
        "--no-verify",
        "--allow-dirty",
        "--offline",
        "--quiet",
        &into,
    ]);
    let version = env!("CARGO_PKG_VERSION");
    // With new times: the archive's are old, and in a target directory in use cargo would take
    // the last run's build for this one.
    let unpack = Command::new("tar")
        .arg("-xmf")
        .arg(dir.join(format!("package/vmm-fdbox-{version}.crate")))
        .arg("-C")
        .arg(dir)
        .status();
    assert!(unpack.unwrap().success());
    let manifest = dir.join(format!("vmm-fdbox-{version}/Cargo.toml"));
    // Its dependencies are already built.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    cargo(&[
        "test",
        "--manifest-path",
        manifest.to_str().unwrap(),
        "--all-features",
        "--locked",
        "--offline",
        "--quiet",
        "--target-dir",
        target.to_str().unwrap(),
    ]);
}

#[test]
fn the_package_has_what_its_readers_and_its_tests_need() {
    let list = cargo(&[
        "package",
        "-p",
        "vmm-fdbox",
        "--list",
        "--allow-dirty",
        "--offline",
    ]);
    let files: BTreeSet<&str> = list.lines().collect();
    for file in [
        "LICENSE",
        "README.md",
        "docs/integrating.md",
        "tests/golden/member-1.jsonl",
    ] {
        assert!(files.contains(file), "{file} is missing");
    }
    for test in ["tests/header.rs", "tests/module.rs"] {
        assert!(!files.contains(test), "{test} needs the module's sources");
    }
    // Files of the repository that its sources read are in it, under the same name.
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../vmm-fdbox"));
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let source = std::fs::read_to_string(folder.join(file)).unwrap();
        for read in source.split("env!(\"CARGO_MANIFEST_DIR\"), \"/").skip(1) {
            let path = read.split('"').next().unwrap();
            assert!(
                files.contains(path),
                "{file} reads {path}, which is not in the package"
            );
        }
    }
}
