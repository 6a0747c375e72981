//! Whether this kernel allows this process to load an image and jump into it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::takeover::TakeOver;
use crate::finding::Finding;

/// Where the kernel reports whether an image is loaded; older kernels have the second path.
const LOADED: [&str; 2] = ["sys/kernel/kexec/loaded", "sys/kernel/kexec_loaded"];
/// What the loaded image takes over of a handover; from kmod/patches.
const HANDOVER: &str = "sys/kernel/kexec/handover";
const LOAD_DISABLED: &str = "proc/sys/kernel/kexec_load_disabled";
const LOAD_LIMIT: &str = "proc/sys/kernel/kexec_load_limit_reboot";
const LOCKDOWN: &str = "sys/kernel/security/lockdown";
const SECURE_BOOT: &str =
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// The initial PID namespace (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The initial user namespace (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";
const CAP_SYS_BOOT: u32 = 22;
const SIGN_IT: &str = "sign the image with a key that this kernel trusts (sbsign)";

/// What this kernel reports about the loaded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handover {
    /// The kernel lacks the patch for this.
    Unknown,
    /// The image gets no handover, or none is loaded.
    None,
    /// What it takes over; `None` if the image does not declare it.
    Takes(Option<TakeOver>),
}

/// The root of the kernel's files: `/`, except in tests.
#[derive(Debug, Clone)]
pub(super) struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    #[cfg(test)]
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The content of a small file, trimmed; `None` if it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Whether an image is loaded; `None` if this kernel has no kexec.
    pub(super) fn is_loaded(&self) -> Option<bool> {
        let text = LOADED.iter().find_map(|path| self.read(path))?;
        Some(text == "1")
    }

    /// What the loaded image takes over of a handover.
    pub(super) fn handover(&self) -> Handover {
        match self.read(HANDOVER).as_deref() {
            Some("none") => Handover::None,
            Some(text) => match TakeOver::parse(text) {
                Some(takes) if takes == TakeOver::default() => Handover::Takes(None),
                Some(takes) => Handover::Takes(Some(takes)),
                None => Handover::Unknown,
            },
            None => Handover::Unknown,
        }
    }

    /// Whether a kernel's configuration sets an option to `y` or `m`. `None` if there is no
    /// configuration of this release next to the image or where distributions install it.
    pub(super) fn is_built_with(
        &self,
        release: &str,
        image: Option<&Path>,
        option: &str,
    ) -> Option<bool> {
        let beside = image.and_then(Path::parent);
        let beside = beside.map(|folder| folder.join(format!("config-{release}")));
        let usual = [
            format!("boot/config-{release}"),
            format!("lib/modules/{release}/config"),
        ];
        let paths = beside.into_iter().chain(usual.map(|path| self.join(path)));
        let config = paths.into_iter().find_map(|path| read_config(&path))?;
        let is_set = |line: &str| match line.split_once('=') {
            Some((name, value)) => name == option && matches!(value.trim(), "y" | "m"),
            None => false,
        };
        Some(config.lines().any(is_set))
    }

    fn is_built_here_with(&self, option: &str) -> Option<bool> {
        let release = self.read("proc/sys/kernel/osrelease")?;
        self.is_built_with(&release, None, option)
    }

    /// Whether this kernel uses five levels of page tables.
    pub(super) fn has_five_levels(&self) -> bool {
        let cpus = self.read("proc/cpuinfo").unwrap_or_default();
        let mut flags = cpus.lines().filter(|line| line.starts_with("flags"));
        flags
            .next()
            .is_some_and(|line| line.split_whitespace().any(|flag| flag == "la57"))
    }
}

/// A kernel's configuration; `None` if there is none. Its size is limited.
fn read_config(path: &Path) -> Option<String> {
    const MAX_BYTES: u64 = 4 << 20;
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reasons why this process cannot kexec. `replaces`: it is to load an image itself.
pub(super) fn check(root: &Root, replaces: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_process(root));
    let Some(is_loaded) = root.is_loaded() else {
        findings.push(Finding::blocker(
            "kexec",
            "this kernel has none (no /sys/kernel/kexec_loaded)",
            "boot one with CONFIG_KEXEC_FILE, and mount sysfs",
        ));
        return findings;
    };
    if !replaces {
        return findings;
    }
    if is_loaded {
        findings.push(Finding::warning(
            "kexec",
            "a kernel is loaded already, and by whom cannot be seen",
            "it is replaced, and not loaded again after a rollback; nothing to do unless you meant that one",
        ));
    }
    if root.read(LOAD_DISABLED).is_some_and(|text| text == "1") {
        findings.push(Finding::blocker(
            "kexec",
            "kernel.kexec_load_disabled is 1",
            "it stays so until the next reboot: leave it 0 at boot",
        ));
    }
    if root.read(LOAD_LIMIT).is_some_and(|text| text == "0") {
        findings.push(Finding::blocker(
            "kexec",
            "kernel.kexec_load_limit_reboot is 0: no more kernel can be loaded",
            "it stays so until the next reboot: set a higher limit at boot, or none",
        ));
    }
    if root.is_built_here_with("CONFIG_KEXEC_FILE") == Some(false) {
        findings.push(Finding::blocker(
            "kexec",
            "this kernel is built without CONFIG_KEXEC_FILE, and KHO needs it",
            "boot one with CONFIG_KEXEC_FILE",
        ));
    }
    findings
}

/// Checks privileges and namespaces.
fn check_process(root: &Root) -> Vec<Finding> {
    let mut findings = Vec::new();
    let status = root.read("proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let lacks_boot = capabilities.is_some_and(|bits| bits & (1 << CAP_SYS_BOOT) == 0);
    let is_elsewhere = |file: &str, first: &str| {
        let link = fs::read_link(root.join(file));
        link.is_ok_and(|link| link != Path::new(first))
    };
    if lacks_boot || is_elsewhere("proc/self/ns/user", FIRST_USER_NAMESPACE) {
        findings.push(Finding::blocker(
            "kexec",
            "this process lacks CAP_SYS_BOOT in the first user namespace",
            "run it as root, outside of a container",
        ));
    }
    if is_elsewhere("proc/self/ns/pid", FIRST_PID_NAMESPACE) {
        findings.push(Finding::blocker(
            "kexec",
            "this process is not in the first PID namespace, where alone a kexec is",
            "run it outside of the container",
        ));
    }
    findings
}

/// Whether this kernel will accept an image, as far as its signature is concerned. Only the kernel
/// knows its keys, so this only reports what it will require.
pub(super) fn check_signature(root: &Root, subject: &str, is_signed: bool) -> Option<Finding> {
    let level = lockdown(root);
    let is_forced = root.is_built_here_with("CONFIG_KEXEC_SIG_FORCE") == Some(true);
    let is_secure_boot =
        fs::read(root.join(SECURE_BOOT)).is_ok_and(|bytes| bytes.last() == Some(&1));
    if is_forced && !is_signed {
        return Some(Finding::blocker(
            subject,
            "it has no signature, and this kernel loads signed images only (CONFIG_KEXEC_SIG_FORCE)",
            SIGN_IT,
        ));
    }
    let because = match level {
        Some(level) => format!("this kernel is locked down ({level})"),
        None if is_forced => "this kernel loads signed images only".into(),
        None if is_secure_boot && !is_signed => "this host booted with secure boot".into(),
        None => return None,
    };
    let (problem, remedy) = if is_signed {
        let problem = "whether it trusts the image's signature cannot be known before it is loaded";
        (
            problem,
            "load it once with `kexec -l -s` if in doubt: it tells",
        )
    } else {
        ("it may refuse an image without a signature", SIGN_IT)
    };
    Some(Finding::warning(
        subject,
        format!("{because}: {problem}"),
        remedy,
    ))
}

/// The lockdown level; `None` if there is none or it cannot be read.
fn lockdown(root: &Root) -> Option<String> {
    let text = root.read(LOCKDOWN)?;
    let (_, level) = text.split_once('[')?;
    let (level, _) = level.split_once(']')?;
    (level != "none").then(|| level.to_owned())
}

#[cfg(test)]
mod tests;
