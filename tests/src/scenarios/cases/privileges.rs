//! VMMs that have given up what they do not need.

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::guest::{healthy, port, same_guest, spec};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::Guest;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "privileges/a-user-of-its-own",
    about: "a VMM without capabilities, files and most system calls runs a guest as a user of its own",
    host: HostKind::GuestOneBoot,
    stages: &[a_user_of_its_own],
}];

const USER: u32 = 65534;
const GROUP: u32 = 65533;

/// What the kernel says of a process.
pub(super) struct Status(String);

impl Status {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("Read {path}"))?;
        Ok(Self(text))
    }

    fn line(&self, name: &str) -> Result<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(found, _)| *found == name);
        Ok(found.with_context(|| format!("No {name}"))?.1.trim())
    }

    /// A process with nothing but what its user may: the test of it.
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

fn a_user_of_its_own(_: &Cx<'_>) -> Result<()> {
    let user = format!("{USER}:{GROUP}");
    let more = ["--user", &user, "--sandbox", "on"].map(str::to_owned);
    let mut guest = Guest::boot_with(spec("nobody", "memfd", 2), &more, &port()?)?;
    Status::of(guest.pid())?.is_confined(USER, GROUP)?;
    for task in std::fs::read_dir(format!("/proc/{}/task", guest.pid()))? {
        let task = task?.file_name();
        let task = task.to_str().context("A thread has a number")?.parse()?;
        Status::of(task)?.is_confined(USER, GROUP)?;
    }
    let before = guest.report()?;
    healthy(&before)?;
    guest.command("pause")?.expect(0)?;
    guest.command("continue")?.expect(0)?;
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    ensure!(guest.command("metrics")?.status == Some(0), "No metrics");
    guest.power_off()
}
