//! Facts about KVM on this host.

use vmm_fdbox::facts::{Fact, HostRoot, Need};

use super::{Host, KvmError};
use crate::error::chain;

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Whether KVM uses the CPU's nested paging, by vendor.
const PAGING: [&str; 2] = [
    "sys/module/kvm_intel/parameters/ept",
    "sys/module/kvm_amd/parameters/npt",
];
/// Whether guests can run guests of their own.
const NESTED: [&str; 2] = [
    "sys/module/kvm_intel/parameters/nested",
    "sys/module/kvm_amd/parameters/nested",
];

/// What KVM reports.
#[derive(Debug)]
pub(crate) struct Answer {
    has_guest_memfd: bool,
    max_vcpus: usize,
}

/// Asks KVM. This creates a VM and closes it at once.
pub(crate) fn ask() -> Result<Answer, KvmError> {
    let host = Host::open()?;
    Ok(Answer {
        has_guest_memfd: host.create_vm()?.has_guest_memfd(),
        max_vcpus: host.max_vcpus(),
    })
}

pub(crate) fn facts(root: &HostRoot, answer: &Result<Answer, KvmError>) -> Vec<Fact> {
    let mut facts = vec![device(answer)];
    if let Ok(answer) = answer {
        facts.push(guest_memfd(answer));
    }
    facts.extend([paging(root), nested(root), clock(root)]);
    facts
}

fn device(answer: &Result<Answer, KvmError>) -> Fact {
    const NAME: &str = "kvm.device";
    let missing = |found: String, remedy| Fact::missing(NAME, Need::Guest, found, remedy);
    match answer {
        Ok(answer) => Fact::ok(
            NAME,
            Need::Guest,
            format!(
                "/dev/kvm has all that guests need, and up to {} vCPUs",
                answer.max_vcpus
            ),
        ),
        Err(KvmError::Open(error)) => missing(
            format!("/dev/kvm cannot be opened: {error}"),
            "load kvm_intel or kvm_amd (in a VM, switch on nested virtualisation); it takes root or \
             membership of the kvm group",
        ),
        Err(error) => missing(chain(error), "boot Linux 6.8 or later"),
    }
}

fn guest_memfd(answer: &Answer) -> Fact {
    const NAME: &str = "kvm.guest-memfd";
    match answer.has_guest_memfd {
        true => Fact::ok(NAME, Need::Nothing, "guests can have memory of KVM's own"),
        false => Fact::missing(
            NAME,
            Need::Nothing,
            "this KVM has no mappable guest_memfd",
            "run guests with --memory kind=memfd, or boot Linux 6.18 or later",
        ),
    }
}

/// A module parameter of whichever KVM module is loaded.
fn parameter(root: &HostRoot, paths: &[&str]) -> Option<bool> {
    let text = paths.iter().find_map(|path| root.read(path))?;
    Some(matches!(text.as_str(), "Y" | "1"))
}

fn paging(root: &HostRoot) -> Fact {
    const NAME: &str = "kvm.nested-paging";
    match parameter(root, &PAGING) {
        Some(true) => Fact::ok(
            NAME,
            Need::Nothing,
            "the CPU walks guests' page tables (EPT, NPT)",
        ),
        Some(false) => Fact::missing(
            NAME,
            Need::Nothing,
            "KVM walks guests' page tables itself, which is slow",
            "load kvm_intel with ept=1, or kvm_amd with npt=1, where the CPU has it",
        ),
        None => Fact::unknown(
            NAME,
            Need::Nothing,
            "neither kvm_intel nor kvm_amd is loaded",
            "load the one for this CPU",
        ),
    }
}

/// Only matters for guests that run guests of their own.
fn nested(root: &HostRoot) -> Fact {
    let found = match parameter(root, &NESTED) {
        Some(true) => "guests can have guests",
        _ => "guests cannot have guests",
    };
    Fact::ok("kvm.nested", Need::Nothing, found)
}

fn clock(root: &HostRoot) -> Fact {
    const NAME: &str = "clock.tsc";
    match root.read(CLOCK).as_deref() {
        Some("tsc") => Fact::ok(NAME, Need::Nothing, "the host's clock is its TSC"),
        Some(other) => Fact::unknown(
            NAME,
            Need::Nothing,
            format!("the host's clock is {other}, so its TSC may not be stable"),
            "guests' clocks may be off by the blackout after an update: boot a host with a stable TSC",
        ),
        None => Fact::unknown(
            NAME,
            Need::Nothing,
            "sysfs does not name the host's clock",
            "mount sysfs",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vmm_fdbox::facts::FactState;
    use vmm_sys_util::errno;

    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = HostRoot::new(dir.path());
        (dir, root)
    }

    #[track_caller]
    fn state(facts: &[Fact], name: &str) -> FactState {
        facts.iter().find(|fact| fact.name == name).unwrap().state
    }

    #[test]
    fn a_good_kvm_has_nothing_to_do() {
        let files = [(PAGING[1], "Y\n"), (NESTED[1], "1\n"), (CLOCK, "tsc\n")];
        let (_dir, root) = host(&files);
        let answer = Answer {
            has_guest_memfd: true,
            max_vcpus: 8,
        };
        let facts = facts(&root, &Ok(answer));
        assert!(
            facts.iter().all(|fact| fact.state == FactState::Ok),
            "{facts:?}"
        );
        assert_eq!(facts.len(), 5);
    }

    #[test]
    fn without_kvm_there_are_no_guests() {
        let (_dir, root) = host(&[(CLOCK, "hpet\n")]);
        for error in [
            KvmError::Open(errno::Error::new(2)),
            KvmError::Lacks { what: "irqfd" },
        ] {
            let facts = facts(&root, &Err(error));
            assert!(facts[0].rules_out(Need::Guest), "{facts:?}");
            assert_eq!(state(&facts, "kvm.nested-paging"), FactState::Unknown);
            assert_eq!(state(&facts, "clock.tsc"), FactState::Unknown);
        }
    }

    #[test]
    fn a_kvm_of_before_has_other_memory() {
        let (_dir, root) = host(&[(PAGING[0], "N\n")]);
        let answer = Answer {
            has_guest_memfd: false,
            max_vcpus: 8,
        };
        let facts = facts(&root, &Ok(answer));
        assert_eq!(state(&facts, "kvm.guest-memfd"), FactState::Missing);
        assert_eq!(state(&facts, "kvm.nested-paging"), FactState::Missing);
        assert!(!facts.iter().any(|fact| fact.rules_out(Need::Guest)));
    }
}
