//! The lists of [`sandbox`](crate::sandbox) compared with what threads do under a filter that
//! allows nothing else.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::new_vmm::{NewVmm, new_vmm};
use super::world::{LONG, Script, box_name, limits, old_vmm, remote};
use crate::control::Info;
use crate::coordinator::process::Process;
use crate::coordinator::{Boxes, Child, RemoteArriving};
use crate::fake::{FakeHost, FakeStore, HostCall};
use crate::finding::Finding;
use crate::hold::Hold;
use crate::keeper::Keeper;
use crate::member::{Arrive, ChannelError, Lent};
use crate::name::FdName;
use crate::passed::PassedBox;
use crate::sandbox::{
    ARRIVING_SYSCALLS, COORDINATOR_SYSCALLS, KEEPER_BOX_SYSCALLS, KEXEC_SYSCALLS, LEAVING_SYSCALLS,
    Syscall,
};
use crate::store::BoxStore;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetPlan, Host, KexecHost, Member, NextKernel,
};

/// What a child does, and which call its filter leaves out: `ROLE:NAME`.
const CHILD: &str = "FDBOX_TEST_SANDBOX";

/// What a thread of a Rust program needs for its memory, its locks and its exit.
const RUNTIME: &[Syscall] = &[
    ("brk", libc::SYS_brk),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("exit", libc::SYS_exit),
    // In debug builds the standard library checks that a descriptor it closes is open.
    ("fcntl", libc::SYS_fcntl),
    ("futex", libc::SYS_futex),
    ("getrandom", libc::SYS_getrandom),
    ("madvise", libc::SYS_madvise),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mremap", libc::SYS_mremap),
    ("munmap", libc::SYS_munmap),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("sched_yield", libc::SYS_sched_yield),
    ("sigaltstack", libc::SYS_sigaltstack),
];

/// What the standard library calls in addition to start a thread or a program, in this process and
/// in the new one.
const STARTS: &[Syscall] = &[
    ("clone3", libc::SYS_clone3),
    ("close", libc::SYS_close),
    ("dup2", libc::SYS_dup2),
    ("execve", libc::SYS_execve),
    ("gettid", libc::SYS_gettid),
    // For in-memory boxes.
    ("memfd_create", libc::SYS_memfd_create),
    ("pipe2", libc::SYS_pipe2),
    ("prlimit64", libc::SYS_prlimit64),
    ("prctl", libc::SYS_prctl),
    ("read", libc::SYS_read),
    ("rseq", libc::SYS_rseq),
    ("rt_sigaction", libc::SYS_rt_sigaction),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("set_robust_list", libc::SYS_set_robust_list),
];

/// The child's role, and the call that is left out.
fn task() -> Option<(String, String)> {
    let task = std::env::var(CHILD).ok()?;
    let (role, without) = task.split_once(':')?;
    Some((role.to_owned(), without.to_owned()))
}

/// Allows this thread only the listed calls; any other ends the process.
fn confine(list: &[Syscall]) {
    let without = task().unwrap().1;
    let listed = list.iter().chain(RUNTIME);
    let rules = listed.filter(|(name, _)| *name != without);
    let rules: BTreeMap<i64, _> = rules.map(|(_, number)| (*number, Vec::new())).collect();
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, kill, allow, TargetArch::x86_64).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

fn leave() {
    let store = FakeStore::new();
    let script = Script {
        before: Some(|| confine(LEAVING_SYSCALLS)),
        ..Script::default()
    };
    let (vmm, socket) = old_vmm(&store, script);
    let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
    member.preflight().unwrap();
    member.prepare().unwrap();
    member.pause().unwrap();
    vmm.cancel.cancel();
    while member.objection().is_none() {
        std::thread::yield_now();
    }
    member.roll_back();
    drop(member);
    let _ = vmm.thread.join().unwrap();
}

fn arrive() {
    let store = FakeStore::new();
    super::resume::put_guest(&store, &box_name());
    let script = Script {
        before: Some(|| confine(ARRIVING_SYSCALLS)),
        ..Script::default()
    };
    let (child, socket) = new_vmm(&store, NewVmm::new(script)).unwrap();
    let mut vmm = RemoteArriving::new(child, socket);
    let arrive = Arrive {
        box_name: box_name(),
        from_vmm: false,
        standby: false,
        module: store.module().unwrap(),
        userspace_boottime_ns: None,
        paused: false,
        fail_at: None,
    };
    let passed = store.descriptor(&box_name()).unwrap();
    vmm.arrive(arrive, passed, LONG).unwrap();
    vmm.restore(&Lent::default(), LONG).unwrap();
    vmm.commit(LONG).unwrap();
    vmm.report(LONG).unwrap();
}

/// An update that fails at the jump, and a VMM that is started and killed.
fn coordinate() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let member = remote(&store, socket, Destination::NextKernel, limits(false));
    let host = FakeHost {
        failing: vec![HostCall::Jump],
        ..FakeHost::default()
    };
    let plan = FleetPlan {
        lease: true,
        ..FleetPlan::default()
    };
    let this = std::process::id();
    std::thread::spawn(move || {
        confine(&[COORDINATOR_SYSCALLS, STARTS].concat());
        let (mut child, _socket) = Child::spawn(Command::new("/bin/cat")).unwrap();
        let outcome = Fleet::new(host, vec![member], plan).run();
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
        // As if a VMM had closed its connection: one that is alive.
        let process = Process::new(this);
        assert_eq!(process.is_dead(&ChannelError::Gone), Some(false));
        child.kill();
    })
    .join()
    .unwrap();
    let _ = vmm.thread.join().unwrap();
}

/// Uses a box of a keeper's by its descriptor, as a VMM does.
fn use_a_keepers_box() {
    let keeper = Keeper::holder().unwrap();
    let control = keeper.connect().unwrap();
    control.create(&box_name()).unwrap();
    let fd = control.descriptor(&box_name()).unwrap();
    let memory = control.descriptor(&box_name()).unwrap();
    std::thread::spawn(move || {
        confine(KEEPER_BOX_SYSCALLS);
        let passed = PassedBox::new(box_name(), Info::default(), fd).unwrap();
        let _claim = passed.claim(&box_name(), Hold::Shared).unwrap();
        let open = passed.create(&box_name()).unwrap();
        // It is no memory.
        let name = FdName::new("memory").unwrap();
        assert!(open.put(&name, memory).is_err());
        open.seal().unwrap().unseal().unwrap();
    })
    .join()
    .unwrap();
}

/// Only calls that change nothing: the test must not leave this host.
fn ask_the_host() -> Vec<Finding> {
    let mut host = KexecHost::new(NextKernel::Files {
        kernel: "/proc/self/exe".into(),
        initramfs: Some("/proc/version".into()),
        cmdline: "kho=on".into(),
    });
    std::thread::spawn(move || {
        confine(KEXEC_SYSCALLS);
        host.preflight()
    })
    .join()
    .unwrap()
}

#[test]
fn child() {
    match task().as_ref().map(|(role, _)| role.as_str()) {
        Some("leaving") => leave(),
        Some("arriving") => arrive(),
        Some("coordinating") => coordinate(),
        Some("keeping") => use_a_keepers_box(),
        Some("kexec") => assert!(!ask_the_host().is_empty()),
        _ => {}
    }
}

fn run(role: &str, without: &str) -> std::process::ExitStatus {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "coordinator::tests::sandbox::child"])
        .env(CHILD, format!("{role}:{without}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    test.status().unwrap()
}

/// No other call is made, and each listed one is.
fn check(role: &str, list: &[Syscall], not_seen: &[&str]) {
    assert!(run(role, "").success(), "{role} calls what is not listed");
    let seen = list.iter().filter(|(name, _)| !not_seen.contains(name));
    for (name, _) in seen {
        // Whether a thread has to wait depends on the others.
        let is_called = (0..50).any(|_| run(role, name).signal() == Some(libc::SIGSYS));
        assert!(is_called, "{role} does not call {name}");
    }
}

#[test]
fn a_leaving_vmm_calls_what_is_listed_and_nothing_else() {
    // Written by another thread.
    check("leaving", LEAVING_SYSCALLS, &["write"]);
}

#[test]
fn an_arriving_vmm_calls_what_is_listed_and_nothing_else() {
    check("arriving", ARRIVING_SYSCALLS, &[]);
}

#[test]
fn a_coordinator_calls_what_is_listed_and_nothing_else() {
    check("coordinating", COORDINATOR_SYSCALLS, &[]);
}

#[test]
fn who_uses_a_keepers_box_calls_what_is_listed_and_nothing_else() {
    check("keeping", KEEPER_BOX_SYSCALLS, &["shutdown"]);
}

/// Loading a kernel and jumping is traced by examples/pages in the lab.
#[test]
fn a_kexec_host_calls_what_is_listed_and_nothing_else() {
    let not_seen = ["pread64", "lseek", "kexec_file_load", "sync", "reboot"];
    check("kexec", KEXEC_SYSCALLS, &not_seen);
}
