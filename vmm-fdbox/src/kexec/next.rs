//! The next kernel as a whole: its files, its command line, and what it takes over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::host::{self, Handover};
use super::image::BzImage;
use super::takeover::TakeOver;
use super::{KexecError, cmdline, file, luo, signature};
use crate::error::Chain;
use crate::facts::{HostRoot, ScalableMode, has_amd_vi, module};
use crate::finding::Finding;
use crate::kind::Kind;

/// A configuration option that turns KHO on without `kho=on`.
const KHO_BY_DEFAULT: &str = "CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT";
const BUILD_IT: &str = "name a kernel that is built with kmod/patches";
const BUILD_OR_ASSUME: &str = "name a kernel that is built with kmod/patches, or say that this one is \
     (--assume-patches of vmm-example)";
pub(super) const RUNNING_CMDLINE: &str = "proc/cmdline";

/// The files of a next kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextFiles<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: Option<&'a Path>,
    pub(crate) cmdline: &'a str,
}

impl NextFiles<'_> {
    /// Reasons why the load would fail or the boxes be lost. Changes nothing.
    pub(crate) fn check(&self) -> Vec<Finding> {
        self.check_in(&HostRoot::default())
    }

    fn check_in(&self, root: &HostRoot) -> Vec<Finding> {
        let mut findings = host::check(root, true);
        let image = match read_image(self.kernel) {
            Ok(image) => image,
            Err(error) => {
                findings.push(unfit(
                    self.kernel,
                    &error,
                    "name a bzImage for x86-64, such as /boot/vmlinuz-VERSION",
                ));
                None
            }
        };
        let mut kho_default = None;
        if let Some(image) = &image {
            findings.extend(self.check_image(root, image));
            kho_default = image
                .release
                .as_deref()
                .and_then(|release| root.is_built_with(release, Some(self.kernel), KHO_BY_DEFAULT));
        }
        let running = root.read(RUNNING_CMDLINE).unwrap_or_default();
        findings.extend(cmdline::check(self.cmdline, &running, kho_default));
        if let Some(initramfs) = self.initramfs
            && let Err(error) = file::open(initramfs)
        {
            findings.push(unfit(
                initramfs,
                &error,
                "name an initramfs for the next host",
            ));
        }
        findings
    }

    /// Reasons why this host would refuse a good image.
    fn check_image(&self, root: &HostRoot, image: &BzImage) -> Vec<Finding> {
        let subject = self.kernel.display().to_string();
        let mut findings = Vec::new();
        if !image.info.knows_kho {
            findings.push(Finding::blocker(
                &subject,
                "it is a kernel that reads no handover, and every box would be lost",
                "name Linux 6.16 or later",
            ));
        }
        if !image.takes_five_levels && root.has_five_levels() {
            findings.push(Finding::blocker(
                &subject,
                "it cannot be entered from this kernel, which has five levels of page tables",
                "boot this one with no5lvl",
            ));
        }
        findings.extend(signature::check(root, &subject, image.is_signed));
        findings.extend(check_module(root, &subject, image.release.as_deref()));
        findings.extend(cmdline::check_length(self.cmdline, image.cmdline_bytes));
        findings
    }

    /// The kinds of files, out of `kinds`, that the next kernel would not take over.
    /// `assumes_patches`: the operator vouches for patches that the image does not declare.
    pub(crate) fn check_kinds(
        &self,
        kinds: &BTreeSet<Kind>,
        assumes_patches: bool,
    ) -> Vec<Finding> {
        self.check_kinds_in(&HostRoot::default(), kinds, assumes_patches)
    }

    fn check_kinds_in(
        &self,
        root: &HostRoot,
        kinds: &BTreeSet<Kind>,
        assumes_patches: bool,
    ) -> Vec<Finding> {
        match read_image(self.kernel) {
            Ok(Some(image)) => {
                let subject = self.kernel.display().to_string();
                check_takes(root, &subject, image.info.takes, kinds, assumes_patches)
            }
            // Already reported by `check`, or the architecture's images declare nothing.
            _ => Vec::new(),
        }
    }
}

impl NextFiles<'_> {
    /// Why this kernel would disturb devices that guests use while it boots.
    pub(crate) fn check_devices_in_use(&self) -> Option<Finding> {
        let image = read_image(self.kernel).ok().flatten()?;
        check_in_use(&self.kernel.display().to_string(), image.info.takes)
    }

    /// Like [`check_kinds`](Self::check_kinds), for what LUO keeps.
    pub(crate) fn check_luo(&self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        let image = read_image(self.kernel).ok().flatten();
        let root = HostRoot::default();
        luo::check(&root, self.kernel, image.as_ref(), self.cmdline, kinds)
    }
}

/// Warns if the module is not installed for the next kernel. A kernel without any modules here is not judged.
fn check_module(root: &HostRoot, subject: &str, release: Option<&str>) -> Option<Finding> {
    let release = release?;
    let is_missing = module::is_loaded(root) && module::is_installed(root, release) == Some(false);
    is_missing.then(|| {
        Finding::warning(
            subject,
            format!("no fdbox.ko is installed for it, in /lib/modules/{release}"),
            "install it and make its initramfs anew: boxes wait until it is loaded, and are lost when that \
             kernel ends before",
        )
    })
}

/// The kinds of files, out of `kinds`, that the loaded kernel would not take over.
pub(crate) fn check_loaded_kinds(kinds: &BTreeSet<Kind>) -> Vec<Finding> {
    check_loaded_kinds_in(&HostRoot::default(), kinds)
}

fn check_loaded_kinds_in(root: &HostRoot, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
    match host::handover(root) {
        // Already reported by the checks of the host.
        Handover::Unknown | Handover::None => Vec::new(),
        Handover::Takes(takes) => check_takes(root, "The loaded kernel", takes, kinds, false),
    }
}

/// Why the loaded kernel would disturb devices that guests use while it boots.
pub(crate) fn check_loaded_devices_in_use() -> Option<Finding> {
    check_loaded_in_use(&HostRoot::default())
}

fn check_loaded_in_use(root: &HostRoot) -> Option<Finding> {
    match host::handover(root) {
        Handover::Unknown | Handover::None => None,
        Handover::Takes(takes) => check_in_use("The loaded kernel", takes),
    }
}

/// A kernel that does not declare what it takes over is no subject here: it gets no devices at all.
fn check_in_use(subject: &str, takes: Option<TakeOver>) -> Option<Finding> {
    let lacks = takes?.lacks(TakeOver::PCI_BARS);
    let what = lacks.first()?;
    Some(Finding::blocker(
        subject,
        format!("it is not built to {what}, which guests in the lifeboat use while it boots"),
        "build it with kmod/patches, or update without --lifeboat",
    ))
}

/// Reads a kernel image; `None` on architectures other than x86-64, where the check is left to the
/// kernel.
fn read_image(path: &Path) -> Result<Option<BzImage>, KexecError> {
    let file = file::open(path)?;
    if !cfg!(target_arch = "x86_64") {
        return Ok(None);
    }
    let image = BzImage::read(&file).map_err(|source| KexecError::Image {
        path: PathBuf::from(path),
        source,
    })?;
    Ok(Some(image))
}

/// The finding for a file that cannot be loaded.
fn unfit(path: &Path, error: &KexecError, remedy: &str) -> Finding {
    let problem = match error {
        KexecError::Open { source, .. } => format!("cannot be opened ({source})"),
        KexecError::File { source, .. } => source.to_string(),
        KexecError::Image { source, .. } => source.to_string(),
        other => Chain(other).to_string(),
    };
    Finding::blocker(path.display().to_string(), problem, remedy)
}

fn check_takes(
    root: &HostRoot,
    subject: &str,
    takes: Option<TakeOver>,
    kinds: &BTreeSet<Kind>,
    assumes_patches: bool,
) -> Vec<Finding> {
    let Some(takes) = takes else {
        return check_silent(subject, kinds, assumes_patches);
    };
    // What cannot be read is unknown, too.
    let mode = ScalableMode::look(root).unwrap_or(ScalableMode::Unknown);
    let is_amd_vi = has_amd_vi(root);
    let mut findings = Vec::new();
    for kind in kinds {
        let needed = TakeOver::needed_by(*kind);
        let needed = match mode {
            _ if is_amd_vi => needed.under_amd_vi(),
            ScalableMode::On if kind.reaches_memory() => needed.and(TakeOver::VTD_SCALABLE),
            _ => needed,
        };
        for what in takes.lacks(needed) {
            findings.push(Finding::blocker(
                subject,
                format!("it is not built to {what}, and {kind} would be lost"),
                "build it with kmod/patches and with what they need (docs/passthrough.md for devices)",
            ));
        }
    }
    if mode == ScalableMode::Unknown && kinds.iter().any(|kind| kind.reaches_memory()) {
        for what in takes.lacks(TakeOver::VTD_SCALABLE) {
            findings.push(Finding::warning(
                subject,
                format!(
                    "it is not built to {what}, and whether this kernel uses that mode cannot be seen: if it \
                     does the kexec is refused"
                ),
                "build it with kmod/patches",
            ));
        }
    }
    findings
}

/// Findings for a kernel whose image does not declare what it takes over. The operator may vouch
/// for its patches, but not for it to keep translating for a device with ongoing DMA.
fn check_silent(subject: &str, kinds: &BTreeSet<Kind>, assumes_patches: bool) -> Vec<Finding> {
    let (devices, others): (BTreeSet<_>, BTreeSet<_>) =
        kinds.iter().partition(|kind| kind.reaches_memory());
    let mut findings = Vec::new();
    let mut find =
        |kinds: &BTreeSet<Kind>, make: fn(String, String, String) -> Finding, remedy: &str| {
            if !kinds.is_empty() {
                let problem = format!(
                    "it does not say that it takes over {}: it is not built with the patches",
                    list(kinds)
                );
                findings.push(make(subject.into(), problem, remedy.into()));
            }
        };
    find(&devices, Finding::blocker, BUILD_IT);
    if assumes_patches {
        find(
            &others,
            Finding::warning,
            "nothing, if it is built with them as you say",
        );
    } else {
        find(&others, Finding::blocker, BUILD_OR_ASSUME);
    }
    findings
}

fn list(kinds: &BTreeSet<Kind>) -> String {
    let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
    kinds.join(", ")
}

#[cfg(test)]
mod tests;
