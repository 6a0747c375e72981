//! Checks that the installed files use commands and options that exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Parser;

use super::{Cli, Command};

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A kernel version in Debian's format, in the name of a unit.
const VERSION: &str = "7.3.4-1-amd64";

/// systemd's expansion of a unit's `%i` and `%I`: the name unchanged, and with each dash replaced
/// by a slash.
fn expanded(text: &str) -> String {
    text.replace("%i", VERSION)
        .replace("%I", &VERSION.replace('-', "/"))
}

/// The lines of a file that run the program, starting with its name.
fn calls(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let line = line.strip_prefix("ExecStart=").unwrap_or(line);
            let line = line.strip_prefix("ExecStop=").unwrap_or(line).trim();
            let line = line.strip_prefix("/usr/bin/").unwrap_or(line);
            let line = line.strip_suffix(" || true").unwrap_or(line);
            line.starts_with("vmm-example ").then(|| line.to_owned())
        })
        .collect()
}

#[test]
fn every_call_of_the_program_parses() {
    let mut commands = Vec::new();
    for path in files(&dist()) {
        for call in calls(&fs::read_to_string(&path).unwrap()) {
            let call = expanded(&call.replace("\"$uptime\"", "1.5"));
            // A configuration file has what is required.
            let call = call.replace("--config ", "--kernel /boot/vmlinuz --config ");
            let parsed = Cli::try_parse_from(call.split(' '));
            let cli = parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            commands.push(cli.command);
        }
    }
    let resumes = |command: &&Command| matches!(command, Command::Resume(args) if args.all.all);
    let updates = |command: &&Command| matches!(command, Command::LiveUpdate(a) if a.fleet.all);
    assert_eq!(commands.iter().filter(resumes).count(), 3);
    assert_eq!(commands.iter().filter(updates).count(), 1);
    let of_guest = |command: &&Command| matches!(command, Command::Run(_) | Command::Shutdown(_));
    assert_eq!(commands.iter().filter(of_guest).count(), 2);
    let next = commands.iter().find_map(|command| match command {
        Command::LiveUpdate(args) => args.kernel.clone(),
        _ => None,
    });
    let image = format!("/boot/vmlinuz-{VERSION}");
    assert_eq!(next, Some(PathBuf::from(&image)));
    let unit = dist().join("vmm-example-live-update@.service");
    let unit = expanded(&fs::read_to_string(unit).unwrap());
    assert!(unit.contains(&format!("AssertPathExists={image}\n")));
}

#[test]
fn scripts_are_shell() {
    let scripts = files(&dist())
        .into_iter()
        .filter(|path| path.extension().is_none_or(|end| end == "sh"));
    for script in scripts {
        let text = fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("#!/bin/sh\n"), "{}", script.display());
        let checked = Process::new("sh").arg("-n").arg(&script).status().unwrap();
        assert!(checked.success(), "{}", script.display());
    }
}

/// The maximum exposure that systemd may report for a unit, in tenths; it rates this OK.
const OK: &str = "--threshold=50";

/// A setting that systemd knows from 254 on, and ignores before.
const NEWER: &str = "'FileDescriptorStorePreserve'";

/// systemd's own rating, if systemd is installed.
#[test]
fn systemd_understands_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = files(&dist())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "socket"));
    for socket in sockets {
        fs::copy(&socket, dir.path().join(socket.file_name().unwrap())).unwrap();
    }
    let units = files(&dist())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "service"));
    for unit in units {
        let name = unit.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&unit).unwrap();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let known = line.starts_with(['#', '[']) || line.contains('=');
            assert!(known, "{name}: {line}");
        }
        // Programs installed elsewhere are missing here: use any existing program.
        let text = text
            .replace("/usr/bin/vmm-example", "/bin/true")
            .replace("/sbin/modprobe", "/bin/true");
        let copy = dir.path().join(name.replace("@.", &format!("@{VERSION}.")));
        fs::write(&copy, text).unwrap();
        let verify = Process::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&copy)
            .output();
        let Ok(verify) = verify else {
            continue;
        };
        let output = String::from_utf8_lossy(&verify.stderr);
        let ours = output.lines().filter(|line| line.contains(&name));
        let ours: Vec<&str> = ours.filter(|line| !line.contains(NEWER)).collect();
        assert!(ours.is_empty(), "{name}: {}", ours.join("\n"));
        let security = Process::new("systemd-analyze")
            .args(["security", "--offline=true", OK])
            .arg(&copy)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&security.stdout);
        assert!(security.status.success(), "{name}: {output}");
        assert!(output.contains("exposure level"), "{name}: {output}");
    }
}
