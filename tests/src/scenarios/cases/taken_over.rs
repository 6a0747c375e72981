//! Compromised VMMs: what an attacker can still reach.
//!
//! They run as root without capabilities, so that refusals are due to what they gave up and not to
//! their user.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::guest::{KERNEL, SPARED, VMM, Vmm, status};
use crate::hijack::{Hijacked, Outcome};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "privileges/taken-over",
        about: "a compromised VMM has no access to boxes, kexec, files or other guests",
        host: HostKind::GuestOneBoot,
        stages: &[taken_over],
    },
    &Scenario {
        name: "privileges/taken-over-in-an-update",
        about: "the descriptor of a VMM's box gives no access to other boxes or processes",
        host: HostKind::GuestOneBoot,
        stages: &[in_an_update],
    },
    &Scenario {
        name: "privileges/taken-over-with-sockets",
        about: "a VMM that may connect for its guest can only connect to its guest's sockets",
        host: HostKind::GuestOneBoot,
        stages: &[with_sockets],
    },
];

const EACCES: Outcome = Outcome::Returned(-(libc::EACCES as i64));
const EPERM: Outcome = Outcome::Returned(-(libc::EPERM as i64));
const SIGSYS: Outcome = Outcome::Killed(libc::SIGSYS);
const HERE: u64 = libc::AT_FDCWD as u64;
/// The path for outgoing connections of a VMM that may connect.
const SOCKETS: &str = "/run/connects/vsock";
/// linux/fcntl.h.
const F_SETSIG: u64 = 10;
/// An abstract socket.
const ABSTRACT: &str = "somebody";

/// A VMM that gave up its privileges, and serves its API.
fn victim(name: &str) -> Result<Vmm> {
    victim_with(name, &[])
}

fn api(name: &str) -> String {
    format!("/run/{name}.api")
}

fn victim_with(name: &str, more: &[String]) -> Result<Vmm> {
    let mut command = Command::new(VMM);
    command.args(["run", "--kernel", KERNEL, SPARED, "--name", name]);
    command.args(["--sandbox", "on"]);
    command.args(["--api-socket", &api(name)]);
    command.args(["--console", "file=/dev/null"]).args(more);
    let vmm = Vmm::start(&mut command)?;
    host::until("The API answers", || {
        Ok(status(Some(api(name).as_ref())).is_ok())
    })?;
    Ok(vmm)
}

/// The numbers of a process's descriptors, and what each refers to.
fn descriptors(pid: u32) -> Result<Vec<(u64, String)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let descriptor = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry?;
        let to = fs::read_link(entry.path())?;
        let number = entry.file_name().to_string_lossy().parse()?;
        Ok((number, to.to_string_lossy().into_owned()))
    };
    entries.map(descriptor).collect()
}

/// Files, by name: refused, and the VMM survives.
fn reaches_no_file(other: u32) -> Result<()> {
    let vmm = victim("files")?;
    let files = Hijacked::take(vmm.id())?;
    let of_other = |what: &str| format!("/proc/{other}/{what}");
    let (memory, root, environment) = (of_other("mem"), of_other("root"), of_other("environ"));
    for path in [
        "/dev/fdbox/fdbox",
        "/dev/fdbox/theirs",
        "/dev/kvm",
        "/dev/vda",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/net/tun",
        "/run/other.api",
        "/etc/passwd",
        "/proc/self/status",
        "/proc/self/mem",
        "/sys/kernel/kexec_loaded",
        "/proc/sysrq-trigger",
        &memory,
        &root,
        &environment,
    ] {
        let addr = files.put(path.as_bytes())?;
        for flags in [libc::O_RDWR, libc::O_RDONLY, libc::O_PATH] {
            let flags = (flags | libc::O_CLOEXEC) as u64;
            let opened = files.call(libc::SYS_openat, [HERE, addr, flags, 0, 0, 0])?;
            equal(path, opened, EACCES)?;
        }
    }
    // It may remove its own socket, if that is in its user's directory, but no other file.
    for path in ["/run/theirs/socket", "/etc/passwd"] {
        let addr = files.put(path.as_bytes())?;
        let removed = files.call(libc::SYS_unlinkat, [HERE, addr, 0, 0, 0, 0])?;
        equal(path, removed, EACCES)?;
    }
    // None of its descriptors gives access to boxes: it can create, delete, list or unseal none.
    for (fd, _) in descriptors(vmm.id())? {
        for request in [
            uapi::CREATE_BOX,
            uapi::DELETE_BOX,
            uapi::UNSEAL,
            uapi::NEXT_BOX,
            uapi::GET_FD,
        ] {
            let done = files.call(libc::SYS_ioctl, [fd, request.into(), 0, 0, 0, 0])?;
            ensure!(
                matches!(done, Outcome::Returned(..0)),
                "Descriptor {fd}: {done:?}"
            );
        }
    }
    Ok(())
}

/// System calls that affect something outside the process, except those that take a process as an
/// argument.
fn ways_out() -> Vec<(&'static str, i64, [u64; 6])> {
    let none = [0; 6];
    let reboot = [0xfee1_dead, 672_274_793, 0x4558_4543, 0, 0, 0];
    let new_user = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
    let stream = libc::SOCK_STREAM as u64;
    let process = [libc::SIGCHLD as u64, 0, 0, 0, 0, 0];
    let pty_input = [0, libc::TIOCSTI, 0, 0, 0, 0];
    vec![
        ("kexec_file_load", libc::SYS_kexec_file_load, none),
        ("kexec_load", libc::SYS_kexec_load, none),
        ("reboot", libc::SYS_reboot, reboot),
        ("init_module", libc::SYS_init_module, none),
        ("finit_module", libc::SYS_finit_module, none),
        ("delete_module", libc::SYS_delete_module, none),
        ("bpf", libc::SYS_bpf, none),
        ("perf_event_open", libc::SYS_perf_event_open, none),
        ("io_uring_setup", libc::SYS_io_uring_setup, none),
        ("userfaultfd", libc::SYS_userfaultfd, none),
        ("iopl", libc::SYS_iopl, none),
        ("add_key", libc::SYS_add_key, none),
        ("keyctl", libc::SYS_keyctl, none),
        ("mount", libc::SYS_mount, none),
        ("fsopen", libc::SYS_fsopen, none),
        ("open_tree", libc::SYS_open_tree, none),
        ("pivot_root", libc::SYS_pivot_root, none),
        ("chroot", libc::SYS_chroot, none),
        ("mknodat", libc::SYS_mknodat, none),
        ("symlinkat", libc::SYS_symlinkat, none),
        ("linkat", libc::SYS_linkat, none),
        ("renameat2", libc::SYS_renameat2, none),
        ("fchmod", libc::SYS_fchmod, none),
        ("fchown", libc::SYS_fchown, none),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, none),
        ("unshare", libc::SYS_unshare, new_user),
        ("setns", libc::SYS_setns, none),
        ("a process", libc::SYS_clone, process),
        ("a user namespace", libc::SYS_clone, new_user),
        ("fork", libc::SYS_fork, none),
        ("execve", libc::SYS_execve, none),
        ("execveat", libc::SYS_execveat, none),
        ("setuid", libc::SYS_setuid, none),
        ("setresuid", libc::SYS_setresuid, none),
        ("setgroups", libc::SYS_setgroups, none),
        ("capset", libc::SYS_capset, none),
        (
            "a socket",
            libc::SYS_socket,
            [libc::AF_UNIX as u64, stream, 0, 0, 0, 0],
        ),
        (
            "a network socket",
            libc::SYS_socket,
            [libc::AF_INET as u64, stream, 0, 0, 0, 0],
        ),
        ("bind", libc::SYS_bind, none),
        ("a terminal's input", libc::SYS_ioctl, pty_input),
    ]
}

/// And those that affect another process.
fn ways_to(pid: u64) -> Vec<(&'static str, i64, [u64; 6])> {
    let [kill, term] = [libc::SIGKILL as u64, libc::SIGTERM as u64];
    let only = [pid, 0, 0, 0, 0, 0];
    let seize = [libc::PTRACE_SEIZE.into(), pid, 0, 0, 0, 0];
    let own_signal = [0, F_SETSIG, kill, 0, 0, 0];
    let owner = [0, libc::F_SETOWN as u64, pid, 0, 0, 0];
    vec![
        ("ptrace", libc::SYS_ptrace, seize),
        ("process_vm_readv", libc::SYS_process_vm_readv, only),
        ("process_vm_writev", libc::SYS_process_vm_writev, only),
        ("process_madvise", libc::SYS_process_madvise, only),
        ("kill", libc::SYS_kill, [pid, kill, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [pid, pid, term, 0, 0, 0]),
        ("tkill", libc::SYS_tkill, [pid, term, 0, 0, 0, 0]),
        (
            "rt_sigqueueinfo",
            libc::SYS_rt_sigqueueinfo,
            [pid, term, 0, 0, 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, only),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, only),
        ("prlimit64", libc::SYS_prlimit64, only),
        ("kcmp", libc::SYS_kcmp, only),
        // A descriptor whose readiness sends a signal to another process.
        ("F_SETOWN", libc::SYS_fcntl, owner),
        ("F_SETSIG", libc::SYS_fcntl, own_signal),
    ]
}

fn taken_over(_: &Cx<'_>) -> Result<()> {
    let mut other = victim("other")?;
    let fdbox = FdBox::create("theirs")?;
    fs::create_dir_all("/run/theirs")?;
    let _theirs = UnixListener::bind("/run/theirs/socket")?;
    let info = fdbox::info()?;
    reaches_no_file(other.id())?;
    // Anything else that would leave the process kills it.
    let calls = [ways_out(), ways_to(other.id().into())].concat();
    for (number, (what, call, arguments)) in calls.iter().enumerate() {
        let vmm = victim(&format!("victim{number}"))?;
        let done = Hijacked::take(vmm.id())?.call(*call, *arguments)?;
        equal(what, done, SIGSYS)?;
    }
    other.still_runs()?;
    ensure!(!host::next_kernel_is_loaded()?, "A kernel is loaded");
    equal("The module's figures", fdbox::info()?, info)?;
    fs::remove_dir_all("/run/theirs")?;
    fdbox.delete()
}

/// A VMM that has been passed its box, and whose coordinator is stopped for a while.
fn in_an_update(_: &Cx<'_>) -> Result<()> {
    let theirs = FdBox::create("theirs")?;
    let mut vmm = victim("updated")?;
    let mut update = Command::new(VMM);
    update.args(["live-update", "--no-kexec", "--fail-at", "pause"]);
    update.args(["--stop-at", "pause", "--api-socket", &api("updated")]);
    let mut update = update.stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(update.id() as i32).context("A process has a number")?;
    let (_, stopped) = waitpid(Some(pid), WaitOptions::UNTRACED)?.context("A status")?;
    ensure!(
        stopped.stopped(),
        "The update did not come to its pause: {stopped:?}"
    );
    let boxes: Vec<u64> = descriptors(vmm.id())?
        .into_iter()
        .filter(|(_, to)| to.starts_with("/dev/fdbox/"))
        .map(|(fd, to)| equal("Its box", to.as_str(), "/dev/fdbox/updated").map(|()| fd))
        .collect::<Result<_>>()?;
    ensure!(!boxes.is_empty(), "It was passed no box");
    let taken = Hijacked::take(vmm.id())?;
    for fd in boxes {
        // The name of a box, or a growable struct: whichever the command expects.
        let argument = taken.put(b"theirs")?;
        for request in [
            uapi::CREATE_BOX,
            uapi::DELETE_BOX,
            uapi::INFO,
            uapi::NEXT_BOX,
        ] {
            let done = taken.call(libc::SYS_ioctl, [fd, request.into(), argument, 0, 0, 0])?;
            let enotty = Outcome::Returned(-i64::from(libc::ENOTTY));
            equal(&format!("Request {request:#x} of its box"), done, enotty)?;
        }
    }
    drop(taken);
    kill_process(pid, Signal::CONT)?;
    let status = update.wait()?.code();
    equal("What the update ended with", status, Some(11))?;
    vmm.still_runs()?;
    let listed = fdbox::listed("updated")?.is_some();
    equal("Its box", listed, false)?;
    theirs.delete()
}

/// The bytes of a `struct sockaddr_un`.
fn address(path: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes(), path].concat()
}

fn with_sockets(_: &Cx<'_>) -> Result<()> {
    let mut other = victim("other")?;
    let name = SocketAddr::from_abstract_name(ABSTRACT)?;
    let _somebody = UnixListener::bind_addr(&name)?;
    fs::create_dir_all("/run/connects")?;
    let _program = UnixListener::bind(format!("{SOCKETS}_1"))?;
    let more = [format!("--vsock=cid=3,socket={SOCKETS}")];
    let vmm = victim_with("connects", &more)?;
    let taken = Hijacked::take(vmm.id())?;
    let unnamed = [&b"\0"[..], ABSTRACT.as_bytes()].concat();
    let program = format!("{SOCKETS}_1");
    for (what, path, wanted) in [
        ("a program of its guest's", program.as_bytes(), None),
        ("another VMM's API", b"/run/other.api", Some(EACCES)),
        ("its own API", b"/run/connects.api", Some(EACCES)),
        ("a socket without a file", &unnamed, Some(EPERM)),
    ] {
        let (unix, stream) = (libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
        let socket = taken.call(libc::SYS_socket, [unix, stream, 0, 0, 0, 0])?;
        let Outcome::Returned(socket @ 0..) = socket else {
            anyhow::bail!("No socket: {socket:?}")
        };
        let bytes = address(path);
        let argument = taken.put(&bytes)?;
        let len = bytes.len() as u64;
        let done = taken.call(
            libc::SYS_connect,
            [socket.unsigned_abs(), argument, len, 0, 0, 0],
        )?;
        equal(what, done, wanted.unwrap_or(Outcome::Returned(0)))?;
    }
    let inet = [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
    equal(
        "A network socket",
        taken.call(libc::SYS_socket, inet)?,
        SIGSYS,
    )?;
    other.still_runs()?;
    let status = status(Some(api("other").as_ref()))?;
    let state = status["state"].as_str().context("It has a state")?;
    ensure!(state == "running", "The other VMM's guest is {state}");
    Ok(fs::remove_dir_all("/run/connects")?)
}
