//! VMMs that have given up the privileges they do not need.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::guest::{port, spec};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Ended, Guest, VMM, status};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "privileges/a-user-of-its-own",
    about: "a VMM without capabilities, files and most system calls runs a guest as a user of its own",
    host: HostKind::GuestOneBoot,
    stages: &[a_user_of_its_own],
}];

const GROUP: u32 = 65533;
const STRANGER: u32 = 4711;

/// The kernel's status of a process.
pub(super) struct Status(String);

impl Status {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("Read {path}"))?;
        Ok(Self(text))
    }

    /// The demo's report of a VMM's privileges.
    pub(super) fn vmm_status(&self) -> Result<Value> {
        let uid = self.line("Uid")?.split_whitespace().next();
        let uid: u32 = uid.context("A process has a user")?.parse()?;
        let mut capabilities = 0;
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            capabilities |= u64::from_str_radix(self.line(set)?, 16)?;
        }
        let seccomp: u32 = self.line("Seccomp")?.parse()?;
        Ok(json!({"uid": uid, "capabilities": capabilities, "seccomp": seccomp}))
    }

    fn line(&self, name: &str) -> Result<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(found, _)| *found == name);
        Ok(found.with_context(|| format!("No {name}"))?.1.trim())
    }

    /// Checks that a process has no privileges beyond its user's.
    pub(super) fn is_confined(&self, user: u32, group: u32) -> Result<()> {
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
        equal("Its users", self.line("Uid")?, &*four(user))?;
        equal("Its groups", self.line("Gid")?, &*four(group))?;
        equal("Its other groups", self.line("Groups")?, "")?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            equal(set, u64::from_str_radix(self.line(set)?, 16)?, 0)?;
        }
        equal("no_new_privs", self.line("NoNewPrivs")?, "1")?;
        equal("Its mode of seccomp", self.line("Seccomp")?, "2")
    }
}

/// The process that runs a guest, according to its VMM; its privileges, according to the kernel.
pub(super) fn vmm_status(api: &Path) -> Result<Value> {
    let pid = status(Some(api))?["pid"].as_u64();
    let pid = u32::try_from(pid.context("The status has the VMM's process")?)?;
    Status::of(pid)?.vmm_status()
}

fn a_user_of_its_own(_: &Cx<'_>) -> Result<()> {
    let group = GROUP.to_string();
    let spec = spec("nobody", "memfd", 2);
    let watched = spec.api().with_extension("status");
    let path = watched.display().to_string();
    let more = ["--sandbox", "on", "--api-group", &group];
    let more = [&more[..], &["--status-socket", &path]].concat();
    let more: Vec<_> = more.into_iter().map(str::to_owned).collect();
    let mut guest = Guest::boot_with(spec, &more, &port()?)?;
    let user = guest.spec.user();
    Status::of(guest.pid())?.is_confined(user, user)?;
    for task in std::fs::read_dir(format!("/proc/{}/task", guest.pid()))? {
        let task = task?.file_name();
        let task = task.to_str().context("A thread has a number")?.parse()?;
        Status::of(task)?.is_confined(user, user)?;
    }
    let before = guest.report()?;
    healthy(&before)?;
    guest.command("pause")?.expect(0)?;
    guest.command("continue")?.expect(0)?;
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    everybody_only_looks(&watched)?;
    asks(&guest.spec.api(), STRANGER, GROUP, &[("status", 1)])?;
    guest.upgrade(VMM, &[])?.expect(0)?;
    everybody_only_looks(&watched)?;
    asks(&guest.spec.api(), STRANGER, GROUP, &[("status", 1)])?;
    guest.wait_for_beat()?;
    // The next VMM is told the group, but no other socket and no user.
    let (spec, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let mut guest = Guest::resume_and(spec, &["--api-group", &group], &port()?)?;
    // Dropping it would kill the process.
    let runner = guest.runner()?;
    Status::of(u32::try_from(runner.pid())?)?.is_confined(user, user)?;
    same_guest(&before, &guest.report()?)?;
    a_group_looks(&guest.spec.api())?;
    equal("The old status socket", watched.exists(), false)?;
    guest.power_off()?;
    drop(runner);
    Ok(())
}

/// The requests of a client with read-only access, and the exit status of `vmm-example`.
const LOOKS: &[(&str, i32)] = &[("status", 0), ("metrics", 0), ("pause", 1), ("shutdown", 1)];

/// On a read-only socket this applies to root, too.
fn everybody_only_looks(socket: &Path) -> Result<()> {
    a_group_looks(socket)?;
    asks(socket, 0, 0, LOOKS)
}

/// A member of the group may look; any other user cannot even connect to the socket.
fn a_group_looks(socket: &Path) -> Result<()> {
    asks(socket, STRANGER, GROUP, LOOKS)?;
    asks(socket, STRANGER, STRANGER, &[("status", 1)])
}

fn asks(socket: &Path, user: u32, group: u32, for_what: &[(&str, i32)]) -> Result<()> {
    for (verb, status) in for_what {
        let mut command = Command::new(VMM);
        command.uid(user).gid(group);
        command.args([verb, "--api-socket"]).arg(socket);
        Ended::of(&mut command)?.expect(*status)?;
    }
    Ok(())
}
