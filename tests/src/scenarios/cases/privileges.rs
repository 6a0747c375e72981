//! VMMs that have given up what they do not need.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::guest::{healthy, port, same_guest, spec};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::guest::{Ended, Guest, KERNEL, VMM, Vmm, status};
use crate::hijack::{Hijacked, Outcome};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "privileges/a-user-of-its-own",
        about: "a VMM without capabilities, files and most system calls runs a guest as a user of its own",
        host: HostKind::GuestOneBoot,
        stages: &[a_user_of_its_own],
    },
    &Scenario {
        name: "privileges/taken-over",
        about: "a VMM that somebody has taken over reaches no box, no kexec, no file and no other guest",
        host: HostKind::GuestOneBoot,
        stages: &[taken_over],
    },
];

const GROUP: u32 = 65533;
const STRANGER: u32 = 4711;

/// What the kernel says of a process.
pub(super) struct Status(String);

impl Status {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("Read {path}"))?;
        Ok(Self(text))
    }

    /// What the demo tells of a VMM.
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

/// The process that runs a guest, as its VMM says; what it may, the kernel says.
pub(super) fn vmm_status(api: &Path) -> Result<Value> {
    let pid = status(Some(api))?["pid"].as_u64();
    let pid = u32::try_from(pid.context("The status has the VMM's process")?)?;
    Status::of(pid)?.vmm_status()
}

fn a_user_of_its_own(_: &Cx<'_>) -> Result<()> {
    let group = GROUP.to_string();
    let more = ["--sandbox", "on", "--api-group", &group].map(str::to_owned);
    let mut guest = Guest::boot_with(spec("nobody", "memfd", 2), &more, &port()?)?;
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
    let api = guest.spec.api();
    // Who is of the group may look, and who is not does not even reach the socket.
    for (verb, group, status) in [
        ("status", GROUP, 0),
        ("metrics", GROUP, 0),
        ("pause", GROUP, 1),
        ("shutdown", GROUP, 1),
        ("status", STRANGER, 1),
    ] {
        let mut command = Command::new(VMM);
        command.uid(STRANGER).gid(group);
        command.args([verb, "--api-socket"]).arg(&api);
        Ended::of(&mut command)?.expect(status)?;
    }
    guest.wait_for_beat()?;
    guest.power_off()
}

/// A VMM that gave up what it could, and serves its API.
fn victim(name: &str) -> Result<Vmm> {
    let api = format!("/run/{name}.api");
    let mut command = Command::new(VMM);
    command.args(["run", "--kernel", KERNEL, "--name", name, "--sandbox", "on"]);
    command.args(["--api-socket", &api, "--console", "file=/dev/null"]);
    let vmm = Vmm::start(&mut command)?;
    host::until("The API answers", || Ok(status(Some(api.as_ref())).is_ok()))?;
    Ok(vmm)
}

fn taken_over(_: &Cx<'_>) -> Result<()> {
    let mut other = victim("other")?;
    let fdbox = FdBox::create("theirs")?;
    let info = fdbox::info()?;
    let pid = u64::from(other.id());

    // Files, by name: refused, and the VMM lives.
    let vmm = victim("files")?;
    let files = Hijacked::take(vmm.id())?;
    let memory = format!("/proc/{pid}/mem");
    for path in [
        "/dev/fdbox/fdbox",
        "/dev/fdbox/theirs",
        "/dev/kvm",
        "/run/other.api",
        "/etc/passwd",
        "/proc/self/status",
        &memory,
    ] {
        let addr = files.put(path.as_bytes())?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let opened = files.call(
            libc::SYS_openat,
            [libc::AT_FDCWD as u64, addr, flags, 0, 0, 0],
        )?;
        equal(path, opened, Outcome::Returned(-i64::from(libc::EACCES)))?;
    }
    // What it has open leads to no box: none can be made, deleted or unsealed.
    for entry in std::fs::read_dir(format!("/proc/{}/fd", vmm.id()))? {
        let fd: u64 = entry?.file_name().to_string_lossy().parse()?;
        for request in [uapi::CREATE_BOX, uapi::DELETE_BOX, uapi::UNSEAL] {
            let done = files.call(libc::SYS_ioctl, [fd, request.into(), 0, 0, 0, 0])?;
            ensure!(
                matches!(done, Outcome::Returned(..0)),
                "Descriptor {fd}: {done:?}"
            );
        }
    }
    drop(files);
    drop(vmm);

    // Whatever else leads out of the process is its end.
    let [kill, term] = [libc::SIGKILL as u64, libc::SIGTERM as u64];
    let unix = libc::AF_UNIX as u64;
    let calls: &[(&str, i64, [u64; 6])] = &[
        (
            "kexec_file_load",
            libc::SYS_kexec_file_load,
            [0, 0, 0, 0, 4, 0],
        ),
        ("kexec_load", libc::SYS_kexec_load, [0; 6]),
        (
            "reboot",
            libc::SYS_reboot,
            [0xfee1_dead, 672_274_793, 0x4558_4543, 0, 0, 0],
        ),
        ("finit_module", libc::SYS_finit_module, [0; 6]),
        ("mount", libc::SYS_mount, [0; 6]),
        (
            "unshare",
            libc::SYS_unshare,
            [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
        ),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("execve", libc::SYS_execve, [0; 6]),
        (
            "a process",
            libc::SYS_clone,
            [libc::SIGCHLD as u64, 0, 0, 0, 0, 0],
        ),
        (
            "a socket",
            libc::SYS_socket,
            [unix, libc::SOCK_STREAM as u64, 0, 0, 0, 0],
        ),
        (
            "ptrace",
            libc::SYS_ptrace,
            [libc::PTRACE_SEIZE.into(), pid, 0, 0, 0, 0],
        ),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [pid, 0, 0, 0, 0, 0],
        ),
        ("kill", libc::SYS_kill, [pid, kill, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [pid, pid, term, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 6]),
    ];
    for (number, (what, call, arguments)) in calls.iter().enumerate() {
        let vmm = victim(&format!("victim{number}"))?;
        let done = Hijacked::take(vmm.id())?.call(*call, *arguments)?;
        equal(what, done, Outcome::Killed(libc::SIGSYS))?;
    }

    other.still_runs()?;
    ensure!(!host::next_kernel_is_loaded()?, "A kernel is loaded");
    equal("The module's figures", fdbox::info()?, info)?;
    fdbox.delete()
}
