//! Loading the next kernel and jumping into it.

mod cmdline;
mod file;
pub(crate) mod host;
mod image;
mod image_error;
mod luo;
mod next;
pub(crate) mod signature;
mod takeover;
#[cfg(test)]
pub(crate) mod testing;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::RebootCommand;

pub(crate) use cmdline::switch;
pub use file::FileError;
pub use image_error::ImageError;
pub(crate) use next::{NextFiles, check_loaded_devices_in_use, check_loaded_kinds};

use crate::facts::HostRoot;
use crate::finding::Finding;
use crate::sys;
use host::Handover;

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
    /// The kernel or initramfs file cannot be loaded, regardless of its content.
    #[error("Cannot load {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The kernel file is not a kernel that can be loaded.
    #[error("Cannot load {}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// The command line holds a NUL.
    #[error("Kernel command line holds a NUL at byte {at}: leave it out")]
    NulInCmdline {
        /// Its position, counted from 0.
        at: usize,
    },
    /// Nothing is loaded.
    #[error("No kernel is loaded: load one with `kexec -l -s` or name one")]
    NothingLoaded,
    /// This kernel does not pass the handover to the loaded one.
    #[error(
        "The loaded kernel gets no handover, and every box would be lost: load one that knows KHO with `kexec -l -s`, with KHO on in this kernel"
    )]
    NoHandover,
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
            "it needs CAP_SYS_BOOT and kernel.kexec_load_disabled=0, and of a kernel that is locked down \
             an image with a signature that it trusts"
        }
        Errno::BUSY => "another kexec load is under way: try again",
        Errno::NOEXEC => "the file is not a kernel image for this machine: name a bzImage",
        Errno::INVAL => "the command line is too long, or the image cannot be placed in memory",
        Errno::TXTBSY => {
            "the kernel or the initramfs is open for writing: wait until it is written"
        }
        Errno::IO => "the kernel or the initramfs cannot be read as a whole: see the kernel log",
        Errno::NOMEM | Errno::ADDRNOTAVAIL => {
            "not enough free memory in one piece: free some, or give KHO more scratch (kho_scratch=)"
        }
        Errno::NOSYS => "this kernel has no kexec_file_load: build it with CONFIG_KEXEC_FILE",
        Errno::NODATA => "the image has no signature: sign it with a key that this kernel trusts",
        Errno::KEYREJECTED | Errno::NOKEY | Errno::BADMSG | Errno::LIBBAD | Errno::NOPKG => {
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
        Errno::OPNOTSUPP => {
            "the loaded kernel does not take over what is in the boxes, and the kernel log says which part: \
             load one that does, by kexec_file_load"
        }
        _ => return std::io::Error::from(errno).to_string(),
    };
    text.to_owned()
}

/// A loaded kernel that can be jumped into.
///
/// There is one per host. Dropping this value leaves the kernel loaded.
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
    /// Loads a kernel, replacing any that was loaded. The initramfs is optional.
    ///
    /// # Errors
    /// [`KexecError::Load`] explains the errno.
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

    /// Whether the boxes reach the loaded kernel, as far as this kernel reports it.
    pub(crate) fn check_handover(&self) -> Result<(), KexecError> {
        match host::handover(&HostRoot::default()) {
            Handover::None => Err(KexecError::NoHandover),
            Handover::Unknown | Handover::Takes(_) => Ok(()),
        }
    }

    /// The kernel that was loaded by something else, such as `kexec -l -s`.
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

    /// Unloads the kernel.
    ///
    /// # Errors
    /// [`KexecError::Unload`].
    pub fn unload(self) -> Result<(), KexecError> {
        sys::kexec_file_unload().map_err(KexecError::Unload)
    }

    /// Leaves this kernel. No file system is synced and no program notified: do that first if
    /// needed. Returns only if the jump failed; the image then stays loaded.
    ///
    /// # Errors
    /// [`KexecError::Jump`].
    pub fn jump(&self) -> Result<Infallible, KexecError> {
        match rustix::system::reboot(RebootCommand::Kexec) {
            // A successful jump does not return.
            Ok(()) => Err(KexecError::Jump(Errno::INVAL)),
            Err(errno) => Err(KexecError::Jump(errno)),
        }
    }
}

/// Whether a kernel is loaded; `None` if this kernel has no kexec.
#[must_use]
pub fn is_loaded() -> Option<bool> {
    host::is_loaded(&HostRoot::default())
}

/// Reasons why this process could not load a kernel and jump into it. Changes nothing.
#[must_use]
pub fn preflight() -> Vec<Finding> {
    host::check(&HostRoot::default(), true)
}

/// Reasons why the jump into a kernel loaded by something else would fail or lose the boxes.
pub(crate) fn preflight_loaded() -> Vec<Finding> {
    check_loaded(&HostRoot::default())
}

fn check_loaded(root: &HostRoot) -> Vec<Finding> {
    let mut findings = host::check(root, false);
    match (host::is_loaded(root), host::handover(root)) {
        (Some(true), Handover::Takes(_)) => {}
        (Some(true), Handover::None) => findings.push(Finding::blocker(
            "kexec",
            KexecError::NoHandover.to_string(),
            "then try again",
        )),
        (Some(true), Handover::Unknown) => findings.push(Finding::warning(
            "kexec",
            "who loaded the kernel, how, and what it takes over cannot be seen: one that was loaded \
             by kexec_load(2) gets no handover",
            "load it with `kexec -l -s`, and with kho=on",
        )),
        (Some(false), _) => findings.push(Finding::blocker(
            "kexec",
            KexecError::NothingLoaded.to_string(),
            "then try again",
        )),
        // Already reported.
        (None, _) => {}
    }
    findings
}

/// Problems with the command line of the next kernel that affect the handover.
#[must_use]
pub fn check_cmdline(cmdline: &str) -> Vec<Finding> {
    let running = HostRoot::default().read(next::RUNNING_CMDLINE);
    cmdline::check(cmdline, &running.unwrap_or_default(), None)
}

/// Opens a file for kexec without ever blocking; errors name the file.
pub(crate) fn open(path: &Path) -> Result<File, KexecError> {
    file::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_nul_is_refused_before_the_kernel_sees_it() {
        let null = File::open("/dev/null").unwrap();
        let error = KexecImage::load(null.as_fd(), None, "a\0b").unwrap_err();
        assert!(matches!(error, KexecError::NulInCmdline { at: 1 }));
    }

    #[test]
    fn a_kernel_that_something_else_loaded_may_get_no_handover() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let loaded = dir.path().join("sys/kernel/kexec_loaded");
        std::fs::create_dir_all(loaded.parent().unwrap()).unwrap();
        let found = |text: &str| {
            std::fs::write(&loaded, text).unwrap();
            let found = check_loaded(&root);
            assert_eq!(found.len(), 1, "{found:?}");
            (found[0].is_blocker(), found[0].problem.clone())
        };
        let (is_blocker, problem) = found("1\n");
        assert!(
            !is_blocker && problem.contains("gets no handover"),
            "{problem}"
        );
        testing::assert_documented(problem.split(':').next().unwrap());
        let handover = dir.path().join("sys/kernel/kexec/handover");
        std::fs::create_dir_all(handover.parent().unwrap()).unwrap();
        std::fs::write(&handover, "none\n").unwrap();
        let (is_blocker, problem) = found("1\n");
        assert!(
            is_blocker && problem.contains("gets no handover"),
            "{problem}"
        );
        testing::assert_documented("The loaded kernel gets no handover");
        std::fs::write(&handover, "0x0\n").unwrap();
        std::fs::write(&loaded, "1\n").unwrap();
        assert_eq!(check_loaded(&root), []);
        let (is_blocker, problem) = found("0\n");
        assert!(
            is_blocker && problem.contains("No kernel is loaded"),
            "{problem}"
        );
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = KexecError::Load(Errno::NOEXEC).to_string();
        assert!(text.contains("name a bzImage"), "{text}");
        let text = KexecError::Jump(Errno::INVAL).to_string();
        assert!(text.contains("load one first"), "{text}");
        let text = KexecError::Jump(Errno::OPNOTSUPP).to_string();
        assert!(text.contains("does not take over"), "{text}");
        testing::assert_documented("the loaded kernel does not take over what is in the boxes");
    }
}
