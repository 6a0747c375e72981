//! Simulated hosts, and the findings on them.

use super::*;
use crate::facts::FactState;
use crate::facts::testing::FakeRoot;
use crate::kexec::testing::assert_documented;

/// A host on which nothing prevents a kexec.
fn host() -> FakeRoot {
    let host = FakeRoot::new();
    host.set(LOADED[0], "0\n");
    host.set(LOAD_DISABLED, "0\n");
    host.set(LOAD_LIMIT, "-1\n");
    host.set("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
    host.set("proc/sys/kernel/osrelease", "7.3.4\n");
    host.link("proc/self/ns/pid", FIRST_PID_NAMESPACE);
    host.link("proc/self/ns/user", FIRST_USER_NAMESPACE);
    host
}

#[track_caller]
fn assert_found(host: &FakeRoot, problem: &str, is_blocker: bool) {
    let found = check(&host.root(), true);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].problem.contains(problem), "{}", found[0]);
    assert_eq!(found[0].is_blocker(), is_blocker, "{}", found[0]);
    assert_documented(problem);
    // The facts about the host are the same.
    let found = facts(&host.root());
    let bad: Vec<_> = found
        .iter()
        .filter(|fact| fact.state != FactState::Ok)
        .collect();
    assert!(
        bad.iter().any(|fact| fact.found.contains(problem)),
        "{bad:?}"
    );
}

#[test]
fn nothing_is_in_the_way_of_a_host_that_allows_it() {
    let host = host();
    assert_eq!(check(&host.root(), true), []);
    host.set("boot/config-7.3.4", "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\n");
    assert_eq!(check(&host.root(), true), []);
}

#[test]
fn each_thing_in_the_way_is_named() {
    type Change = fn(&FakeRoot);
    let cases: [(&str, Change); 7] = [
        ("kernel.kexec_load_disabled is 1", |host| {
            host.set(LOAD_DISABLED, "1\n")
        }),
        ("no more kernel can be loaded", |host| {
            host.set(LOAD_LIMIT, "0\n")
        }),
        ("lacks CAP_SYS_BOOT", |host| {
            host.set("proc/self/status", "CapEff:\t000001ffffbfffff\n");
        }),
        ("lacks CAP_SYS_BOOT", |host| {
            host.link("proc/self/ns/user", "user:[4026532000]")
        }),
        ("not in the first PID namespace", |host| {
            host.link("proc/self/ns/pid", "pid:[4026532001]")
        }),
        ("built without CONFIG_KEXEC_FILE", |host| {
            host.set(
                "boot/config-7.3.4",
                "CONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set\n",
            );
        }),
        ("this kernel has none", |host| {
            host.remove(LOADED[0]);
        }),
    ];
    for (problem, change) in cases {
        let host = host();
        change(&host);
        assert_found(&host, problem, true);
    }
}

#[test]
fn an_image_that_somebody_else_loaded_is_told_before_it_is_replaced() {
    let host = host();
    host.set(LOADED[0], "1\n");
    assert_found(&host, "by whom cannot be seen", false);
    assert_eq!(check(&host.root(), false), []);
    // The path of older kernels.
    host.remove(LOADED[0]);
    host.set(LOADED[1], "1\n");
    assert_eq!(is_loaded(&host.root()), Some(true));
}

#[test]
fn what_the_kernel_says_of_the_loaded_image_is_read() {
    let host = host();
    assert_eq!(handover(&host.root()), Handover::Unknown);
    for (text, expected) in [
        ("none\n", Handover::None),
        ("0x0\n", Handover::Takes(None)),
        ("0x7f\n", Handover::Takes(TakeOver::parse("0x7f"))),
        ("later\n", Handover::Unknown),
    ] {
        host.set(HANDOVER, text);
        assert_eq!(handover(&host.root()), expected, "{text}");
    }
}

#[test]
fn a_host_in_good_order_has_nothing_to_do() {
    for fact in facts(&host().root()) {
        assert_eq!(
            (fact.state, &fact.remedy),
            (FactState::Ok, &None),
            "{fact:?}"
        );
    }
}

#[test]
fn a_crash_kernel_that_memory_waits_for_is_missed() {
    let host = host();
    let state = || {
        let fact = crash_kernel(&host.root());
        (fact.state, fact.found)
    };
    assert_eq!(state().0, FactState::Ok);
    host.set(CRASH_BYTES[1], "268435456\n");
    host.set(CRASH_LOADED[1], "0\n");
    let (missing, found) = state();
    assert_eq!(missing, FactState::Missing);
    assert!(found.contains("256 MiB"), "{found}");
    host.set(CRASH_LOADED[1], "1\n");
    assert_eq!(state().0, FactState::Ok);
}
