//! The project's programs that run in the host and the guest, linked statically.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Nothing is there to link with in a host. What a new host runs first is not relocated page by page
/// while a guest waits, and no symbols are hashed on the way into its kernel.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols";

/// A program that is built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    package: &'static str,
    name: &'static str,
    /// What it is built with that it is not by default.
    feature: Option<&'static str>,
}

const fn program(package: &'static str, name: &'static str) -> Program {
    Program {
        package,
        name,
        feature: None,
    }
}

pub(crate) const INIT: Program = program("fdbox-lab", "lab-init");
pub(crate) const SCENARIOS: Program = program("fdbox-lab", "lab-scenarios");
pub(crate) const WITNESS: Program = program("fdbox-lab", "lab-witness");
pub(crate) const VMM: Program = program("vmm-example", "vmm-example");
/// A VMM that passes for one of a later release.
pub(crate) const LATER_VMM: Program = Program {
    feature: Some("later-build"),
    ..VMM
};

impl Program {
    /// The target directory, in one for all: two builds of one program are apart.
    fn target(&self, all: &Path) -> PathBuf {
        self.feature
            .map_or_else(|| all.into(), |feature| all.join(feature))
    }
}

/// Where the built programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// Builds what changed: cargo's own business, in a target directory of this checkout's own.
    pub(crate) fn get(cache: &Cache, checkout: &Path, programs: &[Program]) -> Result<Self> {
        let key = KeyBuilder::new("target")
            .text("dir", &checkout.to_string_lossy())
            .build();
        let target = cache.dir(&format!("target-{}", key.as_str()))?;
        let log = cache.dir("logs")?.join("programs.log");
        let built = Self(target);
        if programs.is_empty() {
            return Ok(built);
        }
        let mut progress = Progress::start("Programs for host and guest", None);
        for program in programs {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            cargo.current_dir(checkout).args([
                "build",
                "--release",
                "--locked",
                "--target",
                TARGET,
            ]);
            cargo
                .args(["--package", program.package, "--bin", program.name])
                .arg("--target-dir")
                .arg(program.target(&built.0));
            cargo.args(program.feature.iter().flat_map(|it| ["--features", it]));
            cargo.env("RUSTFLAGS", RUSTFLAGS);
            cargo
                .env_remove("CARGO_TARGET_DIR")
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
            command::counted(&mut cargo, &log, &mut progress).with_context(|| {
                format!("Build {} (a static build needs libc6-dev)", program.name)
            })?;
        }
        progress.done();
        Ok(built)
    }

    pub(crate) fn path(&self, program: Program) -> PathBuf {
        let target = program.target(&self.0);
        target.join(TARGET).join("release").join(program.name)
    }
}
