use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};
use std::thread;

use super::*;
use crate::service::api::peer::Peer;
use crate::service::api::protocol::{Reply, Request};
use crate::service::api::{Rights, Server, Service};
use crate::socket::Ownership;

/// What the process started by a test is to do in its sandbox.
const DEED: &str = "SANDBOX_TEST_DEED";
/// The exit status if it succeeded.
const SURVIVED: i32 = 42;
const NOBODY: User = User {
    uid: 65534,
    gid: 65534,
};

/// Runs a deed in a sandbox, in a separate process.
fn commit(deed: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "sandbox::tests::in_the_sandbox", "--ignored"]);
    child.arg("--nocapture");
    child.env(DEED, deed).output().unwrap()
}

fn survives(deed: &str) {
    let output = commit(deed);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(SURVIVED), "{deed}: {stderr}");
}

fn is_killed(deed: &str) {
    let output = commit(deed);
    let signal = output.status.signal();
    assert_eq!(signal, Some(libc::SIGSYS), "{deed}: {:?}", output.status);
}

#[test]
#[ignore = "the process that the other tests start"]
fn in_the_sandbox() {
    let deed = std::env::var(DEED).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    // Any user may connect, as far as the file system is concerned.
    for path in [dir.path(), &path] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let api = dir.path().join("api");
    let server = Server::bind(&api, Rights::of_owner(), &Ownership::new(true)).unwrap();
    let client = UnixStream::connect(&api).unwrap();
    let mut sandbox = Sandbox {
        level: Level::On,
        ..Sandbox::default()
    };
    if rustix::process::geteuid().is_root() {
        sandbox.user = Some(NOBODY);
    }
    if deed == "connects" {
        sandbox.connects = Some(path.clone());
    }
    sandbox.confine_thread().unwrap();
    match deed.as_str() {
        "lives" => live(),
        "serves" => serve(server, client),
        "opens" => {
            let error = File::open("/proc/self/status").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
        "connects" => drop(UnixStream::connect(&path).unwrap()),
        "connects in vain" => drop(UnixStream::connect(&path)),
        "executes" => drop(Command::new("/bin/true").status()),
        "signals" => {
            let init = rustix::process::Pid::INIT;
            let _ = rustix::process::test_kill_process(init);
        }
        "has a signal sent" => have_a_signal_sent(&listener),
        "reboots" => drop(rustix::system::reboot(rustix::system::RebootCommand::Kexec)),
        "networks" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "a vcpu starts a thread" => as_kind(Thread::Vcpu, || drop(thread::spawn(|| {}).join())),
        "a device saves a vcpu" => as_kind(Thread::Device, || {
            let _ = kvm_ioctls::Kvm::new();
            let _ = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC);
        }),
        "an api thread works" => as_kind(Thread::Api, live),
        other => panic!("no deed {other}"),
    }
    drop(listener);
    std::process::exit(SURVIVED);
}

/// Makes process 1 the receiver of signals about input.
#[allow(unsafe_code, reason = "rustix has no F_SETOWN")]
fn have_a_signal_sent(file: &impl AsRawFd) {
    // SAFETY: F_SETOWN takes a number, and the descriptor is open.
    let _ = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETOWN, 1) };
}

/// Answers to everything.
#[derive(Debug)]
struct Fine;

impl Service for Fine {
    fn serve(&self, _: Request, peer: &mut dyn Peer) {
        peer.send(&Reply::Ok);
    }
}

/// Serves its API.
fn serve(server: Server, mut client: UnixStream) {
    server.start(Arc::new(Fine)).unwrap();
    client.write_all(b"{\"verb\":\"pause\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(answer.contains("ok"), "{answer}");
}

/// What every VMM does: threads, memory, anonymous files.
fn live() {
    let (send, receive) = mpsc::channel();
    let named = thread::Builder::new().name("vcpu0".into());
    let thread = named.spawn(move || {
        confine(Thread::Vcpu);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        assert!(now.tv_sec > 0);
        send.send(vec![1u8; 8 << 20]).unwrap();
    });
    assert_eq!(receive.recv().unwrap().len(), 8 << 20);
    thread.unwrap().join().unwrap();
    let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 4096).unwrap();
    let file = File::from(file);
    assert_eq!(file.metadata().unwrap().len(), 4096);
    thread::sleep(std::time::Duration::from_millis(1));
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other
        .set_read_timeout(Some(std::time::Duration::from_millis(1)))
        .unwrap();
}

fn as_kind(kind: Thread, work: fn()) {
    let thread = thread::spawn(move || {
        confine(kind);
        work();
    });
    thread.join().unwrap();
}

#[test]
fn what_a_vmm_does_it_can_do() {
    survives("lives");
    survives("an api thread works");
    survives("serves");
}

#[test]
fn files_are_refused_without_an_end() {
    survives("opens");
}

#[test]
fn sockets_are_found_only_for_a_guests_sake() {
    survives("connects");
    is_killed("connects in vain");
    is_killed("networks");
}

#[test]
fn what_no_vmm_does_is_its_end() {
    for deed in ["executes", "signals", "has a signal sent", "reboots"] {
        is_killed(deed);
    }
}

#[test]
fn a_thread_does_what_its_kind_does() {
    for deed in ["a vcpu starts a thread", "a device saves a vcpu"] {
        is_killed(deed);
    }
}
