//! The server side of a keeper: one thread per connection, and one lock per box.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with};

use super::backing::Backing;
use super::content::{Connection, Content};
use super::held::{Held, lock};
use super::luo::MAX_BOXES;
use super::packet::{self, Packet, is_packet_socket};
use super::wire::{Command, REQUEST_BYTES, Reply, Request};
use super::{all_boxes, one_box};
use crate::coordinator::Owner;
use crate::name::BoxName;

/// What the threads of a keeper share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) backing: Backing,
    boxes: Mutex<BTreeMap<BoxName, Arc<Held>>>,
    /// Each connection's thread holds a reference, and reports its end.
    connections: Arc<()>,
    ended: OwnedFd,
}

/// What a connection gives access to.
#[derive(Debug, Clone)]
enum Access {
    All,
    One(Arc<Held>),
}

/// Where a reply goes.
pub(super) struct Answer<'a> {
    command: Command,
    to: BorrowedFd<'a>,
}

impl Answer<'_> {
    pub(super) fn reply(&self) -> Reply {
        Reply::new(self.command)
    }

    /// Sends the reply. Returns whether it was delivered; if not, the client will never get it.
    pub(super) fn send(&self, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> bool {
        packet::send(self.to, &reply.encode(), fd.as_slice()).is_ok()
    }

    pub(super) fn done(&self, done: Result<(), Errno>) {
        self.reply_with(done.map(|()| self.reply()));
    }

    /// Like [`done`](Self::done), for an operation that sends its own reply on success.
    pub(super) fn done_or<T>(
        &self,
        with: Result<T, Errno>,
        act: impl FnOnce(T) -> Result<(), Errno>,
    ) {
        if let Err(errno) = with.and_then(act) {
            self.done(Err(errno));
        }
    }

    pub(super) fn reply_with(&self, reply: Result<Reply, Errno>) {
        let failed = |errno| Reply::failed(self.command, errno);
        self.send(&reply.unwrap_or_else(failed), None);
    }
}

impl Shared {
    pub(super) fn new(mut backing: Backing) -> Result<Self, Errno> {
        let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let arrived: Vec<_> = backing.arrivals().into_iter().map(Arc::new).collect();
        for held in &arrived {
            let held = Arc::clone(held);
            // Restoring in the background; without a thread the box is restored on first use.
            let restore = move || drop(held.content());
            let _ = thread::Builder::new().name("arrival".into()).spawn(restore);
        }
        let named = |held: Arc<Held>| (held.name.clone(), held);
        Ok(Self {
            boxes: Mutex::new(arrived.into_iter().map(named).collect()),
            backing,
            connections: Arc::default(),
            ended,
        })
    }

    pub(super) fn boxes(&self) -> MutexGuard<'_, BTreeMap<BoxName, Arc<Held>>> {
        lock(&self.boxes)
    }

    pub(super) fn get(&self, name: &BoxName) -> Result<Arc<Held>, Errno> {
        self.boxes().get(name).cloned().ok_or(Errno::NOENT)
    }

    pub(super) fn create(&self, name: BoxName) -> Result<(), Errno> {
        let mut boxes = self.boxes();
        if boxes.contains_key(&name) {
            return Err(Errno::EXIST);
        }
        if boxes.len() >= MAX_BOXES as usize {
            return Err(Errno::NOSPC);
        }
        let held = Held::new(name.clone(), Owner::ROOT, Content::new());
        boxes.insert(name, Arc::new(held));
        Ok(())
    }

    pub(super) fn delete(&self, name: &BoxName) -> Result<(), Errno> {
        self.get(name)?.content().delete()?;
        self.boxes().remove(name);
        Ok(())
    }

    /// Creates a connection with full access.
    pub(super) fn connect(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::All).map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    /// Opens a box: the returned socket is its descriptor.
    pub(super) fn open(self: &Arc<Self>, name: &BoxName) -> Result<OwnedFd, Errno> {
        let held = self.get(name)?;
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::One(held))
            .map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    /// Serves connections until there are no connections and no boxes left.
    pub(super) fn accept(self: &Arc<Self>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        loop {
            let mut fds = [
                PollFd::new(&listener, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let connects = !fds[0].revents().is_empty();
            if connects {
                self.accept_one(listener)?;
            } else if self.is_idle() {
                return Ok(());
            }
        }
    }

    fn accept_one(self: &Arc<Self>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) if is_packet_socket(&socket) => {
                // If no thread can be started the connection is closed, which the client notices.
                let _ = self.serve(socket, Access::All);
                Ok(())
            }
            Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Checked when a connection has ended.
    fn is_idle(&self) -> bool {
        // Consumes the event that caused the wakeup.
        let _ = rustix::io::read(&self.ended, &mut [0; 8]);
        Arc::strong_count(&self.connections) == 1 && self.boxes().is_empty()
    }

    fn serve(self: &Arc<Self>, socket: OwnedFd, access: Access) -> io::Result<()> {
        let shared = self.clone();
        let connection = self.connections.clone();
        let serve = move || {
            let socket = Arc::new(socket);
            shared.converse(&socket, &access);
            if let Access::One(held) = access {
                held.content().leave(&socket);
            }
            drop(connection);
            // A full counter causes a wakeup as well.
            let _ = rustix::io::write(&shared.ended, &1_u64.to_ne_bytes());
        };
        thread::Builder::new().name("keeper".into()).spawn(serve)?;
        Ok(())
    }

    /// Answers the requests on a connection until the client has closed it.
    fn converse(self: &Arc<Self>, socket: &Connection, access: &Access) {
        loop {
            match packet::receive(socket.as_fd(), REQUEST_BYTES, RecvFlags::empty()) {
                Ok(Some(packet)) => self.heard(packet, socket, access),
                // Too long: the client notices that the socket for the reply is closed.
                Err(Errno::MSGSIZE) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Handles a packet. A packet without a socket for the reply, or that is not a valid request,
    /// is dropped: the client notices that its socket is closed.
    fn heard(self: &Arc<Self>, packet: Packet, by: &Connection, access: &Access) {
        let mut fds = packet.fds.into_iter();
        let (Some(to), put) = (fds.next(), fds.next()) else {
            return;
        };
        let Some(request) = Request::decode(&packet.bytes) else {
            return;
        };
        let brings = request.command == Command::Put;
        if !is_packet_socket(&to) || put.is_some() != brings {
            return;
        }
        let answer = Answer {
            command: request.command,
            to: to.as_fd(),
        };
        match access {
            Access::All if !request.command.is_of_box() => {
                all_boxes::serve(self, &request, &answer);
            }
            Access::One(held) if request.command.is_of_box() => {
                let backing = &self.backing;
                let used = one_box::Used { held, by, backing };
                used.serve(&mut held.content(), &request, put, &answer);
            }
            _ => answer.done(Err(Errno::PERM)),
        }
    }
}
