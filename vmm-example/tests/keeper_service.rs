//! The keeper as a service, with a service manager that does what systemd does.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, recvmsg, socket_with,
};
use vmm_fdbox::keeper::Keeper;
use vmm_fdbox::suite::{Differs, checks};
use vmm_fdbox::{AnyBox, BoxName, Control, FdName, Home};

/// Starts the keeper as systemd does: descriptors from number 3 on, and the process's own number in the environment.
const START: &str = r#"LISTEN_PID=$$ exec "$0" keeper --home holder \
    3<&0 4>&1 5>&2 </dev/null >/dev/null 2>/dev/null"#;

struct Manager {
    _dir: tempfile::TempDir,
    notify: OwnedFd,
    notify_path: PathBuf,
    listener: OwnedFd,
    path: PathBuf,
    stored: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (notify_path, path) = (dir.path().join("notify"), dir.path().join("keeper"));
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let notify = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        bind(&notify, &SocketAddrUnix::new(&notify_path).unwrap()).unwrap();
        Self {
            listener: Keeper::listen(&path).unwrap(),
            _dir: dir,
            notify,
            notify_path,
            path,
            stored: BTreeMap::new(),
        }
    }

    /// Starts the service, and waits until it is up.
    fn start(&mut self, most_stored: usize) -> Child {
        let mut names = vec!["keeper"];
        names.extend(self.stored.keys().map(String::as_str));
        let mut service = Command::new("sh");
        service
            .args(["-c", START, env!("CARGO_BIN_EXE_vmm-example")])
            .env("NOTIFY_SOCKET", &self.notify_path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("FDSTORE", most_stored.to_string())
            .stdin(self.listener.try_clone().unwrap());
        let mut stored = self.stored.values().map(|fd| fd.try_clone().unwrap());
        let mut next = || stored.next().map_or_else(Stdio::null, Stdio::from);
        let (stdout, stderr) = (next(), next());
        let service = service.stdout(stdout).stderr(stderr).spawn().unwrap();
        while self.hear() != "READY=1" {}
        service
    }

    /// Takes one message.
    fn hear(&mut self) -> String {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.notify, &mut into, &mut ancillary, flags).unwrap();
        let text = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        for message in ancillary.drain() {
            if let (RecvAncillaryMessage::ScmRights(fds), Some(name)) = (message, name) {
                self.stored.extend(fds.map(|fd| (name.to_owned(), fd)));
            }
        }
        if let (Some(name), true) = (name, text.starts_with("FDSTOREREMOVE=1")) {
            self.stored.remove(name);
        }
        text
    }
}

/// It has dropped what it does not need, whoever started it.
fn has_no_privileges(process: u32) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim)
    };
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(
            field(capabilities),
            Some("0000000000000000"),
            "{capabilities}"
        );
    }
    assert_eq!(field("NoNewPrivs"), Some("1"));
    assert_eq!(field("Seccomp"), Some("2"));
}

#[test]
fn a_keeper_that_is_killed_is_started_again_with_its_boxes() {
    let mut manager = Manager::new();
    let mut service = manager.start(10);
    let control = Control::connect(&manager.path).unwrap();
    assert_eq!(control.home(), Home::Holder);
    has_no_privileges(service.id());
    let (name, ram) = (BoxName::new("vm0").unwrap(), FdName::new("ram").unwrap());
    let open = control.create(&name).unwrap();
    let memfd = memfd_create("ram", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::pwrite(&memfd, b"hello", 0).unwrap();
    open.put(&ram, memfd).unwrap();
    let sealing = std::thread::spawn(|| open.seal().map(drop));
    // The box is sealed once the manager has everything.
    while manager.hear() != "BARRIER=1" {}
    sealing.join().unwrap().unwrap();
    service.kill().unwrap();
    service.wait().unwrap();
    assert_eq!(manager.stored.len(), 2);

    let mut service = manager.start(10);
    let control = Control::connect(&manager.path).unwrap();
    let AnyBox::Sealed(sealed) = control.open_box(&name).unwrap() else {
        panic!("it is open")
    };
    let open = sealed.unseal().unwrap();
    let mut bytes = [0; 5];
    rustix::io::pread(open.get(&ram).unwrap(), &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"hello");
    // It ends by itself when there is nothing left, and leaves nothing with the manager.
    drop(open);
    control.delete(&name).unwrap();
    drop(control);
    assert!(service.wait().unwrap().success());
    while !manager.stored.is_empty() {
        manager.hear();
    }
}

#[test]
fn a_keeper_without_privileges_does_what_every_store_does() {
    let mut manager = Manager::new();
    let mut service = manager.start(0);
    has_no_privileges(service.id());
    let control = Control::connect(&manager.path).unwrap();
    for (what, check) in checks() {
        println!("{what}");
        check(&control, Differs::HOLDER);
    }
    drop(control);
    assert!(service.wait().unwrap().success());
}
