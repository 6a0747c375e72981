//! Loading the next kernel and jumping into it.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::RebootCommand;

use crate::finding::Finding;
use crate::sys;

/// The kernel says here whether an image is loaded; older ones have the second.
const LOADED: [&str; 2] = ["/sys/kernel/kexec/loaded", "/sys/kernel/kexec_loaded"];
const LOAD_DISABLED: &str = "/proc/sys/kernel/kexec_load_disabled";
const RUNNING_CMDLINE: &str = "/proc/cmdline";

/// Why the next kernel cannot be loaded or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KexecError {
    /// The kernel or initramfs file cannot be opened.
    #[error("Cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The command line holds a NUL.
    #[error("Kernel command line holds a NUL at byte {at}: leave it out")]
    NulInCmdline {
        /// Where, counted from 0.
        at: usize,
    },
    /// Nothing is loaded.
    #[error("No kernel is loaded: load one with `kexec -l -s` or name one")]
    NothingLoaded,
    /// kexec_file_load failed.
    #[error("Cannot load the next kernel: {}", explain_load(*.0))]
    Load(Errno),
    /// kexec_file_load could not unload.
    #[error("Cannot unload the next kernel: {}", explain_load(*.0))]
    Unload(Errno),
    /// reboot(LINUX_REBOOT_CMD_KEXEC) failed.
    #[error("Cannot jump into the next kernel: {}", explain_jump(*.0))]
    Jump(Errno),
}

fn explain_load(errno: Errno) -> String {
    let text = match errno {
        Errno::PERM => {
            "it needs CAP_SYS_BOOT, kernel.kexec_load_disabled=0 and a kernel that is not locked down"
        }
        Errno::BUSY => "another kexec load is under way: try again",
        Errno::NOEXEC => "the file is not a kernel image for this machine: name a bzImage",
        Errno::INVAL => "the command line is too long, or the image cannot be placed in memory",
        Errno::NOMEM | Errno::ADDRNOTAVAIL => {
            "not enough free memory in one piece: free some, or give KHO more scratch (kho_scratch=)"
        }
        Errno::NOSYS => "this kernel has no kexec_file_load: build it with CONFIG_KEXEC_FILE",
        Errno::KEYREJECTED | Errno::NOKEY | Errno::BADMSG => {
            "the image's signature is refused: sign it with a key that this kernel trusts"
        }
        _ => return std::io::Error::from(errno).to_string(),
    };
    text.to_owned()
}

fn explain_jump(errno: Errno) -> String {
    let text = match errno {
        Errno::PERM => "it needs CAP_SYS_BOOT in the first PID namespace",
        Errno::INVAL => {
            "no kernel is loaded (load one first), this one has no kexec, or the program is in a PID \
             namespace other than the first (start it outside of the container)"
        }
        Errno::BUSY => "another kexec is under way: try again",
        _ => return std::io::Error::from(errno).to_string(),
    };
    text.to_owned()
}

/// A kernel that is loaded and can be jumped into.
///
/// There is one per host. Dropping this leaves it loaded.
///
/// ```no_run
/// use std::fs::File;
/// use std::os::fd::AsFd;
/// use vmm_fdbox::kexec::KexecImage;
///
/// let (kernel, initramfs) = (File::open("/boot/vmlinuz")?, File::open("/boot/initrd")?);
/// let image = KexecImage::load(kernel.as_fd(), Some(initramfs.as_fd()), "kho=on quiet")?;
/// let never = image.jump()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KexecImage(());

impl KexecImage {
    /// Loads a kernel, in place of any that was loaded. Without an initramfs
    /// the kernel gets none.
    ///
    /// # Errors
    /// [`KexecError::Load`] says what the errno means here.
    pub fn load(
        kernel: BorrowedFd<'_>,
        initramfs: Option<BorrowedFd<'_>>,
        cmdline: &str,
    ) -> Result<Self, KexecError> {
        let cmdline = CString::new(cmdline).map_err(|error| KexecError::NulInCmdline {
            at: error.nul_position(),
        })?;
        sys::kexec_file_load(kernel, initramfs, &cmdline).map_err(KexecError::Load)?;
        Ok(Self(()))
    }

    /// The kernel that something else loaded, such as `kexec -l -s`.
    ///
    /// # Errors
    /// [`KexecError::NothingLoaded`].
    pub fn loaded() -> Result<Self, KexecError> {
        if is_loaded() == Some(true) {
            Ok(Self(()))
        } else {
            Err(KexecError::NothingLoaded)
        }
    }

    /// Frees the loaded kernel.
    ///
    /// # Errors
    /// [`KexecError::Unload`].
    pub fn unload(self) -> Result<(), KexecError> {
        sys::kexec_file_unload().map_err(KexecError::Unload)
    }

    /// Leaves this kernel. Nothing is written to disk, no program is told: what
    /// needs either comes first. Returns only when the jump failed; the image
    /// stays loaded then.
    ///
    /// # Errors
    /// [`KexecError::Jump`].
    pub fn jump(&self) -> Result<Infallible, KexecError> {
        match rustix::system::reboot(RebootCommand::Kexec) {
            // The kernel does not come back from a jump that it made.
            Ok(()) => Err(KexecError::Jump(Errno::INVAL)),
            Err(errno) => Err(KexecError::Jump(errno)),
        }
    }
}

/// Whether a kernel is loaded; `None` when this kernel has no kexec.
#[must_use]
pub fn is_loaded() -> Option<bool> {
    let text = LOADED
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())?;
    Some(text.trim() == "1")
}

/// What a kernel command line says about KHO; the last word counts.
fn kho_of(cmdline: &str) -> Option<bool> {
    let value = cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("kho="))
        .next_back()?;
    match value.to_ascii_lowercase().as_str() {
        "off" | "0" => Some(false),
        word if word.starts_with(['n', 'f']) => Some(false),
        _ => Some(true),
    }
}

/// What would make a kexec fail, or lose the boxes. Changes nothing.
#[must_use]
pub fn preflight() -> Vec<Finding> {
    let mut findings = Vec::new();
    match is_loaded() {
        None => findings.push(Finding::blocker(
            "kexec",
            "this kernel has none (no /sys/kernel/kexec_loaded)",
            "boot one with CONFIG_KEXEC_FILE, and mount sysfs",
        )),
        Some(true) => findings.push(Finding::warning(
            "kexec",
            "a kernel is loaded already",
            "it is replaced; nothing to do unless you meant that one",
        )),
        Some(false) => {}
    }
    if std::fs::read_to_string(LOAD_DISABLED).is_ok_and(|text| text.trim() == "1") {
        findings.push(Finding::blocker(
            "kexec",
            "kernel.kexec_load_disabled is 1",
            "it stays so until the next reboot: leave it 0 at boot",
        ));
    }
    findings
}

/// What is wrong with the command line of the next kernel, for what is handed
/// over to it.
#[must_use]
pub fn check_cmdline(cmdline: &str) -> Vec<Finding> {
    let running = std::fs::read_to_string(RUNNING_CMDLINE).unwrap_or_default();
    check_cmdlines(cmdline, &running)
}

fn check_cmdlines(next: &str, running: &str) -> Vec<Finding> {
    let subject = "Kernel command line";
    if let Some(at) = next.bytes().position(|b| b == 0) {
        let problem = format!("it holds a NUL at byte {at}");
        return vec![Finding::blocker(subject, problem, "leave it out")];
    }
    let mut findings = match (kho_of(next), kho_of(running)) {
        (Some(false), _) => vec![Finding::blocker(
            subject,
            "it turns KHO off, and every box would be lost",
            "write kho=on",
        )],
        (None, Some(true)) => vec![Finding::warning(
            subject,
            "it lacks kho=on, which this kernel was booted with",
            "add kho=on unless the next kernel has it by default",
        )],
        _ => Vec::new(),
    };
    let (there, here) = (iommu_options(next), iommu_options(running));
    if there != here {
        findings.push(Finding::warning(
            subject,
            format!("its IOMMU options are not this kernel's: {there:?} instead of {here:?}"),
            "give it the same if a guest drives a device of the host: DMA goes on only if the \
             next kernel translates in the same way",
        ));
    }
    findings
}

/// What a kernel command line says of IOMMUs.
fn iommu_options(cmdline: &str) -> String {
    const OPTIONS: [&str; 3] = ["iommu=", "intel_iommu=", "amd_iommu="];
    let is_one = |word: &&str| OPTIONS.iter().any(|option| word.starts_with(option));
    let words: Vec<_> = cmdline.split_whitespace().filter(is_one).collect();
    words.join(" ")
}

/// Opens a file for kexec, naming it on failure.
pub(crate) fn open(path: &Path) -> Result<File, KexecError> {
    File::open(path).map_err(|source| KexecError::Open {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn kho_words() {
        assert_eq!(kho_of("quiet kho=on"), Some(true));
        assert_eq!(kho_of("kho=on kho=off"), Some(false));
        assert_eq!(kho_of("kho=N"), Some(false));
        assert_eq!(kho_of("xkho=on kho_scratch=1%"), None);
    }

    #[test]
    fn a_command_line_without_kho_is_told() {
        assert!(check_cmdlines("kho=off", "")[0].is_blocker());
        assert!(check_cmdlines("a\0b", "")[0].is_blocker());
        assert!(!check_cmdlines("quiet", "kho=on")[0].is_blocker());
        assert!(check_cmdlines("quiet", "quiet").is_empty());
        assert!(check_cmdlines("kho=on", "kho=on").is_empty());
    }

    #[test]
    fn an_iommu_that_would_translate_otherwise_is_told() {
        let running = "kho=on intel_iommu=on quiet iommu=strict";
        for next in [
            "kho=on",
            "kho=on iommu=strict intel_iommu=off",
            "kho=on intel_iommu=on,sm_on iommu=strict",
        ] {
            let findings = check_cmdlines(next, running);
            assert_eq!(findings.len(), 1, "{next}: {findings:?}");
            assert!(!findings[0].is_blocker());
            assert!(findings[0].problem.contains("intel_iommu=on"));
        }
        let same = "intel_iommu=on iommu=strict kho=on stage=2 xiommu=off";
        assert_eq!(check_cmdlines(same, running), []);
    }

    #[test]
    fn a_nul_is_refused_before_the_kernel_sees_it() {
        let null = File::open("/dev/null").unwrap();
        let error = KexecImage::load(null.as_fd(), None, "a\0b").unwrap_err();
        assert!(matches!(error, KexecError::NulInCmdline { at: 1 }));
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = KexecError::Load(Errno::NOEXEC).to_string();
        assert!(text.contains("name a bzImage"), "{text}");
        let text = KexecError::Jump(Errno::INVAL).to_string();
        assert!(text.contains("load one first"), "{text}");
    }
}
