//! A keeper at work: a thread for each connection, and one lock for each box.

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
    /// Each thread of a connection has one; it is told of when it ends.
    connections: Arc<()>,
    ended: OwnedFd,
}

/// A connection, of which it is known what it is for.
#[derive(Debug, Clone)]
enum Access {
    All,
    One(Arc<Held>),
}

/// Where an answer goes.
pub(super) struct Answer<'a> {
    command: Command,
    to: BorrowedFd<'a>,
}

impl Answer<'_> {
    pub(super) fn reply(&self) -> Reply {
        Reply::new(self.command)
    }

    /// Whether it got there. If not, whoever asked will never have it.
    pub(super) fn send(&self, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> bool {
        packet::send(self.to, &reply.encode(), fd.as_slice()).is_ok()
    }

    pub(super) fn done(&self, done: Result<(), Errno>) {
        self.reply_with(done.map(|()| self.reply()));
    }

    /// As [`done`](Self::done), of what answers by itself if it is done.
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
            // Nobody waits for it before it is asked for; without a thread it is done then.
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

    /// Connects somebody who may do everything.
    pub(super) fn connect(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::All).map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    /// Opens a box: the socket is its descriptor.
    pub(super) fn open(self: &Arc<Self>, name: &BoxName) -> Result<OwnedFd, Errno> {
        let held = self.get(name)?;
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::One(held))
            .map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    /// Serves whoever connects, until there are neither connections any more nor boxes.
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
                // Without a thread it is closed, which its other end sees.
                let _ = self.serve(socket, Access::All);
                Ok(())
            }
            Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Asked when a connection has ended.
    fn is_idle(&self) -> bool {
        // The end that woke this up is no news any more.
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
            // A counter that is full wakes as well.
            let _ = rustix::io::write(&shared.ended, &1_u64.to_ne_bytes());
        };
        thread::Builder::new().name("keeper".into()).spawn(serve)?;
        Ok(())
    }

    /// Answers what comes in on a connection until everybody has closed it.
    fn converse(self: &Arc<Self>, socket: &Connection, access: &Access) {
        loop {
            match packet::receive(socket.as_fd(), REQUEST_BYTES, RecvFlags::empty()) {
                Ok(Some(packet)) => self.heard(packet, socket, access),
                // Too long: whoever sent it sees that the socket it gave is closed.
                Err(Errno::MSGSIZE) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// A packet without a socket to answer on, or that is no request, is dropped: the other end sees that its socket
    /// is closed.
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
