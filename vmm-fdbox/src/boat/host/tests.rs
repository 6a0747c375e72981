//! Findings on hosts and next kernels that would not do with a lifeboat.

use super::*;
use crate::facts::testing::FakeRoot;
use crate::kexec::testing::{assert_documented_in, bzimage};
use crate::update::NextKernel;

fn problems(cpus: &[u32], online: &[u32], words: &str) -> Vec<String> {
    let findings = cpu_findings(cpus, online, &[7], words);
    findings.into_iter().map(|found| found.problem).collect()
}

#[test]
fn cpus_that_the_host_needs_are_refused() {
    assert_eq!(problems(&[1], &[0, 1], ""), [""; 0]);
    assert_eq!(problems(&[1], &[0, 1, 2], "no_ipi_broadcast=1"), [""; 0]);
    assert!(problems(&[1], &[0, 1, 2], "no_ipi_broadcast=0")[0].contains("shutdown"));
    assert!(problems(&[2], &[0, 1], "no_ipi_broadcast=1")[0].contains("no CPU 2"));
    assert_eq!(problems(&[7], &[0], ""), [""; 0], "one that is offline");
    assert!(problems(&[0], &[0, 1], "")[0].contains("CPU 0"));
    assert!(problems(&[], &[0], "")[0].contains("one CPU"));
}

#[test]
fn a_next_kernel_that_takes_all_cpus_is_refused() {
    assert!(next_finding("", "kho=on quiet").is_some());
    assert!(next_finding("", "kho=on maxcpus=1").is_none());
}

#[test]
fn a_next_kernel_that_resets_the_machine_is_refused() {
    for cmdline in ["panic=10", "panic=0 panic=-1", "panic=soon"] {
        assert!(panic_finding("", cmdline).is_some(), "{cmdline}");
    }
    for cmdline in ["quiet", "panic=-1 panic=0"] {
        assert!(panic_finding("", cmdline).is_none(), "{cmdline}");
    }
}

/// A kernel that takes over devices under either IOMMU, and all that patches up to 0025 bring.
const EVERYTHING: u16 = 0x7ff;
const SIZES_BARS: u16 = EVERYTHING & !0x400;

/// Writes a kernel that declares this, and returns a host that jumps into it.
fn kexec_to(dir: &Path, takes: u16) -> KexecHost {
    let mut info = b"LToP\x10\0\0\0\x1c\0\0\0\x0a\0\0\x80FDBx\x0c\0\0\0".to_vec();
    info.extend(u32::from(takes).to_le_bytes());
    let kernel = dir.join(format!("kernel-{takes:#x}"));
    fs::write(&kernel, bzimage(Some(&info))).unwrap();
    KexecHost::new(NextKernel::Files {
        kernel,
        initramfs: None,
        cmdline: "kho=on".into(),
    })
}

fn lifeboat_host(kexec: KexecHost) -> LifeboatHost {
    let plan = BoatPlan {
        kernel: "boat".into(),
        initramfs: "boat.cpio".into(),
        cmdline: String::new(),
        memory_mib: 64,
        cpus: vec![1],
        start_limit: Duration::ZERO,
    };
    LifeboatHost::new(kexec, "", plan, &[])
}

#[test]
fn a_kernel_that_would_disturb_a_device_is_refused_for_guests_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let next = |takes| kexec_to(dir.path(), takes);
    let problem = "it is not built to leave the registers of PCI devices alone";
    let refused = |host: &mut LifeboatHost, kinds: &[Kind]| {
        let mut found = host.check_kinds(&kinds.iter().copied().collect());
        found.retain(|finding| finding.problem.starts_with(problem));
        assert!(found.iter().all(Finding::is_blocker));
        found.len()
    };
    let devices = [Kind::Memfd, Kind::Iommufd, Kind::VfioPci];
    let mut host = lifeboat_host(next(EVERYTHING));
    assert_eq!(refused(&mut host, &devices), 0);
    let mut host = lifeboat_host(next(SIZES_BARS));
    assert_eq!(refused(&mut host, &[Kind::Memfd, Kind::KvmVm]), 0);
    assert_eq!(refused(&mut host, &devices), 1);
    assert_documented_in("lifeboat.md", problem);
}

#[test]
fn a_rescue_kernel_is_refused_for_guests_with_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let next = || kexec_to(dir.path(), EVERYTHING);
    let problem = "it would overwrite the tables by which the IOMMU translates";
    let refused = |host: &mut LifeboatHost, kinds: &[Kind]| {
        let found = host.check_kinds(&kinds.iter().copied().collect());
        let mut found = found.iter();
        found.any(|finding| finding.is_blocker() && finding.problem.starts_with(problem))
    };
    let devices = [Kind::Memfd, Kind::Iommufd, Kind::VfioPci];
    assert!(!refused(&mut lifeboat_host(next()), &devices));
    let mut host = lifeboat_host(next()).rescued_by(next(), "", Duration::ZERO);
    assert!(refused(&mut host, &devices));
    assert!(!refused(&mut host, &[Kind::Memfd, Kind::KvmVm]));
    assert_documented_in("lifeboat.md", problem);
}

#[test]
fn a_host_whose_configuration_space_is_not_in_memory_is_refused() {
    let host = FakeRoot::new();
    let found = device_findings(&host.root());
    assert!(found.iter().all(Finding::is_blocker));
    let problem = "its firmware has no ACPI table MCFG";
    assert!(found[0].problem.starts_with(problem), "{}", found[0]);
    assert_documented_in("lifeboat.md", problem);
    host.set("sys/firmware/acpi/tables/MCFG", "MCFG");
    assert_eq!(device_findings(&host.root()), []);
}

#[test]
fn a_host_that_does_not_hand_over_bars_is_refused() {
    let host = FakeRoot::new();
    host.set("sys/firmware/acpi/tables/MCFG", "MCFG");
    host.set("proc/kallsyms", "0 T pci_keep\n");
    let found = device_findings(&host.root());
    let problem = "it does not hand over the sizes of BARs";
    assert!(found[0].is_blocker() && found[0].problem.starts_with(problem));
    assert_documented_in("lifeboat.md", problem);
    host.set("proc/kallsyms", "0 T pci_keep\n0 T pci_bars_keep\n");
    assert_eq!(device_findings(&host.root()), []);
}
