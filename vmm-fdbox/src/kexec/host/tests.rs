//! Hosts made of files, and the findings on them.

use std::os::unix::fs::symlink;

use super::*;
use crate::kexec::testing::assert_documented;

/// A host on which nothing prevents a kexec.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.set(LOADED[0], "0\n");
        host.set(LOAD_DISABLED, "0\n");
        host.set(LOAD_LIMIT, "-1\n");
        host.set("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        host.set("proc/sys/kernel/osrelease", "7.3.4\n");
        host.namespace("pid", FIRST_PID_NAMESPACE);
        host.namespace("user", FIRST_USER_NAMESPACE);
        host
    }

    fn set(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn namespace(&self, name: &str, link: &str) {
        let folder = self.0.path().join("proc/self/ns");
        fs::create_dir_all(&folder).unwrap();
        let _ = fs::remove_file(folder.join(name));
        symlink(link, folder.join(name)).unwrap();
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    #[track_caller]
    fn assert_found(&self, problem: &str, is_blocker: bool) {
        let found = check(&self.root(), true);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].problem.contains(problem), "{}", found[0]);
        assert_eq!(found[0].is_blocker(), is_blocker, "{}", found[0]);
        assert_documented(problem);
    }
}

#[test]
fn nothing_is_in_the_way_of_a_host_that_allows_it() {
    let host = Host::new();
    assert_eq!(check(&host.root(), true), []);
    host.set("boot/config-7.3.4", "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\n");
    assert_eq!(check(&host.root(), true), []);
}

#[test]
fn each_thing_in_the_way_is_named() {
    type Change = fn(&Host);
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
            host.namespace("user", "user:[4026532000]")
        }),
        ("not in the first PID namespace", |host| {
            host.namespace("pid", "pid:[4026532001]")
        }),
        ("built without CONFIG_KEXEC_FILE", |host| {
            host.set(
                "boot/config-7.3.4",
                "CONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set\n",
            );
        }),
        ("this kernel has none", |host| {
            fs::remove_file(host.0.path().join(LOADED[0])).unwrap();
        }),
    ];
    for (problem, change) in cases {
        let host = Host::new();
        change(&host);
        host.assert_found(problem, true);
    }
}

#[test]
fn an_image_that_somebody_else_loaded_is_told_before_it_is_replaced() {
    let host = Host::new();
    host.set(LOADED[0], "1\n");
    host.assert_found("by whom cannot be seen", false);
    assert_eq!(check(&host.root(), false), []);
    // The path of older kernels.
    fs::remove_file(host.0.path().join(LOADED[0])).unwrap();
    host.set(LOADED[1], "1\n");
    assert_eq!(host.root().is_loaded(), Some(true));
}

#[test]
fn what_the_kernel_says_of_the_loaded_image_is_read() {
    let host = Host::new();
    assert_eq!(host.root().handover(), Handover::Unknown);
    for (text, expected) in [
        ("none\n", Handover::None),
        ("0x0\n", Handover::Takes(None)),
        ("0x7f\n", Handover::Takes(TakeOver::parse("0x7f"))),
        ("later\n", Handover::Unknown),
    ] {
        host.set(HANDOVER, text);
        assert_eq!(host.root().handover(), expected, "{text}");
    }
}

#[track_caller]
fn signature(host: &Host, is_signed: bool) -> Finding {
    check_signature(&host.root(), "/boot/k", is_signed).unwrap()
}

#[test]
fn an_image_without_a_signature_is_told_where_one_is_asked_for() {
    let host = Host::new();
    assert_eq!(check_signature(&host.root(), "/boot/k", false), None);
    host.set(LOCKDOWN, "[none] integrity confidentiality\n");
    host.set(SECURE_BOOT, [6, 0, 0, 0, 0]);
    assert_eq!(check_signature(&host.root(), "/boot/k", false), None);

    host.set(SECURE_BOOT, [6, 0, 0, 0, 1]);
    let found = signature(&host, false);
    assert!(
        !found.is_blocker() && found.problem.contains("secure boot"),
        "{found}"
    );
    assert_eq!(check_signature(&host.root(), "/boot/k", true), None);

    host.set(LOCKDOWN, "none [integrity] confidentiality\n");
    let found = signature(&host, false);
    assert!(!found.is_blocker(), "{found}");
    assert!(found.problem.contains("locked down (integrity)"), "{found}");
    assert!(
        signature(&host, true)
            .problem
            .contains("cannot be known before")
    );

    host.set(
        "boot/config-7.3.4",
        "CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG_FORCE=y\n",
    );
    assert!(signature(&host, false).is_blocker());
    assert!(!signature(&host, true).is_blocker());
    for problem in [
        "this host booted with secure boot",
        "this kernel is locked down",
        "it may refuse an image without a signature",
        "trusts the image's signature cannot be known",
        "this kernel loads signed images only",
    ] {
        assert_documented(problem);
    }
}

#[test]
fn a_configuration_is_found_beside_the_image_first() {
    let host = Host::new();
    let root = host.root();
    let image = host.0.path().join("images/bzImage");
    let asked = || root.is_built_with("7.4.0", Some(&image), "CONFIG_X");
    assert_eq!(asked(), None);
    host.set("lib/modules/7.4.0/config", "CONFIG_XY=y\n");
    assert_eq!(asked(), Some(false));
    host.set("boot/config-7.4.0", "CONFIG_X=m\n");
    assert_eq!(asked(), Some(true));
    host.set("images/config-7.4.0", "# CONFIG_X is not set\n");
    assert_eq!(asked(), Some(false));
}

#[test]
fn five_levels_are_seen_in_the_flags_of_the_cpu() {
    let host = Host::new();
    assert!(!host.root().has_five_levels());
    host.set("proc/cpuinfo", "processor : 0\nflags\t\t: fpu la57 sse\n");
    assert!(host.root().has_five_levels());
    host.set(
        "proc/cpuinfo",
        "processor : 0\nflags\t\t: fpu sse\nbugs : la57\n",
    );
    assert!(!host.root().has_five_levels());
}
