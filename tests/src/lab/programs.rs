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

/// A program, by package and name.
pub(crate) type Program = (&'static str, &'static str);

pub(crate) const INIT: Program = ("fdbox-lab", "lab-init");
pub(crate) const SCENARIOS: Program = ("fdbox-lab", "lab-scenarios");
pub(crate) const WITNESS: Program = ("fdbox-lab", "lab-witness");
pub(crate) const VMM: Program = ("vmm-example", "vmm-example");

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
        let built = Self(target.join(TARGET).join("release"));
        if programs.is_empty() {
            return Ok(built);
        }
        let mut progress = Progress::start("Programs for host and guest", None);
        for (package, program) in programs {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            cargo.current_dir(checkout).args([
                "build",
                "--release",
                "--locked",
                "--target",
                TARGET,
            ]);
            cargo
                .args(["--package", package, "--bin", program])
                .arg("--target-dir")
                .arg(&target);
            cargo.env("RUSTFLAGS", RUSTFLAGS);
            cargo
                .env_remove("CARGO_TARGET_DIR")
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
            command::counted(&mut cargo, &log, &mut progress)
                .with_context(|| format!("Build {program} (a static build needs libc6-dev)"))?;
        }
        progress.done();
        Ok(built)
    }

    pub(crate) fn path(&self, program: Program) -> PathBuf {
        self.0.join(program.1)
    }
}
