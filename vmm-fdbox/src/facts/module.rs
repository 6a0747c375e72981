//! Facts about the module and the kernel patches.

use super::{Fact, HostRoot, Need};
use crate::kexec::host::HANDOVER;
use crate::kexec::signature;

const LOADED: &str = "sys/module/fdbox";
/// `Y` if this kernel only loads modules with a trusted signature.
const ENFORCED: &str = "sys/module/module/parameters/sig_enforce";

pub(crate) fn is_loaded(root: &HostRoot) -> bool {
    root.has(LOADED)
}

/// Whether fdbox.ko is installed for a kernel. `None` if no modules are, or depmod has not run.
pub(crate) fn is_installed(root: &HostRoot, release: &str) -> Option<bool> {
    let modules = root.read(format!("lib/modules/{release}/modules.dep"))?;
    let mut paths = modules.lines().filter_map(|line| line.split(':').next());
    Some(paths.any(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        matches!(
            name,
            "fdbox.ko" | "fdbox.ko.xz" | "fdbox.ko.zst" | "fdbox.ko.gz"
        )
    }))
}

pub(super) fn facts(root: &HostRoot) -> Vec<Fact> {
    let mut facts = vec![patches(root)];
    if !is_loaded(root) {
        facts.extend([installed(root), signatures(root)]);
    }
    facts
}

/// Only a patched kernel has the file that shows what the loaded image takes over.
fn patches(root: &HostRoot) -> Fact {
    const NAME: &str = "module.patches";
    match root.has(HANDOVER) {
        true => Fact::ok(
            NAME,
            Need::Nothing,
            "this kernel is built with kmod/patches",
        ),
        false => Fact::missing(
            NAME,
            Need::Nothing,
            "this kernel shows no sign of kmod/patches",
            "boot one that is built with them, for VMs and devices to cross a kexec",
        ),
    }
}

fn installed(root: &HostRoot) -> Fact {
    const NAME: &str = "module.installed";
    let release = root.release().unwrap_or_default();
    match is_installed(root, &release) {
        Some(true) => Fact::missing(
            NAME,
            Need::Nothing,
            "fdbox.ko is installed for this kernel, and not loaded",
            "modprobe fdbox",
        ),
        Some(false) => Fact::missing(
            NAME,
            Need::Nothing,
            format!("no fdbox.ko is installed in /lib/modules/{release}"),
            "install fdbox-dkms, for a kernel with kmod/patches",
        ),
        None => Fact::unknown(
            NAME,
            Need::Nothing,
            format!("there are no modules in /lib/modules/{release}"),
            "install this kernel's modules and run depmod",
        ),
    }
}

fn signatures(root: &HostRoot) -> Fact {
    const NAME: &str = "module.signature";
    let because = match signature::lockdown(root) {
        Some(level) => format!("this kernel is locked down ({level})"),
        None if root.read(ENFORCED).is_some_and(|text| text == "Y") => {
            "this kernel has module.sig_enforce".into()
        }
        None => return Fact::ok(NAME, Need::Nothing, "modules need no signature"),
    };
    Fact::unknown(
        NAME,
        Need::Nothing,
        format!(
            "{because} and loads signed modules only: whether it trusts fdbox.ko's signature is seen when it is loaded"
        ),
        "sign it with a key that this kernel trusts (DKMS does, by a machine owner key: mokutil --import)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::FactState;
    use crate::facts::testing::FakeRoot;

    #[test]
    fn the_module_is_found_wherever_it_was_installed() {
        let host = FakeRoot::new();
        let root = host.root();
        assert_eq!(is_installed(&root, "7.3.4"), None);
        let dep = "lib/modules/7.3.4/modules.dep";
        host.set(dep, "kernel/fs/nofdbox.ko:\nkernel/a.ko: extra/fdbox.ko\n");
        assert_eq!(is_installed(&root, "7.3.4"), Some(false));
        for path in [
            "updates/fdbox.ko",
            "updates/dkms/fdbox.ko.xz",
            "fdbox.ko.zst",
        ] {
            host.set(dep, format!("kernel/a.ko:\n{path}: kernel/a.ko\n"));
            assert_eq!(is_installed(&root, "7.3.4"), Some(true), "{path}");
        }
    }

    #[test]
    fn what_is_to_be_done_for_the_module_is_reported() {
        let host = FakeRoot::new();
        let root = host.root();
        host.set("proc/sys/kernel/osrelease", "7.3.4\n");
        assert_eq!(installed(&root).state, FactState::Unknown);
        host.set("lib/modules/7.3.4/modules.dep", "updates/fdbox.ko:\n");
        assert_eq!(installed(&root).remedy.as_deref(), Some("modprobe fdbox"));
        assert_eq!(signatures(&root).state, FactState::Ok);
        host.set(ENFORCED, "Y\n");
        assert_eq!(signatures(&root).state, FactState::Unknown);
        assert_eq!(patches(&root).state, FactState::Missing);
        host.set(HANDOVER, "none\n");
        assert_eq!(patches(&root).state, FactState::Ok);
        // A loaded module was found and trusted.
        host.set("sys/module/fdbox/version", "1\n");
        let names: Vec<_> = facts(&root).into_iter().map(|fact| fact.name).collect();
        assert_eq!(names, ["module.patches"]);
    }
}
