//! QEMU: the toolchain's, or a newer one for hosts behind AMD-Vi. Of that IOMMU the toolchain's logs no event, and takes
//! a device behind a port for one of the first bus.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fdbox_lab::scenario::Devices;

use crate::cache::KeyBuilder;
use crate::command;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::toolchain::SUITE;

/// What is in the newer one's directory.
const PACKAGES: &[&str] = &[
    "qemu-system-common",
    "qemu-system-data",
    "qemu-system-x86",
    "seabios",
];
const PROGRAM: &str = "qemu-system-x86_64";
/// Where the newer one is mounted in the toolchain.
const PLACE: &str = "/lab/qemu";
/// Where it has its firmware.
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
pub(crate) struct Emulator {
    /// The files of the newer one.
    newer: Option<PathBuf>,
}

impl Emulator {
    /// The one for a machine with these devices. The newer one is not pinned: it stays until the cache has forgotten it.
    pub(crate) fn get(lab: &Lab, devices: Devices) -> Result<Self> {
        if !devices.iommu().is_amd_vi() {
            return Ok(Self::default());
        }
        let suite = format!("{SUITE}-backports");
        let key = KeyBuilder::new("qemu 1")
            .text("suite", &suite)
            .text("packages", &PACKAGES.join(","));
        let dir = lab.cache.get("qemu-backports", &key.build(), |dir| {
            fetch(lab, &suite, dir)
        })?;
        Ok(Self {
            newer: Some(dir.join("root")),
        })
    }

    /// Its program in the toolchain, with the first arguments.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = match self.newer {
            Some(_) => vec![format!("{PLACE}/usr/bin/{PROGRAM}")],
            None => return vec![PROGRAM.to_owned()],
        };
        for firmware in FIRMWARE {
            words.extend(["-L".to_owned(), format!("{PLACE}/{firmware}")]);
        }
        words
    }

    /// What has to be mounted in the toolchain for it.
    pub(crate) fn mount(&self) -> Option<(&Path, &'static str)> {
        Some((self.newer.as_deref()?, PLACE))
    }
}

fn fetch(lab: &Lab, suite: &str, dir: &Path) -> Result<()> {
    let log = lab.cache.dir("logs")?.join("qemu-backports.log");
    let progress = Progress::start("QEMU for AMD-Vi", None);
    let mut sh = lab.toolchain.throwaway(&[(dir, "/lab/work")], "sh");
    sh.args(["-ec", FETCH, "sh", suite]).args(PACKAGES);
    command::logged(&mut sh, &log, |_| {}).with_context(|| format!("Get {PROGRAM} of {suite}"))?;
    progress.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_one_is_where_it_is_mounted() {
        let toolchains = Emulator::default();
        assert_eq!(toolchains.words(), [PROGRAM]);
        assert_eq!(toolchains.mount(), None);
        let newer = Emulator {
            newer: Some("/cache/root".into()),
        };
        let (from, to) = newer.mount().unwrap();
        assert_eq!(from, Path::new("/cache/root"));
        let words = newer.words();
        let paths: Vec<_> = words.iter().filter(|word| *word != "-L").collect();
        assert_eq!(paths.len(), 1 + FIRMWARE.len());
        assert!(paths.iter().all(|path| path.starts_with(to)), "{words:?}");
    }
}
