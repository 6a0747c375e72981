use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{RecvFlags, Shutdown, shutdown};

use super::wire::{Command, REPLY_BYTES, Reply, Request};
use super::*;
use crate::bytes::text_into;
use crate::control::Info;
use crate::coordinator::Boxes;
use crate::deadline::Deadline;
use crate::name::{BoxName, FdName};
use crate::passed::PassedBox;
use crate::store::BoxStore;
use crate::{AnyBox, Hold};

fn name() -> BoxName {
    BoxName::new("vm0").unwrap()
}

fn fd_name() -> FdName {
    FdName::new("ram").unwrap()
}

fn memfd() -> OwnedFd {
    memfd_create("ram", MemfdFlags::CLOEXEC).unwrap()
}

/// A keeper, and a box with a memfd in it.
fn with_box() -> (Keeper, Control) {
    let keeper = Keeper::holder().unwrap();
    let control = keeper.connect().unwrap();
    let open = control.create(&name()).unwrap();
    open.put(&fd_name(), memfd()).unwrap();
    (keeper, control)
}

fn open_of(control: &Control) -> crate::OpenBox {
    control.open_box(&name()).unwrap().into_open().unwrap()
}

#[test]
fn a_box_that_is_passed_is_one_box_and_no_more() {
    let (_keeper, control) = with_box();
    let fd = control.descriptor(&name()).unwrap();
    let passed = PassedBox::new(name(), Info::default(), fd).unwrap();
    assert_eq!(passed.boxes().unwrap()[0].fds, 1);
    // The holder of that socket cannot create or delete boxes.
    let socket = control.descriptor(&name()).unwrap();
    let made = client::create_box(socket.as_fd(), BoxName::new("vm1").unwrap().to_kernel());
    assert_eq!(made, Err(Errno::PERM));
    let deleted = client::delete_box(socket.as_fd(), name().to_kernel());
    assert_eq!(deleted, Err(Errno::PERM));
    let AnyBox::Open(open) = passed.open_box(&name()).unwrap() else {
        panic!("sealed")
    };
    open.get(&fd_name()).unwrap();
    control.delete(&name()).unwrap();
    assert_eq!(open.fds().unwrap_err().errno(), Errno::NODEV);
}

#[test]
fn a_claim_is_the_descriptors_that_was_passed() {
    let (_keeper, control) = with_box();
    let fd = control.descriptor(&name()).unwrap();
    let passed = PassedBox::new(name(), Info::default(), fd).unwrap();
    let claim = passed.claim(&name(), Hold::Exclusive).unwrap();
    let other = control.claim(&name(), Hold::Shared);
    assert_eq!(other.unwrap_err().errno(), Errno::AGAIN);
    // The same descriptor can claim it again.
    drop(passed.claim(&name(), Hold::Exclusive).unwrap());
    drop(claim);
}

#[test]
fn many_can_ask_by_one_descriptor_at_once() {
    let (_keeper, control) = with_box();
    let open = open_of(&control);
    thread::scope(|scope| {
        for thread in 0..4 {
            let open = &open;
            scope.spawn(move || {
                let name = FdName::new(format!("fd-{thread}")).unwrap();
                for _ in 0..50 {
                    open.put(&name, memfd()).unwrap();
                    open.get(&name).unwrap();
                }
            });
        }
    });
    assert_eq!(open.fds().unwrap().len(), 1);
}

/// Sends a request without waiting for the reply, and indicates that it will not be read.
fn ask_and_leave(socket: &OwnedFd, request: &Request, put: Option<&OwnedFd>) {
    let (ours, theirs) = packet::pair().unwrap();
    shutdown(&ours, Shutdown::Read).unwrap();
    let fds: Vec<_> = std::iter::once(theirs.as_fd())
        .chain(put.map(AsFd::as_fd))
        .collect();
    packet::send(socket.as_fd(), &request.encode(), &fds).unwrap();
}

#[test]
fn what_nobody_hears_of_is_not_done() {
    let (_keeper, control) = with_box();
    let socket = control.descriptor(&name()).unwrap();
    let get = Request::new(Command::Get).name(fd_name().to_kernel());
    ask_and_leave(&socket, &get, None);
    let put = Request::new(Command::Put).name(text_into("other"));
    ask_and_leave(&socket, &put, Some(&memfd()));
    // Requests on one connection are handled in order.
    let listed = client::next_fd(socket.as_fd(), 0).unwrap().unwrap();
    assert_eq!(listed.name, fd_name().to_kernel());
    assert!(client::next_fd(socket.as_fd(), 1).unwrap().is_none());
}

#[test]
fn nonsense_is_dropped_and_the_next_request_is_served() {
    let (_keeper, control) = with_box();
    let socket = control.descriptor(&name()).unwrap();
    let whole = Request::new(Command::State).encode();
    let long = vec![7; 1 << 12];
    for bytes in [&whole[..], &whole[..9], &long[..], &[7; 272]] {
        // Without a socket for the reply, and with one.
        packet::send(socket.as_fd(), bytes, &[]).unwrap();
        let (ours, theirs) = packet::pair().unwrap();
        packet::send(socket.as_fd(), bytes, &[theirs.as_fd()]).unwrap();
        drop(theirs);
        let got = packet::receive(ours.as_fd(), REPLY_BYTES, RecvFlags::empty()).unwrap();
        let answered = got.map(|packet| Reply::decode(&packet.bytes).unwrap().error);
        assert_eq!(answered, (bytes == whole).then_some(None));
    }
    // A reply is not sent to a file that is not a suitable socket, and only PUT puts a file.
    packet::send(socket.as_fd(), &whole, &[memfd().as_fd()]).unwrap();
    let (_ours, theirs) = packet::pair().unwrap();
    packet::send(socket.as_fd(), &whole, &[theirs.as_fd(), memfd().as_fd()]).unwrap();
    assert_eq!(client::is_sealed(socket.as_fd()), Ok(false));
}

#[test]
fn a_keeper_that_is_gone_is_an_error_that_says_so() {
    let (ours, theirs) = packet::pair().unwrap();
    drop(theirs);
    let error = Control::of_keeper(ours).unwrap_err();
    assert_eq!(error.errno(), Errno::PIPE);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper");
    assert_eq!(Control::connect(&path).unwrap_err().errno(), Errno::NOENT);
    // The socket of a keeper that no longer exists.
    drop(Keeper::listen(&path).unwrap());
    assert_eq!(Control::connect(&path).unwrap_err().errno(), Errno::PIPE);
}

#[test]
fn whoever_connects_to_its_socket_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper");
    let listener = Keeper::listen(&path).unwrap();
    let keeper = thread::spawn(move || Keeper::holder().unwrap().serve(listener.as_fd()));
    let control = Control::connect(&path).unwrap();
    control.create(&name()).unwrap();
    drop(control);
    // The keeper stays as long as there is a box.
    let other = Control::connect(&path).unwrap();
    assert_eq!(other.boxes().unwrap()[0].name, name());
    other.delete(&name()).unwrap();
    drop(other);
    keeper.join().unwrap().unwrap();
}

#[test]
fn only_its_owner_may_connect_to_a_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper");
    let _listener = Keeper::listen(&path).unwrap();
    let mode = Mode::from_raw_mode(rustix::fs::stat(&path).unwrap().st_mode);
    assert_eq!(mode, Mode::RUSR | Mode::WUSR);
}

#[test]
fn there_is_an_end_to_what_a_keeper_takes() {
    let (_keeper, control) = with_box();
    let open = open_of(&control);
    let fill = (1..=entry::MAX_FDS).map(|at| {
        let name = FdName::new(at.to_string()).unwrap();
        open.put(&name, memfd())
            .map_err(|refused| refused.error.errno())
    });
    let first = fill.enumerate().find(|(_, done)| done.is_err());
    assert_eq!(first, Some((entry::MAX_FDS - 1, Err(Errno::NOSPC))));
}

#[test]
fn a_listing_does_not_wait_for_a_box_that_is_in_use() {
    let keeper = Keeper::holder().unwrap();
    let control = keeper.connect().unwrap();
    let open = control.create(&name()).unwrap();
    open.put(&fd_name(), memfd()).unwrap();
    // As while it is sealed into LUO.
    let held = keeper.0.held(&name()).unwrap();
    let in_use = held.content();
    let listed = |sealed, fds| {
        let name = name();
        assert_eq!(
            control.boxes().unwrap(),
            [crate::BoxInfo { name, sealed, fds }]
        );
    };
    listed(false, 1);
    drop(in_use);
    let sealed = open.seal().unwrap();
    listed(true, 1);
    let open = sealed.unseal().unwrap();
    listed(false, 1);
    open.get(&fd_name()).unwrap();
    listed(false, 0);
}

/// Sends a GET and waits until the reply has arrived.
fn ask_for_file(socket: &OwnedFd) -> OwnedFd {
    let (ours, theirs) = packet::pair().unwrap();
    let get = Request::new(Command::Get).name(fd_name().to_kernel());
    packet::send(socket.as_fd(), &get.encode(), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let deadline = Deadline::within(Duration::MAX);
    assert_eq!(
        packet::wait(ours.as_fd(), PollFlags::IN, deadline),
        Ok(true)
    );
    ours
}

#[test]
fn a_file_stays_in_the_box_until_the_client_confirms_that_it_has_it() {
    let (_keeper, control) = with_box();
    let socket = control.descriptor(&name()).unwrap();
    let is_there = || client::next_fd(socket.as_fd(), 0).unwrap().is_some();
    // Killed before it reads the reply.
    drop(ask_for_file(&socket));
    assert!(is_there());
    let read = |asked: &OwnedFd| {
        let reply = packet::receive(asked.as_fd(), REPLY_BYTES, RecvFlags::empty());
        assert_eq!(reply.unwrap().unwrap().fds.len(), 1);
    };
    // Killed when it has read it.
    let asked = ask_for_file(&socket);
    read(&asked);
    drop(asked);
    assert!(is_there());
    // Stopped: it finds out when it continues.
    let asked = ask_for_file(&socket);
    assert!(is_there());
    let got = Request::new(Command::Got).encode();
    let late = packet::send(asked.as_fd(), &got, &[]);
    assert_eq!(late, Err(Errno::PIPE));
    // Killed when it has confirmed.
    let asked = ask_for_file(&socket);
    read(&asked);
    packet::send(asked.as_fd(), &got, &[]).unwrap();
    drop(asked);
    assert!(!is_there());
}
