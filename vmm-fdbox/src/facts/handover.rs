//! Facts about KHO.

use super::previous::PreviousKernel;
use super::{Fact, HostRoot, Module, Need};
use crate::kexec::switch;

pub(super) const CMDLINE: &str = "proc/cmdline";
const DEBUGFS: &str = "sys/kernel/debug";
/// LUO's node. It exists if LUO is on, which requires KHO.
pub(super) const LUO: &str = "dev/liveupdate";
/// Exists if KHO is on (`CONFIG_KEXEC_HANDOVER_DEBUGFS`).
const KHO: &str = "sys/kernel/debug/kho";
const SCRATCH_BYTES: &str = "sys/kernel/debug/kho/out/scratch_len";
/// What the last kernel handed over to the module.
const OF_THE_MODULE: &str = "sys/kernel/debug/kho/in/sub_fdts/fdbox";
const BOOT_IT: &str = "boot a kernel with CONFIG_KEXEC_HANDOVER (Linux 6.16 or later) with kho=on";

pub(super) fn facts(root: &HostRoot, module: &Module) -> Vec<Fact> {
    vec![kho(root, module), previous(root)]
}

/// Whether KHO is on. debugfs, LUO and the module know for sure; otherwise the command line and the
/// configuration have to do.
pub(super) fn kho(root: &HostRoot, module: &Module) -> Fact {
    const NAME: &str = "kho.on";
    let ok = |found: String| Fact::ok(NAME, Need::Kexec, found);
    let missing = |found: &str, remedy| Fact::missing(NAME, Need::Kexec, found, remedy);
    if root.has(KHO) {
        return ok(format!("it is on{}", scratch(root)));
    }
    if root.has(LUO) {
        return ok("it is on, or LUO would not be".into());
    }
    if let Module::Here(info) = module
        && info.features.kho()
    {
        return ok("it is on, according to the module".into());
    }
    let cmdline = root.read(CMDLINE).unwrap_or_default();
    let asked = switch(&cmdline, "kho");
    let built = root.is_built_here_with("CONFIG_KEXEC_HANDOVER");
    let by_default = root.is_built_here_with("CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT");
    let is_off = matches!(module, Module::Here(_)) || debugfs_tells(root);
    match (built, asked) {
        (Some(false), _) => missing(
            "this kernel is built without CONFIG_KEXEC_HANDOVER",
            BOOT_IT,
        ),
        (_, Some(false)) => missing("kho=off is on the command line", "boot with kho=on"),
        (_, Some(true)) if is_off => missing(
            "kho=on is on the command line, and KHO is not on",
            "the kernel log says why (dmesg | grep KHO); a kernel with CONFIG_KEXEC_HANDOVER has it",
        ),
        (_, None) if is_off => missing("it is off", BOOT_IT),
        (_, None) if by_default == Some(false) => missing(
            "kho=on is not on the command line, and this kernel has it off by default",
            "boot with kho=on",
        ),
        (Some(true), Some(true)) => ok("kho=on is on the command line".into()),
        (Some(true), None) if by_default == Some(true) => {
            ok("this kernel has it on by default".into())
        }
        (_, asked) => Fact::unknown(
            NAME,
            Need::Kexec,
            match asked {
                Some(true) => {
                    "kho=on is on the command line, and whether this kernel has KHO cannot be seen"
                }
                _ => "whether this kernel has KHO cannot be seen",
            },
            "mount debugfs (mount -t debugfs debugfs /sys/kernel/debug), or load fdbox.ko: either shows it",
        ),
    }
}

/// Whether the last kernel handed boxes over to a module that is not loaded. Only debugfs shows it.
#[must_use]
pub fn boxes_wait_for_module(root: &HostRoot, module: &Module) -> bool {
    matches!(module, Module::Absent) && root.has(OF_THE_MODULE)
}

/// What to do if KHO is off.
pub(super) fn remedy(kho: &Fact) -> String {
    kho.remedy.clone().unwrap_or_else(|| BOOT_IT.into())
}

/// Whether debugfs would show KHO if it were on.
fn debugfs_tells(root: &HostRoot) -> bool {
    !root.names(DEBUGFS).is_empty()
        && root.is_built_here_with("CONFIG_KEXEC_HANDOVER_DEBUGFS") == Some(true)
}

/// How much memory KHO reserves for the next kernel to boot in.
fn scratch(root: &HostRoot) -> String {
    let bytes = |line: &str| u64::from_str_radix(line.strip_prefix("0x")?, 16).ok();
    let text = root.read(SCRATCH_BYTES).unwrap_or_default();
    let areas: Option<Vec<u64>> = text.lines().map(bytes).collect();
    match areas {
        Some(areas) if !areas.is_empty() => {
            let mib = areas.iter().sum::<u64>() >> 20;
            format!(", and keeps {mib} MiB free for the next kernel to boot in")
        }
        _ => String::new(),
    }
}

fn previous(root: &HostRoot) -> Fact {
    let found = match PreviousKernel::read_in(root) {
        Some(previous) => previous.to_string(),
        None => "this kernel reports no handover from a previous one".into(),
    };
    Fact::ok("kho.previous-kernel", Need::Nothing, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Features, Info};
    use crate::facts::FactState;
    use crate::facts::testing::FakeRoot;

    #[track_caller]
    fn assert_kho(host: &FakeRoot, state: FactState, found: &str) {
        let fact = kho(&host.root(), &Module::Absent);
        assert_eq!(fact.state, state, "{fact:?}");
        assert!(fact.found.contains(found), "{fact:?}");
    }

    #[test]
    fn debugfs_shows_that_it_is_on() {
        let host = FakeRoot::new();
        host.set(SCRATCH_BYTES, "0x1000000\n0x800000\n");
        assert_kho(&host, FactState::Ok, "keeps 24 MiB free");
        host.set(SCRATCH_BYTES, "junk\n");
        assert_kho(&host, FactState::Ok, "it is on");
    }

    #[test]
    fn luo_takes_it() {
        let host = FakeRoot::new();
        host.set(LUO, "");
        assert_kho(&host, FactState::Ok, "LUO");
    }

    #[test]
    fn the_module_knows() {
        let host = FakeRoot::new();
        for (bits, state) in [
            (crate::abi::FDBOX_FEATURE_KHO, FactState::Ok),
            (0, FactState::Missing),
        ] {
            let info = Info {
                features: Features::from_bits(bits),
                ..Info::default()
            };
            assert_eq!(kho(&host.root(), &Module::Here(info)).state, state);
        }
    }

    #[test]
    fn else_the_command_line_and_the_configuration_say_it() {
        let built = "CONFIG_KEXEC_HANDOVER=y\n";
        let by_default = "CONFIG_KEXEC_HANDOVER=y\nCONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\n";
        let other = "CONFIG_KEXEC=y\n";
        for (cmdline, config, state, found) in [
            ("kho=off", Some(by_default), FactState::Missing, "kho=off"),
            ("kho=on", Some(other), FactState::Missing, "built without"),
            ("kho=on", Some(built), FactState::Ok, "kho=on"),
            ("quiet", Some(by_default), FactState::Ok, "by default"),
            ("quiet", Some(built), FactState::Missing, "off by default"),
            ("kho=on", None, FactState::Unknown, "cannot be seen"),
            ("quiet", None, FactState::Unknown, "cannot be seen"),
            ("kho=0", None, FactState::Missing, "kho=off"),
        ] {
            let host = FakeRoot::new();
            host.set("proc/sys/kernel/osrelease", "7.3.4\n");
            host.set(CMDLINE, cmdline);
            if let Some(config) = config {
                host.set("boot/config-7.3.4", config);
            }
            assert_kho(&host, state, found);
        }
    }

    #[test]
    fn boxes_wait_for_a_module_that_is_not_loaded() {
        let host = FakeRoot::new();
        assert!(!boxes_wait_for_module(&host.root(), &Module::Absent));
        host.set(OF_THE_MODULE, "");
        assert!(boxes_wait_for_module(&host.root(), &Module::Absent));
        assert!(!boxes_wait_for_module(
            &host.root(),
            &Module::Here(Info::default())
        ));
    }

    #[test]
    fn kho_that_debugfs_would_show_is_off() {
        let host = FakeRoot::new();
        host.set("proc/sys/kernel/osrelease", "7.3.4\n");
        host.set(CMDLINE, "kho=on");
        host.set("sys/kernel/debug/sched/features", "");
        let config = "CONFIG_KEXEC_HANDOVER=y\nCONFIG_KEXEC_HANDOVER_DEBUGFS=y\n";
        host.set("boot/config-7.3.4", config);
        assert_kho(&host, FactState::Missing, "KHO is not on");
    }
}
