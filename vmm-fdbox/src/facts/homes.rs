//! Facts about what can keep boxes on this host, and which kinds of files.

use super::{Fact, FactState, HostRoot, Module, Need, handover};
use crate::control::Features;
use crate::home::Home;

/// The first kernel that supports a holder.
const HOLDER_SINCE: (u32, u32) = (6, 1);

/// The first of `homes` that is available according to these facts.
#[must_use]
pub fn first_home(homes: &[Home], facts: &[Fact]) -> Option<Home> {
    let is_there = |home: &&Home| {
        let name = format!("home.{home}");
        let mut facts = facts.iter();
        facts.any(|fact| fact.name == name && fact.state == FactState::Ok)
    };
    homes.iter().find(is_there).copied()
}

/// Whether a home preserves a box across a kexec.
fn crosses_a_kexec(home: Home) -> bool {
    home != Home::Holder
}

/// One fact per home, and whether one of the usable ones crosses a kexec.
pub(super) fn facts(root: &HostRoot, module: &Module, homes: &[Home]) -> Vec<Fact> {
    let mut facts = vec![fdbox(root, module), luo(root), holder(root)];
    let home = first_home(homes, &facts).filter(|home| crosses_a_kexec(*home));
    let crossing = homes.iter().filter(|home| crosses_a_kexec(**home));
    let names: Vec<_> = crossing.map(|home| format!("home.{home}")).collect();
    let remedy = format!("see {}", names.join(" and "));
    facts.push(match home {
        Some(home) => Fact::ok("home", Need::Kexec, format!("boxes are in {home}")),
        None => Fact::missing(
            "home",
            Need::Kexec,
            "no box on this host crosses a kexec",
            remedy,
        ),
    });
    facts
}

fn fdbox(root: &HostRoot, module: &Module) -> Fact {
    const NAME: &str = "home.fdbox";
    let missing = |found: String, remedy: &str| Fact::missing(NAME, Need::Nothing, found, remedy);
    let info = match module {
        Module::Here(info) => info,
        Module::Absent => {
            let found = "no /dev/fdbox/fdbox: fdbox.ko is not loaded".into();
            return missing(found, "load it: see module.installed and module.patches");
        }
        Module::Silent(error) => {
            return Fact::unknown(NAME, Need::Nothing, error, "run this as root");
        }
    };
    if info.uapi_version != crate::abi::FDBOX_UAPI_VERSION {
        let found = format!("the module has version {} of the UAPI", info.uapi_version);
        return missing(found, "install fdbox.ko and vmm-example of one release");
    }
    if info.features.handover_refused() {
        let found = "a handover arrived and was refused".into();
        return missing(found, "the kernel log says why (dmesg | grep fdbox)");
    }
    if !info.features.kho() {
        let kho = handover::kho(root, module);
        return missing(
            "fdbox.ko is loaded, and KHO is off".into(),
            &handover::remedy(&kho),
        );
    }
    if !info.features.kvm_vm() {
        let found = "fdbox.ko is loaded, and this kernel keeps no VM in a box".into();
        return missing(
            found,
            "boot a kernel that is built with kmod/patches, or load its KVM (kvm_intel, kvm_amd)",
        );
    }
    Fact::ok(
        NAME,
        Need::Nothing,
        format!("fdbox.ko is loaded and has {} boxes", info.boxes),
    )
}

fn luo(root: &HostRoot) -> Fact {
    const NAME: &str = "home.luo";
    if root.has(handover::LUO) {
        return Fact::ok(NAME, Need::Nothing, "there is /dev/liveupdate");
    }
    let cmdline = root.read(handover::CMDLINE).unwrap_or_default();
    let is_asked_for = crate::kexec::switch(&cmdline, "liveupdate") == Some(true);
    let (found, remedy) = match root.is_built_here_with("CONFIG_LIVEUPDATE") {
        Some(false) => (
            "this kernel is built without CONFIG_LIVEUPDATE",
            "boot one with CONFIG_LIVEUPDATE (Linux 6.19 or later)",
        ),
        _ if is_asked_for => (
            "liveupdate=on is on the command line, and there is no /dev/liveupdate",
            "boot a kernel with CONFIG_LIVEUPDATE, with kho=on as well; the kernel log may say more",
        ),
        _ => (
            "no /dev/liveupdate, and liveupdate=on is not on the command line",
            "boot a kernel that has it (CONFIG_LIVEUPDATE) with kho=on liveupdate=on",
        ),
    };
    Fact::missing(NAME, Need::Nothing, found, remedy)
}

fn holder(root: &HostRoot) -> Fact {
    const NAME: &str = "home.holder";
    let release = root.release().unwrap_or_default();
    let is_new_enough = version(&release).map(|version| version >= HOLDER_SINCE);
    let systemd = match root.has("run/systemd/system") {
        true => "systemd is there to hold descriptors",
        false => "a process can hold descriptors: there is no systemd",
    };
    match is_new_enough {
        Some(true) => Fact::ok(
            NAME,
            Need::Nothing,
            format!("{systemd}; not across a kexec"),
        ),
        Some(false) => Fact::missing(
            NAME,
            Need::Nothing,
            format!("this kernel is {release}"),
            "boot Linux 6.1 or later",
        ),
        None => Fact::unknown(
            NAME,
            Need::Nothing,
            format!("this kernel's release is {release:?}"),
            "Linux 6.1 or later will do",
        ),
    }
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// One fact per kind of file.
pub(super) fn kinds(root: &HostRoot, module: &Module) -> Vec<Fact> {
    type Has = fn(Features) -> bool;
    let kinds: [(&str, Need, Has); 6] = [
        ("kind.memfd", Need::Kexec, Features::memfd),
        ("kind.kvm-vm", Need::Nothing, Features::kvm_vm),
        ("kind.guest-memfd", Need::Nothing, Features::guest_memfd),
        ("kind.iommufd", Need::Device, Features::iommufd),
        ("kind.vfio-pci", Need::Device, Features::vfio_pci),
        ("kind.hugetlb", Need::Nothing, Features::hugetlb),
    ];
    let luo_has_memfd = root.has(handover::LUO)
        && root.is_built_here_with("CONFIG_LIVEUPDATE_MEMFD") != Some(false);
    let kind = |(name, need, has): (&str, Need, Has)| match module {
        Module::Here(info) if has(info.features) => Fact::ok(name, need, "boxes keep it"),
        _ if name == "kind.memfd" && luo_has_memfd => Fact::ok(name, need, "LUO keeps it"),
        Module::Here(_) => Fact::missing(
            name,
            need,
            "this kernel keeps none in a box",
            "boot a kernel with kmod/patches and the kind's subsystem (KVM, IOMMUFD, VFIO_PCI)",
        ),
        Module::Silent(error) => Fact::unknown(name, need, error, "run this as root"),
        Module::Absent => Fact::missing(
            name,
            need,
            "nothing on this host keeps it across a kexec",
            "load fdbox.ko: see home.fdbox",
        ),
    };
    kinds.into_iter().map(kind).collect()
}

#[cfg(test)]
mod tests;
