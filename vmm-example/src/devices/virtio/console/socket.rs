//! The socket that the console leads to, and who is connected.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::socket::{Ownership, SocketPath};

/// See the module's documentation. One client at a time; nobody waits for it.
#[derive(Debug)]
pub(super) struct SocketEnd {
    /// Removed on drop, if it is ours.
    _socket_path: SocketPath,
    listener: UnixListener,
    client: Option<UnixStream>,
    epoll: OwnedFd,
}

impl SocketEnd {
    pub(super) fn new(
        path: &Path,
        listener: UnixListener,
        client: Option<UnixStream>,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &listener, EventData::new_u64(0), flags)?;
        if let Some(client) = &client {
            epoll::add(&epoll, client, EventData::new_u64(1), flags)?;
        }
        Ok(Self {
            _socket_path: SocketPath::new(path, ownership),
            listener,
            client,
            epoll,
        })
    }

    /// Connects a waiting client, if the previous one has gone.
    pub(super) fn accept(&mut self) {
        // Events of both only serve to wake the thread: all of them are consumed.
        let mut events = [const {
            epoll::Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }
        }; 2];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let _ = epoll::wait(&self.epoll, &mut events, Some(&now));
        while self.client.is_none() {
            let Ok((new, _)) = self.listener.accept() else {
                return;
            };
            let flags = EventFlags::IN | EventFlags::ET;
            let watched = epoll::add(&self.epoll, &new, EventData::new_u64(1), flags);
            if watched.is_ok() && new.set_nonblocking(true).is_ok() {
                self.client = Some(new);
            }
        }
    }

    /// Reads from the client; 0 if there is nothing now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            let Some(client) = &mut self.client else {
                return 0;
            };
            match client.read(buffer) {
                Ok(count @ 1..) => return count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.client = None;
                    self.accept();
                }
            }
        }
    }

    /// Returns false if bytes were dropped: nobody is connected, or the client does not read.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        let client = self.client.as_mut();
        client.is_some_and(|client| client.write_all(bytes).is_ok())
    }

    /// Readable when somebody connects, or says something.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Who listens and who is connected, for another process.
    pub(super) fn lend(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let client = self
            .client
            .as_ref()
            .map(UnixStream::try_clone)
            .transpose()?;
        Ok((self.listener.try_clone()?.into(), client.map(OwnedFd::from)))
    }
}
