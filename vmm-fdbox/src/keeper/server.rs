//! The server side of a keeper: one thread per connection, and one lock per box.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with};

use super::all_boxes::AllBoxes;
use super::answer::Answer;
use super::backing::Backing;
use super::content::Connection;
use super::held::Held;
use super::one_box;
use super::packet::{self, Packet, is_packet_socket};
use super::wire::{Command, REQUEST_BYTES, Request};

/// What the threads of a keeper share.
#[derive(Debug)]
pub(super) struct Shared {
    boxes: AllBoxes,
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

impl Shared {
    pub(super) fn new(backing: Backing) -> Result<Self, Errno> {
        Ok(Self {
            boxes: AllBoxes::new(backing),
            connections: Arc::default(),
            ended: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Creates a connection with full access.
    pub(super) fn connect(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::All).map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    #[cfg(test)]
    pub(super) fn held(&self, name: &crate::name::BoxName) -> Result<Arc<Held>, Errno> {
        self.boxes.get(name)
    }

    /// Opens a box: the socket in the reply is its descriptor.
    fn open(self: &Arc<Self>, request: &Request, answer: &Answer<'_>) {
        match self
            .boxes
            .named(request)
            .and_then(|held| self.descriptor(held))
        {
            // If nobody receives it, it is closed, which ends its thread.
            Ok(socket) => drop(answer.send(&answer.reply(), Some(socket.as_fd()))),
            Err(errno) => answer.done(Err(errno)),
        }
    }

    fn descriptor(self: &Arc<Self>, held: Arc<Held>) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = packet::pair()?;
        self.serve(ours, Access::One(held))
            .map_err(|_| Errno::NOMEM)?;
        Ok(theirs)
    }

    /// Serves connections until there are no connections and no boxes left.
    pub(super) fn accept(self: &Arc<Self>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        self.boxes.arrive();
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
        Arc::strong_count(&self.connections) == 1 && self.boxes.is_empty()
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
            Access::All if request.command == Command::Open => self.open(&request, &answer),
            Access::All if !request.command.is_of_box() => self.boxes.serve(&request, &answer),
            Access::One(held) if request.command.is_of_box() => {
                let backing = self.boxes.backing();
                let used = one_box::Used { held, by, backing };
                used.serve(&mut held.content(), &request, put, &answer);
            }
            _ => answer.done(Err(Errno::PERM)),
        }
    }
}
