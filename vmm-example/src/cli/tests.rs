//! The command line, parsed.

use super::*;
use crate::spec::MemoryKind;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

#[test]
fn the_command_line_is_consistent_and_every_option_has_help() {
    Cli::command().debug_assert();
}

/// clap puts an option under the heading of the group before it.
#[test]
fn no_option_is_under_another_groups_heading() {
    let groups = |heading: &str| match heading {
        "Devices, at most eight" => &["disk", "net", "vsock", "hvc", "no-rng"][..],
        "Devices of the host, at most eight" => &["device"],
        "Privileges" => &["user", "sandbox"],
        "End of the guest, and access to the API" => &[
            "no-reboot",
            "shutdown-timeout",
            "status-socket",
            "api-group",
        ],
        other => panic!("{other:?} is no heading"),
    };
    for command in Cli::command().get_subcommands() {
        for option in command.get_arguments() {
            let (Some(heading), Some(name)) = (option.get_help_heading(), option.get_long()) else {
                continue;
            };
            let place = format!("{} --{name} under {heading:?}", command.get_name());
            assert!(groups(heading).contains(&name), "{place}");
        }
    }
}

#[test]
fn run_has_defaults() {
    let Ok(Command::Run(args)) = parse("vmm run --kernel k --api-socket s") else {
        panic!("not parsed");
    };
    assert_eq!((args.cpus, args.memory.mib), (1, 256));
    assert_eq!(args.memory.kind, MemoryKind::GuestMemfd);
    assert_eq!(args.console, ConsoleSpec::Stdio);
    assert_eq!(args.kernel_cmdline().unwrap(), "console=ttyS0 pci=off");
}

#[test]
fn standard_output_is_the_console_or_json() {
    for (options, fits) in [
        ("--json", false),
        ("--console stdio", true),
        ("--json --console socket=c", true),
    ] {
        let line = format!("vmm run --kernel k --api-socket s {options}");
        let Ok(Command::Run(args)) = parse(&line) else {
            panic!("{line} was not parsed");
        };
        assert_eq!(args.check_output().is_ok(), fits, "{line}");
    }
}

#[test]
fn bad_values_are_refused() {
    for line in [
        "vmm",
        "vmm run --kernel k",
        "vmm run --kernel k --api-socket s --cpus 0",
        "vmm run --kernel k --api-socket s --cpus 255",
        "vmm run --kernel k --api-socket s --memory size=7",
        "vmm run --kernel k --api-socket s --console tty",
        "vmm run --kernel k --api-socket s --name fdbox",
        "vmm resume --box a/b",
        "vmm live-update --api-socket s",
        "vmm live-update --api-socket s --kernel k --no-kexec",
        "vmm live-update --api-socket s --kernel k --fail-at nowhere",
        "vmm live-update --kernel k",
        "vmm live-update --all --api-socket s --kernel k",
        "vmm live-update --all --kernel k --box b",
        "vmm live-update --all --kernel k --not-ready ask",
        "vmm live-update --api-socket s --kernel k --run-dir /run/x",
        "vmm resume --box b --run-dir /run/x",
        "vmm resume",
        "vmm resume --all --box b",
        "vmm resume --all --console stdio",
        "vmm completions basic",
        "vmm live-update --api-socket s --kernel k --binary b",
        "vmm live-update --api-socket s --binary b --timeout 0",
        "vmm live-update --all --binary b",
        "vmm resume --all --net fd=7",
        "vmm check-state",
        "vmm status --dot --json",
        "vmm run --kernel k --api-socket s --device 01:00.0",
    ] {
        assert!(parse(line).is_err(), "{line} was accepted");
    }
}

#[test]
fn an_update_takes_a_kernel_or_none() {
    let line = "vmm live-update --api-socket s --kernel k --dry-run --fail-at seal";
    let Ok(Command::LiveUpdate(args)) = parse(line) else {
        panic!("not parsed")
    };
    assert!(args.dry_run);
    assert_eq!(args.fail_at, Some(Step::Seal));
    assert!(parse("vmm live-update --api-socket s --no-kexec").is_ok());
}

#[test]
fn the_version_has_the_revision_if_that_is_known() {
    let shown = SHOWN_VERSION
        .strip_prefix(env!("CARGO_PKG_VERSION"))
        .unwrap();
    let revision = shown.strip_prefix("+later-build").unwrap_or(shown);
    let hash = revision
        .strip_prefix(" (")
        .and_then(|text| text.strip_suffix(')'));
    let is_hash = |hash: &str| hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(
        revision.is_empty() || hash.is_some_and(is_hash),
        "{revision:?}"
    );
}

/// Reads a value, which must survive to be shown and read again.
fn again<T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}");
    }
}

#[test]
fn fuzz_specs() {
    let seeds = [
        "size=2G,kind=memfd",
        "socket=/run/vm0.console",
        "path=/b,readonly=on,direct=on,io=uring",
        "tap=tap0,mac=52:54:00:01:02:03",
        "fd=3,mac=52:54:00:01:02:03",
        "cid=3,socket=/run/v",
        "file=/var/log/hvc",
        "vfio=0000:01:00.0",
        "leaf=0x7,index=0x0,ebx=0x800",
        "vm0",
    ];
    let seeds = seeds.map(str::as_bytes);
    crate::fuzz::run("specs", &seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        again::<crate::spec::MemorySpec>(text);
        again::<crate::spec::ConsoleSpec>(text);
        again::<crate::devices::virtio::spec::Mac>(text);
        again::<crate::devices::vfio::spec::PciAddress>(text);
        again::<crate::guest::cpuid::HiddenCpuid>(text);
        let _ = text.parse::<crate::devices::virtio::spec::DiskSpec>();
        let _ = text.parse::<crate::devices::virtio::spec::NetSpec>();
        let _ = text.parse::<crate::devices::virtio::spec::FdSpec>();
        let _ = text.parse::<crate::devices::virtio::spec::VsockSpec>();
        let _ = text.parse::<crate::devices::virtio::spec::HvcSpec>();
        let _ = text.parse::<crate::devices::vfio::spec::VfioSpec>();
        let _ = (parse_box_name(text), parse_step(text));
    });
}
