//! Whether VT-d translates in scalable mode.
//!
//! The kernel uses scalable mode with units that support it (`ecap.SMTS`, bit 43; Intel VT-d
//! specification, section 11.4.3), unless `intel_iommu=sm_off` is set; without such a setting, its
//! configuration decides. sysfs shows what the unit supports, not what the kernel uses, so all
//! three are checked.

use std::fs;
use std::io;
use std::path::Path;

use vmm_fdbox::facts::HostRoot;

const SMTS: u64 = 1 << 43;
/// The configuration option that decides if the command line does not.
const BUILD_OPTION: &str = "CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON";

/// How a unit translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalableMode {
    Off,
    On,
    /// The unit supports scalable mode, and it is unknown whether the kernel uses it.
    Unknown,
}

/// What a kernel would do with a unit that supports scalable mode, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelChoice(Option<bool>);

impl KernelChoice {
    /// For the running kernel.
    pub(super) fn read(root: &HostRoot) -> Self {
        let cmdline = root.read("proc/cmdline").unwrap_or_default();
        Self::of(&cmdline, root.is_built_here_with(BUILD_OPTION))
    }

    /// `build`: whether the kernel is built to use it.
    pub(super) fn of(cmdline: &str, build: Option<bool>) -> Self {
        Self(of_cmdline(cmdline).or(build))
    }
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

/// How the IOMMU unit of the device with this sysfs directory translates.
pub(super) fn scalable_mode(device: &Path, kernel: &KernelChoice) -> io::Result<ScalableMode> {
    scalable_mode_of(&device.join("iommu"), kernel)
}

/// The same of the unit of this folder itself.
pub(super) fn scalable_mode_of(unit: &Path, kernel: &KernelChoice) -> io::Result<ScalableMode> {
    let text = fs::read_to_string(unit.join("intel-iommu/ecap"))?;
    let ecap = u64::from_str_radix(text.trim(), 16)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(match (ecap & SMTS != 0, kernel.0) {
        (false, _) | (true, Some(false)) => ScalableMode::Off,
        (true, Some(true)) => ScalableMode::On,
        (true, None) => ScalableMode::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's unit, and the same with scalable mode.
    const LEGACY: &str = "f00f5a\n";
    const SCALABLE: &str = "80000f00f5e\n";

    fn mode(ecap: &str, cmdline: &str, build: Option<bool>) -> io::Result<ScalableMode> {
        let device = tempfile::tempdir().unwrap();
        let unit = device.path().join("iommu/intel-iommu");
        fs::create_dir_all(&unit).unwrap();
        fs::write(unit.join("ecap"), ecap).unwrap();
        scalable_mode(device.path(), &KernelChoice::of(cmdline, build))
    }

    #[test]
    fn a_unit_that_has_it_not_does_not_use_it() {
        let mode = mode(LEGACY, "intel_iommu=on,sm_on", None);
        assert_eq!(mode.unwrap(), ScalableMode::Off);
    }

    #[test]
    fn the_command_line_decides_before_the_build() {
        for (cmdline, build, expected) in [
            ("quiet intel_iommu=on,sm_on", Some(false), ScalableMode::On),
            ("intel_iommu=sm_off,on", Some(true), ScalableMode::Off),
            ("intel_iommu=sm_on,sm_off", None, ScalableMode::Off),
            (
                "intel_iommu=sm_off intel_iommu=sm_on",
                None,
                ScalableMode::On,
            ),
            ("intel_iommu=on", Some(true), ScalableMode::On),
            ("xintel_iommu=sm_on", Some(false), ScalableMode::Off),
            ("", Some(false), ScalableMode::Off),
            ("intel_iommu=on", None, ScalableMode::Unknown),
        ] {
            let mode = mode(SCALABLE, cmdline, build).unwrap();
            assert_eq!(mode, expected, "{cmdline:?} {build:?}");
        }
    }

    #[test]
    fn a_unit_that_cannot_be_read_is_an_error() {
        assert!(mode("none", "", None).is_err());
        let kernel = KernelChoice::default();
        assert!(scalable_mode(Path::new("/nowhere"), &kernel).is_err());
    }
}
