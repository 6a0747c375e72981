//! Command lines, and the findings for each.

use super::*;
use crate::kexec::testing::assert_documented;

/// How a kernel with KHO off by default interprets a command line; `None` means the default
/// applies. Each case was looked up in lib/kstrtox.c, lib/cmdline.c and kernel/params.c of
/// Linux 7.3.4.
const KHO: [(&str, Option<bool>); 40] = [
    ("kho=on", Some(true)),
    ("kho=ON", Some(true)),
    ("kho=one", Some(true)),
    ("kho=1", Some(true)),
    ("kho=y", Some(true)),
    ("kho=Yes", Some(true)),
    ("kho=true", Some(true)),
    ("kho=enable", Some(true)),
    ("kho=1off", Some(true)),
    ("kho=off", Some(false)),
    ("kho=of", Some(false)),
    ("kho=offline", Some(false)),
    ("kho=0", Some(false)),
    ("kho=0x", Some(false)),
    ("kho=0x1", Some(false)),
    ("kho=N", Some(false)),
    ("kho=fine", Some(false)),
    ("kho=disable", Some(false)),
    ("kho=o", None),
    ("kho=open", None),
    ("kho=2", None),
    ("kho=junk", None),
    ("kho=-1", None),
    ("kho=", None),
    ("kho", None),
    ("kho==on", None),
    // Each is applied in turn; one that is not understood changes nothing.
    ("kho=off kho=on", Some(true)),
    ("kho=on kho=off", Some(false)),
    ("kho=off kho=junk", Some(false)),
    ("kho=on kho=junk kho", Some(true)),
    ("kho=junk kho=on", Some(true)),
    // What follows `--` is for init.
    ("quiet -- kho=on", None),
    ("kho=on -- kho=off", Some(true)),
    ("kho=on \"--\" kho=off", Some(true)),
    ("--kho=on", None),
    // Quotes.
    ("kho=\"on\"", Some(true)),
    ("\"kho=on\"", Some(true)),
    ("dyndbg=\"file x kho=on\" quiet", None),
    // Other parameters do not count.
    ("xkho=on kho_scratch=1% kho.on=1 KHO=on", None),
    ("a=b\tkho=on\nquiet", Some(true)),
];

#[test]
fn kho_is_read_as_the_kernel_reads_it() {
    for (cmdline, expected) in KHO {
        assert_eq!(Kho::of(cmdline).setting, expected, "{cmdline:?}");
        assert_eq!(switch(cmdline, "kho"), expected, "{cmdline:?}");
    }
}

#[test]
fn a_byte_a0_ends_a_word_as_in_the_kernel() {
    // U+00E0 is C3 A0, and A0 is a space in the kernel's table.
    assert_eq!(Kho::of("root=\u{e0}kho=on").setting, Some(true));
}

#[track_caller]
fn kho_finding(next: &str, running: &str, default: Option<bool>) -> Finding {
    let found = check(next, running, default);
    assert_eq!(found.len(), 1, "{next:?}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_command_line_that_would_lose_the_boxes_is_a_blocker() {
    for (next, problem) in [
        ("kho=of", "turns KHO off, and every box would be lost"),
        ("kho=off kho=junk", "turns KHO off"),
        ("quiet kho=junk", "says neither on nor off"),
        ("kho", "says neither on nor off"),
        ("quiet -- kho=on", "is after --"),
        (
            "quiet",
            "it lacks kho=on, which this kernel was booted with",
        ),
        ("a\0b kho=on", "it holds a NUL at byte 1"),
    ] {
        let found = kho_finding(next, "kho=1", None);
        assert!(found.is_blocker(), "{next:?}");
        assert!(found.problem.contains(problem), "{found}");
        assert_documented(problem.trim_end_matches(" 1"));
    }
    assert!(
        kho_finding("kho=of", "", None)
            .problem
            .starts_with("kho=of ")
    );
}

#[test]
fn without_kho_the_configuration_decides() {
    assert_eq!(check("quiet", "kho=on", Some(true)), []);
    let found = kho_finding("quiet", "", Some(false));
    assert!(found.is_blocker(), "{found}");
    assert_documented("the next kernel's configuration leaves KHO off");
    let found = kho_finding("quiet", "quiet", None);
    assert!(!found.is_blocker(), "{found}");
    assert_documented("whether the next kernel has KHO on by itself cannot be known");
    assert_eq!(check("kho=on", "kho=on", Some(false)), []);
}

#[test]
fn an_iommu_that_would_translate_otherwise_is_reported() {
    let running = "kho=on intel_iommu=on quiet iommu=strict";
    for next in [
        "kho=on",
        "kho=on iommu=strict intel_iommu=off",
        "kho=on intel_iommu=on,sm_on iommu=strict",
        "kho=on -- intel_iommu=on iommu=strict",
    ] {
        let findings = check(next, running, None);
        assert_eq!(findings.len(), 1, "{next}: {findings:?}");
        assert!(!findings[0].is_blocker());
        assert!(findings[0].problem.contains("intel_iommu=on"));
    }
    let same = "intel-iommu=on iommu=\"strict\" kho=on stage=2 xiommu=off";
    assert_eq!(check(same, running, None), []);
}

#[test]
fn memory_and_crash_kernels_that_would_be_others_are_reported() {
    let running = "kho=on mem=8G memmap=64K$0x1000 crashkernel=256M";
    for (next, what, shown) in [
        (
            "kho=on mem=4G memmap=64K$0x1000 crashkernel=256M",
            "memory options",
            "mem=4G",
        ),
        ("kho=on crashkernel=256M", "memory options", "mem=8G"),
        (
            "kho=on mem=8G memmap=64K$0x1000",
            "crashkernel=",
            "crashkernel=256M",
        ),
        (
            "kho=on mem=8G memmap=64K$0x1000 crashkernel=1G,high",
            "crashkernel=",
            "crashkernel=1G,high",
        ),
    ] {
        let found = check(next, running, None);
        assert_eq!(found.len(), 1, "{next}: {found:?}");
        assert!(!found[0].is_blocker(), "{next}");
        assert!(found[0].problem.contains(what), "{}", found[0]);
        assert!(found[0].problem.contains(shown), "{}", found[0]);
    }
    assert_eq!(check(running, running, None), []);
    assert_documented("its memory options are not this kernel's");
    assert_documented("its crashkernel= is not this kernel's");
}

#[test]
fn a_command_line_of_a_crash_kernel_is_a_blocker() {
    let found = check("kho=on elfcorehdr=0x1000", "kho=on", None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].is_blocker());
    assert_documented("elfcorehdr= makes it a crash kernel's");
    assert_eq!(check("kho=on -- elfcorehdr=0x1000", "kho=on", None), []);
}

#[test]
fn a_command_line_that_the_next_kernel_cannot_take_is_reported() {
    // x86's cmdline_size is 2047; bzImage64_load() needs space for the NUL and 30 bytes more.
    assert_eq!(check_length(&"a".repeat(2016), 2047), None);
    let found = check_length(&"a".repeat(2017), 2047).unwrap();
    assert!(found.is_blocker());
    assert!(found.problem.contains("2017 bytes"), "{found}");
    assert_documented("and the next kernel takes");
}
