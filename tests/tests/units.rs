//! The units in vmm-example/dist: their restrictions, and how systemd rates them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The restrictions of all units, in terms of systemd.exec(5).
const CONFINED: [(&str, &str); 16] = [
    ("IPAddressDeny", "any"),
    ("KeyringMode", "private"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("NoNewPrivileges", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallErrorNumber", "EPERM"),
    ("UMask", "0077"),
];

/// And of each unit: its capabilities, system calls, sockets, time limits, and what it may write.
const UNITS: [(&str, &[(&str, &str)]); 4] = [
    (
        "vmm-example-keeper.service",
        &[
            ("CapabilityBoundingSet", ""),
            ("FileDescriptorStorePreserve", "yes"),
            ("ProtectSystem", "strict"),
            ("RestrictAddressFamilies", "AF_UNIX"),
            (
                "SystemCallFilter",
                "@system-service seccomp landlock_create_ruleset landlock_add_rule \
                 landlock_restrict_self",
            ),
            ("User", "vmm-example-keeper"),
        ],
    ),
    (
        "vmm-example-live-update@.service",
        &[
            (
                "CapabilityBoundingSet",
                "CAP_SYS_ADMIN CAP_SYS_BOOT CAP_DAC_OVERRIDE CAP_CHOWN",
            ),
            ("ProtectSystem", "full"),
            ("RestrictAddressFamilies", "AF_UNIX"),
            (
                "SystemCallFilter",
                "@system-service @reboot seccomp landlock_create_ruleset landlock_add_rule \
                 landlock_restrict_self",
            ),
            ("TimeoutStartSec", "1h"),
            ("TimeoutStopSec", "150"),
        ],
    ),
    (
        "vmm-example-resume.service",
        &[
            (
                "CapabilityBoundingSet",
                "CAP_SYS_ADMIN CAP_CHOWN CAP_NET_ADMIN CAP_DAC_OVERRIDE CAP_IPC_LOCK CAP_KILL \
                 CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_RESOURCE",
            ),
            ("ProtectSystem", "full"),
            ("RestrictAddressFamilies", "AF_UNIX AF_INET"),
            ("RuntimeDirectoryMode", "0711"),
            (
                "SystemCallFilter",
                "@system-service seccomp landlock_create_ruleset landlock_add_rule \
                 landlock_restrict_self",
            ),
            ("TimeoutStartSec", "5min"),
        ],
    ),
    (
        "vmm-example@.service",
        &[
            (
                "CapabilityBoundingSet",
                "CAP_SYS_ADMIN CAP_CHOWN CAP_NET_ADMIN CAP_DAC_OVERRIDE CAP_IPC_LOCK CAP_SETGID \
                 CAP_SETPCAP CAP_SETUID CAP_SYS_RESOURCE",
            ),
            ("ProtectSystem", "full"),
            ("RestrictAddressFamilies", "AF_UNIX AF_INET"),
            ("RuntimeDirectoryMode", "0711"),
            (
                "SystemCallFilter",
                "@system-service seccomp landlock_create_ruleset landlock_add_rule \
                 landlock_restrict_self",
            ),
            ("TimeoutStopSec", "60"),
        ],
    ),
];

/// The worst exposure that `systemd-analyze security` still calls "OK", in tenths.
const OK: &str = "49";

fn dist() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../vmm-example/dist")).into()
}

/// The settings of a unit's section `Service`, except those that may occur several times.
fn settings(text: &str) -> BTreeMap<&str, &str> {
    let service = text.split_once("\n[Service]\n").unwrap().1;
    let service = service.split_once("\n[").map_or(service, |split| split.0);
    let lines = service.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// Settings that are missing or wrong.
fn wrong(text: &str, own: &[(&'static str, &str)]) -> Vec<&'static str> {
    let settings = settings(text);
    let all = CONFINED.iter().chain(own);
    let wrong = all.filter(|(name, value)| settings.get(name) != Some(value));
    wrong.map(|(name, _)| *name).collect()
}

#[test]
fn each_unit_confines_what_it_starts() {
    for (unit, own) in UNITS {
        let text = fs::read_to_string(dist().join(unit)).unwrap();
        assert_eq!(wrong(&text, own), Vec::<&str>::new(), "{unit}");
        // A setting that is dropped is reported.
        for (name, _) in CONFINED.iter().chain(own) {
            let without: Vec<&str> = text
                .lines()
                .filter(|line| !line.starts_with(&format!("{name}=")))
                .collect();
            assert_eq!(wrong(&without.join("\n"), own), [*name], "{unit}");
        }
    }
    let units = fs::read_dir(dist()).unwrap().flatten();
    let units = units.filter(|entry| entry.file_name().to_string_lossy().ends_with(".service"));
    assert_eq!(units.count(), UNITS.len(), "a unit is not looked at");
}

/// Only where systemd can rate units offline (250 and later).
#[test]
fn systemd_calls_each_unit_ok() {
    let rates = |arguments: &[&str]| {
        let mut systemd = Command::new("systemd-analyze");
        systemd.args(arguments).output().ok()
    };
    let help = rates(&["--help"]).map(|output| output.stdout);
    let help = String::from_utf8(help.unwrap_or_default()).unwrap();
    if !help.contains("--offline") {
        println!("there is no systemd-analyze that rates units offline");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (unit, _) in UNITS {
        let instance = dir.path().join(unit.replace("@.", "@x."));
        fs::copy(dist().join(unit), &instance).unwrap();
        let path = instance.to_str().unwrap();
        let threshold = format!("--threshold={OK}");
        let rated = rates(&["security", "--offline=true", "--no-pager", &threshold, path]).unwrap();
        let text = String::from_utf8_lossy(&rated.stdout);
        assert!(rated.status.success(), "{unit}: {text}");
    }
}
