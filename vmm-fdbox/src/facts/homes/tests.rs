//! Simulated hosts, with and without each home.

use super::*;
use crate::abi;
use crate::control::Info;
use crate::facts::testing::FakeRoot;

const ALL_KINDS: u64 = abi::FDBOX_FEATURE_KHO
    | abi::FDBOX_FEATURE_MEMFD
    | abi::FDBOX_FEATURE_KVM_VM
    | abi::FDBOX_FEATURE_GUEST_MEMFD;

const ALL: &[Home] = &[Home::Fdbox, Home::Luo, Home::Holder];

fn module(features: u64) -> Module {
    Module::Here(Info {
        uapi_version: abi::FDBOX_UAPI_VERSION,
        features: Features::from_bits(features),
        ..Info::default()
    })
}

fn host(release: &str) -> FakeRoot {
    let host = FakeRoot::new();
    host.set("proc/sys/kernel/osrelease", release);
    host.set(handover::CMDLINE, "quiet");
    host
}

#[track_caller]
fn state(facts: &[Fact], name: &str) -> FactState {
    let fact = facts.iter().find(|fact| fact.name == name);
    fact.unwrap_or_else(|| panic!("There is no {name}")).state
}

#[test]
fn the_module_is_the_first_choice() {
    let host = host("7.3.4-fdbox-a\n");
    host.set(handover::LUO, "");
    let found = facts(&host.root(), &module(ALL_KINDS), ALL);
    assert_eq!(first_home(ALL, &found), Some(Home::Fdbox));
    assert_eq!(state(&found, "home"), FactState::Ok);
    let kinds = kinds(&host.root(), &module(ALL_KINDS));
    assert_eq!(state(&kinds, "kind.kvm-vm"), FactState::Ok);
    assert_eq!(state(&kinds, "kind.vfio-pci"), FactState::Missing);
    assert_eq!(state(&kinds, "kind.hugetlb"), FactState::Missing);
}

#[test]
fn a_module_that_is_of_no_use_says_why() {
    let host = host("7.3.4\n");
    for (module, why) in [
        (module(ALL_KINDS & !abi::FDBOX_FEATURE_KHO), "KHO is off"),
        (
            module(ALL_KINDS & !abi::FDBOX_FEATURE_KVM_VM),
            "keeps no VM",
        ),
        (module(ALL_KINDS | abi::FDBOX_FEATURE_REFUSED), "refused"),
        (Module::Absent, "not loaded"),
        (
            Module::Here(Info {
                uapi_version: abi::FDBOX_UAPI_VERSION + 1,
                ..Info::default()
            }),
            "of the UAPI",
        ),
    ] {
        let fact = fdbox(&host.root(), &module);
        assert_eq!(fact.state, FactState::Missing, "{fact:?}");
        assert!(fact.found.contains(why), "{fact:?}");
    }
    let silent = fdbox(&host.root(), &Module::Silent("no right".into()));
    assert_eq!(silent.state, FactState::Unknown);
}

#[test]
fn luo_is_there_when_its_node_is() {
    let host = host("7.3.4\n");
    let found = facts(&host.root(), &Module::Absent, ALL);
    assert_eq!(first_home(ALL, &found), Some(Home::Holder));
    assert_eq!(state(&found, "home"), FactState::Missing);
    host.set(handover::LUO, "");
    let found = facts(&host.root(), &Module::Absent, ALL);
    assert_eq!(first_home(ALL, &found), Some(Home::Luo));
    assert_eq!(state(&found, "home"), FactState::Ok);
    // A program that cannot use LUO has no home.
    let found = facts(&host.root(), &Module::Absent, &[Home::Fdbox]);
    assert_eq!(state(&found, "home"), FactState::Missing);
    let kinds = kinds(&host.root(), &Module::Absent);
    assert_eq!(state(&kinds, "kind.memfd"), FactState::Ok);
    assert_eq!(state(&kinds, "kind.kvm-vm"), FactState::Missing);
}

#[test]
fn what_luo_takes_is_reported() {
    let host = host("7.3.4\n");
    let asked = |text: &str| {
        let fact = luo(&host.root());
        assert_eq!(fact.state, FactState::Missing);
        assert!(fact.found.contains(text), "{fact:?}");
    };
    asked("liveupdate=on is not on");
    host.set(handover::CMDLINE, "liveupdate=on");
    asked("liveupdate=on is on");
    host.set("boot/config-7.3.4", "CONFIG_KEXEC=y\n");
    asked("without CONFIG_LIVEUPDATE");
}

#[test]
fn descriptors_are_held_from_linux_6_1_on() {
    for (release, state) in [
        ("7.3.4-fdbox-a", FactState::Ok),
        ("6.1.0-13-amd64", FactState::Ok),
        ("6.0.9", FactState::Missing),
        ("5.10.0", FactState::Missing),
        ("next", FactState::Unknown),
    ] {
        assert_eq!(holder(&host(release).root()).state, state, "{release}");
    }
}
