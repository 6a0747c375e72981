use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::MutexGuard;
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, recvmsg, socket_with,
};

use super::*;
use crate::control::Control;
use crate::keeper::Keeper;
use crate::name::FdName;
use crate::suite::{Differs, checks};
use crate::{AnyBox, Home};

/// A service manager, which does with its store what systemd does.
struct Manager {
    dir: tempfile::TempDir,
    notified: Arc<Mutex<Notified>>,
}

#[derive(Default)]
struct Notified {
    stored: BTreeMap<String, OwnedFd>,
    is_ready: bool,
}

impl Manager {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        bind(
            &socket,
            &SocketAddrUnix::new(dir.path().join("notify")).unwrap(),
        )
        .unwrap();
        let notified = Arc::<Mutex<Notified>>::default();
        let listening = Arc::clone(&notified);
        thread::spawn(move || {
            loop {
                let (text, fd) = receive(&socket);
                hear(&mut lock(&listening), &text, fd);
            }
        });
        Self { dir, notified }
    }

    fn connect(&self) -> Arc<ServiceManager> {
        let path = self.dir.path().join("notify");
        Arc::new(ServiceManager::connect(path.as_os_str()).unwrap())
    }

    fn notified(&self) -> MutexGuard<'_, Notified> {
        lock(&self.notified)
    }

    fn names(&self) -> Vec<String> {
        self.connect().synchronize().unwrap();
        self.notified().stored.keys().cloned().collect()
    }

    /// A keeper that the manager has started, with all that is stored.
    fn keeper(&self, most: usize) -> Keeper {
        let notified = self.notified();
        let returned = notified
            .stored
            .iter()
            .map(|(name, fd)| (name.clone(), fd.try_clone().unwrap()));
        Keeper::stored(self.connect(), most, returned.collect::<Vec<_>>()).unwrap()
    }
}

fn receive(socket: &OwnedFd) -> (String, Option<OwnedFd>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            fd = fds.next();
        }
    }
    (
        String::from_utf8_lossy(&bytes[..got.bytes]).into_owned(),
        fd,
    )
}

fn hear(notified: &mut Notified, text: &str, fd: Option<OwnedFd>) {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    match (value("FDNAME"), fd) {
        (Some(name), Some(fd)) if value("FDSTORE") == Some("1") && value("FDPOLL") == Some("0") => {
            notified.stored.insert(name.to_owned(), fd);
        }
        (Some(name), None) if value("FDSTOREREMOVE") == Some("1") => {
            drop(notified.stored.remove(name))
        }
        (None, Some(barrier)) if text == "BARRIER=1" => drop(barrier),
        (None, None) if text == "READY=1" => notified.is_ready = true,
        _ => panic!("systemd does not know {text:?}"),
    }
}

fn fd_name(name: &str) -> FdName {
    FdName::new(name).unwrap()
}

fn memfd() -> OwnedFd {
    memfd_create("ram", MemfdFlags::CLOEXEC).unwrap()
}

/// A sealed box with one memfd that contains `hello`.
fn seal_one(control: &Control, name: &str) -> OwnedFd {
    let open = control.create(&BoxName::new(name).unwrap()).unwrap();
    let ram = memfd();
    rustix::io::pwrite(&ram, b"hello", 0).unwrap();
    open.put(&fd_name("ram"), ram.try_clone().unwrap()).unwrap();
    open.seal().unwrap();
    ram
}

fn sealed(control: &Control, name: &str) -> crate::SealedBox {
    match control.open_box(&BoxName::new(name).unwrap()).unwrap() {
        AnyBox::Sealed(sealed) => sealed,
        AnyBox::Open(_) => panic!("{name} is open"),
    }
}

#[test]
fn a_sealed_box_outlives_its_keeper() {
    let manager = Manager::start();
    let first = manager.keeper(100);
    let control = first.connect().unwrap();
    assert_eq!(control.home(), Home::Holder);
    seal_one(&control, "vm0");
    // A box that was not sealed goes with the keeper, as with LUO.
    control.create(&BoxName::new("vm1").unwrap()).unwrap();
    assert_eq!(manager.names(), ["vmm-fdbox.0.0", "vmm-fdbox.0.1"]);

    let second = manager.keeper(100);
    let control = second.connect().unwrap();
    let boxes = control.boxes().unwrap();
    assert_eq!(boxes.len(), 1, "{boxes:?}");
    let open = sealed(&control, "vm0").unseal().unwrap();
    assert!(manager.names().is_empty(), "an open box is not stored");
    let ram = open.get(&fd_name("ram")).unwrap();
    let mut bytes = [0; 5];
    rustix::io::pread(&ram, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn the_next_keeper_stores_other_boxes_beside_those_that_it_found() {
    let manager = Manager::start();
    let first = manager.keeper(100);
    seal_one(&first.connect().unwrap(), "vm0");
    let second = manager.keeper(100);
    let control = second.connect().unwrap();
    seal_one(&control, "vm1");
    let expected = [
        "vmm-fdbox.0.0",
        "vmm-fdbox.0.1",
        "vmm-fdbox.1.0",
        "vmm-fdbox.1.1",
    ];
    assert_eq!(manager.names(), expected);
    drop(sealed(&control, "vm0").unseal().unwrap());
    assert_eq!(manager.names(), expected[2..]);
    let third = manager.keeper(100).connect().unwrap();
    assert_eq!(third.boxes().unwrap().len(), 1);
}

#[test]
fn what_is_half_stored_goes_and_what_cannot_be_read_stays() {
    let manager = Manager::start();
    let mut stored = vec![
        ("vmm-fdbox.3.1", memfd()),
        ("vmm-fdbox.4.0", memfd()),
        ("other", memfd()),
    ];
    stored.push(("vmm-fdbox.4.1", memfd()));
    let stored = stored.into_iter().map(|(name, fd)| (name.to_owned(), fd));
    manager.notified().stored.extend(stored);
    let keeper = manager.keeper(100);
    let control = keeper.connect().unwrap();
    assert_eq!(manager.names(), ["other", "vmm-fdbox.4.0", "vmm-fdbox.4.1"]);
    assert!(control.boxes().unwrap().is_empty());
    let features = control.info().unwrap().features;
    assert!(features.handover_refused());
}

#[test]
fn a_file_that_is_missing_from_the_store_is_lost() {
    let manager = Manager::start();
    // A keeper that ends in order empties the store: this one stays.
    let first = manager.keeper(100);
    let control = first.connect().unwrap();
    seal_one(&control, "vm0");
    manager.names();
    manager.notified().stored.remove("vmm-fdbox.0.1");
    let second = manager.keeper(100);
    let control = second.connect().unwrap();
    let error = sealed(&control, "vm0").unseal().unwrap_err();
    assert!(error.to_string().contains("ram"), "{error}");
}

#[test]
fn what_does_not_fit_or_is_stored_already_is_refused() {
    let manager = Manager::start();
    let control = manager.keeper(3).connect().unwrap();
    let ram = seal_one(&control, "vm0");
    let open = |name: &str| control.create(&BoxName::new(name).unwrap()).unwrap();
    let refused = |open: crate::OpenBox| open.seal().unwrap_err().error;
    let twice = open("vm1");
    twice.put(&fd_name("ram"), ram).unwrap();
    let error = refused(twice);
    assert_eq!(error.error.errno(), Errno::NOSPC);
    let why = error.report.unwrap().message;
    assert!(why.contains("FileDescriptorStoreMax="), "{why}");
    // One more fits.
    open("vm2").seal().unwrap();

    let control = manager.keeper(100).connect().unwrap();
    let open = |name: &str| control.create(&BoxName::new(name).unwrap()).unwrap();
    let ram = memfd();
    let first = open("vm3");
    first
        .put(&fd_name("ram"), ram.try_clone().unwrap())
        .unwrap();
    first.seal().unwrap();
    let twice = open("vm4");
    twice.put(&fd_name("ram"), ram).unwrap();
    let error = refused(twice);
    assert_eq!(error.error.errno(), Errno::BUSY);
    assert_eq!(error.report.unwrap().name, Some(fd_name("ram")));
    assert_eq!(manager.names().len(), 2 + 1 + 2);
}

#[test]
fn it_is_a_store_of_boxes_like_the_others() {
    let manager = Manager::start();
    let control = manager.keeper(1000).connect().unwrap();
    let differs = Differs {
        shares: false,
        ..Differs::HOLDER
    };
    for (what, check) in checks() {
        println!("{what}");
        check(&control, differs);
        assert!(manager.names().is_empty(), "{what}");
    }
}

#[test]
fn a_manager_is_notified_when_the_keeper_is_up() {
    let manager = Manager::start();
    manager.connect().ready().unwrap();
    manager.names();
    assert!(manager.notified().is_ready);
    let nobody = ServiceManager::connect(OsStr::new("@nobody-listens-here"));
    assert_eq!(nobody.unwrap_err(), Errno::CONNREFUSED);
    assert!(ServiceManager::connect(Path::new("/nowhere").as_os_str()).is_err());
}
