//! Whether VT-d translates in scalable mode.
//!
//! The kernel uses scalable mode with units that support it (`ecap.SMTS`, bit 43; Intel VT-d
//! specification, section 11.4.3), unless `intel_iommu=sm_off` is set; without such a setting, its
//! configuration decides. sysfs shows what the unit supports, not what the kernel uses, so all
//! three are checked.

use std::fs;
use std::io;
use std::path::Path;

use super::HostRoot;

const UNITS: &str = "sys/class/iommu";
const SMTS: u64 = 1 << 43;
/// The configuration option that decides if the command line does not.
const BUILD_OPTION: &str = "CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON";

/// How VT-d translates on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalableMode {
    /// In legacy mode, or there is no VT-d.
    Off,
    /// A unit is in scalable mode.
    On,
    /// A unit supports scalable mode, and it is unknown whether the kernel uses it.
    Unknown,
}

impl ScalableMode {
    /// Looks at the units of a host.
    ///
    /// # Errors
    ///
    /// If sysfs does not tell what a unit supports.
    pub fn look(root: &HostRoot) -> io::Result<Self> {
        let units = root.names(UNITS);
        let mut is_supported = false;
        for unit in units.iter().filter(|unit| unit.starts_with("dmar")) {
            is_supported |= has_it(&root.join(UNITS).join(unit))?;
        }
        let cmdline = root.read("proc/cmdline").unwrap_or_default();
        let kernel = of_cmdline(&cmdline).or_else(|| root.is_built_here_with(BUILD_OPTION));
        Ok(match (is_supported, kernel) {
            (false, _) | (true, Some(false)) => Self::Off,
            (true, Some(true)) => Self::On,
            (true, None) => Self::Unknown,
        })
    }
}

/// Whether the unit with this directory in sysfs supports scalable mode.
fn has_it(unit: &Path) -> io::Result<bool> {
    let text = fs::read_to_string(unit.join("intel-iommu/ecap"))?;
    let ecap = u64::from_str_radix(text.trim(), 16)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(ecap & SMTS != 0)
}

/// The setting on a command line; the last word counts. The kernel compares prefixes of the words.
fn of_cmdline(cmdline: &str) -> Option<bool> {
    let options = cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("intel_iommu="))
        .flat_map(|options| options.split(','));
    options
        .filter_map(|option| match option {
            option if option.starts_with("sm_on") => Some(true),
            option if option.starts_with("sm_off") => Some(false),
            _ => None,
        })
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's unit, and the same with scalable mode.
    const LEGACY: &str = "f00f5a\n";
    const SCALABLE: &str = "80000f00f5e\n";

    /// Of a host with these units, whose kernel has this command line and configuration.
    fn mode(ecaps: &[&str], cmdline: &str, config: Option<&str>) -> io::Result<ScalableMode> {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &str, content: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for (number, ecap) in ecaps.iter().enumerate() {
            set(&format!("{UNITS}/dmar{number}/intel-iommu/ecap"), ecap);
        }
        set("proc/cmdline", cmdline);
        set("proc/sys/kernel/osrelease", "7.3\n");
        if let Some(config) = config {
            set("boot/config-7.3", config);
        }
        ScalableMode::look(&HostRoot::new(dir.path()))
    }

    #[test]
    fn a_host_whose_units_have_it_not_does_not_use_it() {
        for ecaps in [&[][..], &[LEGACY]] {
            let mode = mode(ecaps, "intel_iommu=on,sm_on", None);
            assert_eq!(mode.unwrap(), ScalableMode::Off);
        }
        let one_of_two = mode(&[LEGACY, SCALABLE], "intel_iommu=sm_on", None);
        assert_eq!(one_of_two.unwrap(), ScalableMode::On);
    }

    #[test]
    fn the_command_line_decides_before_the_build() {
        let on = "CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON=y\n";
        let off = "CONFIG_INTEL_IOMMU=y\n";
        for (cmdline, build, expected) in [
            ("quiet intel_iommu=on,sm_on", Some(off), ScalableMode::On),
            ("intel_iommu=sm_off,on", Some(on), ScalableMode::Off),
            ("intel_iommu=sm_on,sm_off", None, ScalableMode::Off),
            (
                "intel_iommu=sm_off intel_iommu=sm_on",
                None,
                ScalableMode::On,
            ),
            ("intel_iommu=on", Some(on), ScalableMode::On),
            ("xintel_iommu=sm_on", Some(off), ScalableMode::Off),
            ("", Some(off), ScalableMode::Off),
            ("intel_iommu=on", None, ScalableMode::Unknown),
        ] {
            let mode = mode(&[SCALABLE], cmdline, build).unwrap();
            assert_eq!(mode, expected, "{cmdline:?} {build:?}");
        }
    }

    #[test]
    fn a_unit_that_cannot_be_read_is_an_error() {
        assert!(mode(&["none"], "", None).is_err());
    }
}
