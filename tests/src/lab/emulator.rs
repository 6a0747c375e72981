//! QEMU: the toolchain's, or one of two others.
//!
//! - Hosts behind AMD-Vi have a newer one: of that IOMMU the toolchain's logs no event, and takes a device behind a
//!   port for one of the first bus.
//! - Hosts with guests that have several CPUs, or count instructions, have one that is built from Debian's source with
//!   the patches in `tests/qemu`: guests and such hosts crash with the others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fdbox_lab::scenario::Devices;

use crate::cache::KeyBuilder;
use crate::command;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::toolchain::SUITE;
use crate::tsc::Clocks;

/// What is in the newer one's directory.
const PACKAGES: &[&str] = &[
    "qemu-system-common",
    "qemu-system-data",
    "qemu-system-x86",
    "seabios",
];
const PROGRAM: &str = "qemu-system-x86_64";
/// Where another one is mounted in the toolchain.
const PLACE: &str = "/lab/qemu";
/// Where there is firmware, in the root of a Debian system.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// Arguments: the suite, packages. Whatever else they need is in the toolchain.
const FETCH: &str = r#"
exec 2>&1
suite=$1; shift
apt-get update
cd /lab/work
apt-get -o APT::Default-Release="$suite" download "$@"
for deb in ./*.deb; do dpkg-deb -x "$deb" root; rm "$deb"; done
"#;

/// The QEMU that emulates a machine.
#[derive(Debug, Clone, Default)]
pub(crate) enum Emulator {
    #[default]
    Toolchain,
    /// The root of a system with the newer one.
    Newer(PathBuf),
    /// The folder of the one with patches. Its firmware is the toolchain's.
    Patched(PathBuf),
}

/// What of a machine decides about its emulator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) devices: Devices,
    pub(crate) has_guests: bool,
    pub(crate) cpus: u32,
    pub(crate) clocks: Clocks,
}

impl Traits {
    fn needs_patches(self) -> bool {
        self.has_guests && (self.cpus > 1 || self.clocks == Clocks::Instructions)
    }
}

impl Emulator {
    /// The one for such a machine. Neither of the others has a fixed version: each stays until the cache has forgotten
    /// it.
    pub(crate) fn get(lab: &Lab, traits: Traits) -> Result<Self> {
        Ok(match traits {
            _ if traits.devices.iommu().is_amd_vi() => Self::Newer(newer(lab)?),
            _ if traits.needs_patches() => Self::Patched(patched(lab)?),
            _ => Self::Toolchain,
        })
    }

    /// Its program in the toolchain, with the first arguments.
    pub(crate) fn words(&self) -> Vec<String> {
        let (program, root) = match self {
            Self::Toolchain => return vec![PROGRAM.to_owned()],
            Self::Newer(_) => (format!("{PLACE}/usr/bin/{PROGRAM}"), PLACE),
            Self::Patched(_) => (format!("{PLACE}/{PROGRAM}"), ""),
        };
        let firmware = FIRMWARE.iter();
        let firmware = firmware.flat_map(|path| ["-L".to_owned(), format!("{root}/{path}")]);
        std::iter::once(program).chain(firmware).collect()
    }

    /// What has to be mounted in the toolchain for it.
    pub(crate) fn mount(&self) -> Option<(&Path, &'static str)> {
        match self {
            Self::Toolchain => None,
            Self::Newer(dir) | Self::Patched(dir) => Some((dir, PLACE)),
        }
    }
}

fn newer(lab: &Lab) -> Result<PathBuf> {
    let suite = format!("{SUITE}-backports");
    let key = KeyBuilder::new("qemu 1")
        .text("suite", &suite)
        .text("packages", &PACKAGES.join(","))
        .build();
    let fetch = |dir: &Path| {
        let log = lab.cache.dir("logs")?.join("qemu-backports.log");
        let progress = Progress::start("QEMU for AMD-Vi", None);
        let mut sh = lab.toolchain.throwaway(&[(dir, "/lab/work")], "sh");
        sh.args(["-ec", FETCH, "sh", &suite]).args(PACKAGES);
        command::logged(&mut sh, &log, |_| {})
            .with_context(|| format!("Get {PROGRAM} of {suite}"))?;
        progress.done();
        Ok(())
    };
    Ok(lab.cache.get("qemu-backports", &key, fetch)?.join("root"))
}

fn patched(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.checkout.join("tests/qemu");
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(&folder)?.collect();
    let mut files: Vec<_> = entries?.iter().map(std::fs::DirEntry::path).collect();
    files.sort();
    let mut key = KeyBuilder::new("patched qemu 1").text("toolchain", lab.toolchain.key().as_str());
    for file in &files {
        key = key.file(file)?;
    }
    let build = |dir: &Path| {
        let log = lab.cache.dir("logs")?.join("qemu.log");
        let progress = Progress::start("QEMU with patches", None);
        let mounts = [(dir, "/lab/work"), (folder.as_path(), PLACE)];
        let mut sh = lab.toolchain.throwaway(&mounts, "sh");
        sh.arg(format!("{PLACE}/build"));
        command::logged(&mut sh, &log, |_| {}).context("Build QEMU with tests/qemu")?;
        progress.done();
        Ok(())
    };
    Ok(lab.cache.get("qemu", &key.build(), build)?.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_one_is_where_it_is_mounted() {
        assert_eq!(Emulator::Toolchain.words(), [PROGRAM]);
        assert_eq!(Emulator::Toolchain.mount(), None);
        let newer = Emulator::Newer("/cache/root".into());
        let (from, to) = newer.mount().unwrap();
        assert_eq!(from, Path::new("/cache/root"));
        let words = newer.words();
        let paths: Vec<_> = words.iter().filter(|word| *word != "-L").collect();
        assert_eq!(paths.len(), 1 + FIRMWARE.len());
        assert!(paths.iter().all(|path| path.starts_with(to)), "{words:?}");
        let patched = Emulator::Patched("/cache/bin".into()).words();
        assert_eq!(patched[0], format!("{PLACE}/{PROGRAM}"));
        assert_eq!(patched[2], "/usr/share/qemu");
    }

    #[test]
    fn patches_are_for_guests_whose_host_has_more_than_one_cpu_or_counts() {
        let plain = Traits {
            devices: Devices::None,
            has_guests: true,
            cpus: 1,
            clocks: Clocks::Time,
        };
        assert!(!plain.needs_patches());
        assert!(Traits { cpus: 2, ..plain }.needs_patches());
        let counts = Traits {
            clocks: Clocks::Instructions,
            ..plain
        };
        assert!(counts.needs_patches());
        let without = Traits {
            cpus: 4,
            has_guests: false,
            ..plain
        };
        assert!(!without.needs_patches());
    }
}
