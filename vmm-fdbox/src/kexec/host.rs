//! Whether this kernel allows this process to load an image and jump into it.

use std::fs;
use std::path::Path;

use super::signature;
use super::takeover::TakeOver;
use crate::facts::{Fact, HostRoot, Need};
use crate::finding::Finding;

/// Where the kernel reports whether an image is loaded; older kernels have the second path.
const LOADED: [&str; 2] = ["sys/kernel/kexec/loaded", "sys/kernel/kexec_loaded"];
/// What the loaded image takes over of a handover; from kmod/patches.
pub(crate) const HANDOVER: &str = "sys/kernel/kexec/handover";
const LOAD_DISABLED: &str = "proc/sys/kernel/kexec_load_disabled";
const LOAD_LIMIT: &str = "proc/sys/kernel/kexec_load_limit_reboot";
/// The same for crash kernels.
const CRASH_LOADED: [&str; 2] = [
    "sys/kernel/kexec/crash_loaded",
    "sys/kernel/kexec_crash_loaded",
];
const CRASH_BYTES: [&str; 2] = ["sys/kernel/kexec/crash_size", "sys/kernel/kexec_crash_size"];
/// The initial PID namespace (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The initial user namespace (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";
const CAP_SYS_BOOT: u32 = 22;

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

/// Reads the first of these files that exists.
fn first(root: &HostRoot, paths: &[&str]) -> Option<String> {
    paths.iter().find_map(|path| root.read(path))
}

/// Whether an image is loaded; `None` if this kernel has no kexec.
pub(super) fn is_loaded(root: &HostRoot) -> Option<bool> {
    Some(first(root, &LOADED)? == "1")
}

/// What the loaded image takes over of a handover.
pub(super) fn handover(root: &HostRoot) -> Handover {
    match root.read(HANDOVER).as_deref() {
        Some("none") => Handover::None,
        Some(text) => match TakeOver::parse(text) {
            Some(takes) if takes == TakeOver::default() => Handover::Takes(None),
            Some(takes) => Handover::Takes(Some(takes)),
            None => Handover::Unknown,
        },
        None => Handover::Unknown,
    }
}

/// Reasons why this process cannot kexec. `replaces`: it is to load an image itself.
pub(super) fn check(root: &HostRoot, replaces: bool) -> Vec<Finding> {
    let mut facts = process(root);
    facts.extend(match (is_loaded(root), replaces) {
        (None, _) => vec![support(root)],
        (Some(_), true) => loading(root),
        (Some(_), false) => Vec::new(),
    });
    facts
        .iter()
        .filter_map(|fact| fact.finding("kexec"))
        .collect()
}

/// All checks as facts about the host.
pub(crate) fn facts(root: &HostRoot) -> Vec<Fact> {
    let mut facts = vec![support(root)];
    facts.extend(process(root));
    facts.extend(loading(root));
    facts.push(signature::fact(root));
    facts.push(crash_kernel(root));
    facts
}

fn support(root: &HostRoot) -> Fact {
    const NAME: &str = "kexec.support";
    match is_loaded(root) {
        Some(_) => Fact::ok(NAME, Need::Kexec, "this kernel has it"),
        None => Fact::missing(
            NAME,
            Need::Kexec,
            "this kernel has none (no /sys/kernel/kexec_loaded)",
            "boot one with CONFIG_KEXEC_FILE, and mount sysfs",
        ),
    }
}

/// Checks whether an image can be loaded.
fn loading(root: &HostRoot) -> Vec<Fact> {
    let ok = |name: &str, found: &str| Fact::ok(name, Need::Kexec, found);
    let missing =
        |name: &str, found: &str, remedy: &str| Fact::missing(name, Need::Kexec, found, remedy);
    let is_loaded = is_loaded(root) == Some(true);
    let is_disabled = root.read(LOAD_DISABLED).is_some_and(|text| text == "1");
    let is_used_up = root.read(LOAD_LIMIT).is_some_and(|text| text == "0");
    let has_file_load = root.is_built_here_with("CONFIG_KEXEC_FILE") != Some(false);
    vec![
        match is_loaded {
            false => ok("kexec.loaded", "no kernel is loaded"),
            true => Fact::unknown(
                "kexec.loaded",
                Need::Kexec,
                "a kernel is loaded already, and by whom cannot be seen",
                "it is replaced, and not loaded again after a rollback; nothing to do unless you meant that one",
            ),
        },
        match is_disabled {
            false => ok(
                "kexec.load-disabled",
                "kernel.kexec_load_disabled is not set",
            ),
            true => missing(
                "kexec.load-disabled",
                "kernel.kexec_load_disabled is 1",
                "it stays so until the next reboot: leave it 0 at boot",
            ),
        },
        match is_used_up {
            false => ok("kexec.load-limit", "kernels can be loaded"),
            true => missing(
                "kexec.load-limit",
                "kernel.kexec_load_limit_reboot is 0: no more kernel can be loaded",
                "it stays so until the next reboot: set a higher limit at boot, or none",
            ),
        },
        match has_file_load {
            true => ok("kexec.file-load", "kexec_file_load appears to be available"),
            false => missing(
                "kexec.file-load",
                "this kernel is built without CONFIG_KEXEC_FILE, and KHO needs it",
                "boot one with CONFIG_KEXEC_FILE",
            ),
        },
    ]
}

/// Checks privileges and namespaces.
fn process(root: &HostRoot) -> Vec<Fact> {
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
    let has_rights = !lacks_boot && !is_elsewhere("proc/self/ns/user", FIRST_USER_NAMESPACE);
    vec![
        match has_rights {
            true => Fact::ok("kexec.rights", Need::Kexec, "this process has CAP_SYS_BOOT"),
            false => Fact::missing(
                "kexec.rights",
                Need::Kexec,
                "this process lacks CAP_SYS_BOOT in the first user namespace",
                "run it as root, outside of a container",
            ),
        },
        match is_elsewhere("proc/self/ns/pid", FIRST_PID_NAMESPACE) {
            false => Fact::ok(
                "kexec.namespace",
                Need::Kexec,
                "this process is in the first PID namespace",
            ),
            true => Fact::missing(
                "kexec.namespace",
                Need::Kexec,
                "this process is not in the first PID namespace, which a kexec requires",
                "run it outside of the container",
            ),
        },
    ]
}

/// Whether there is a crash kernel. Guests do not survive a panic either way.
fn crash_kernel(root: &HostRoot) -> Fact {
    const NAME: &str = "kexec.crash-kernel";
    let mib = first(root, &CRASH_BYTES)
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0)
        >> 20;
    let is_loaded = first(root, &CRASH_LOADED).is_some_and(|text| text == "1");
    let found = match (mib, is_loaded) {
        (0, _) => return Fact::ok(NAME, Need::Nothing, "no memory is reserved for one"),
        (_, true) => {
            format!("one is loaded, into {mib} MiB: it gets no handover, and a panic loses guests")
        }
        (_, false) => {
            return Fact::missing(
                NAME,
                Need::Nothing,
                format!("{mib} MiB are reserved for one, and none is loaded"),
                "load it (kdump-tools), or boot without crashkernel=",
            );
        }
    };
    Fact::ok(NAME, Need::Nothing, found)
}

#[cfg(test)]
mod tests;
