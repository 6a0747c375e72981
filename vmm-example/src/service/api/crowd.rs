//! The clients of an API socket: so many and no more, for there must be room for the next one.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::Request;

/// The most clients at once. Each costs a thread and two descriptors.
pub(super) const MAX_CLIENTS: usize = 64;

/// What a client is at, in the order in which room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has asked nothing, or has its answer.
    Nothing,
    /// It gets an answer, or listens.
    Hears,
    /// It takes part in an update. It stays.
    Updates,
}

impl Doing {
    fn of(request: &Request) -> Self {
        match request {
            Request::JoinUpdate => Self::Updates,
            _ => Self::Hears,
        }
    }
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    doing: Doing,
    /// Grows with each thing that any client begins or ends.
    since: u64,
}

#[derive(Debug, Default)]
struct Clients {
    here: BTreeMap<u64, Client>,
    /// The last number that was given.
    last: u64,
}

impl Clients {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Closes the connection of the client that needs it least. False: all of them need theirs.
    fn make_room(&mut self) -> bool {
        let clients = self.here.iter();
        let least = clients.min_by_key(|(_, client)| (client.doing, client.since));
        match least {
            Some((at, client)) if client.doing != Doing::Updates => {
                // Its thread finds that it is gone.
                let _ = client.stream.shutdown(Shutdown::Both);
                let at = *at;
                self.here.remove(&at);
                true
            }
            _ => false,
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Mutex<Clients>>);

/// A client's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Crowd,
    at: u64,
}

impl Crowd {
    /// A place for one more client, for which another may have to go. None if nobody can.
    pub(super) fn seat(&self, stream: &UnixStream) -> io::Result<Option<Seat>> {
        let mut clients = self.lock();
        while clients.here.len() >= MAX_CLIENTS {
            if !clients.make_room() {
                return Ok(None);
            }
        }
        let at = clients.number();
        let client = Client {
            stream: stream.try_clone()?,
            doing: Doing::Nothing,
            since: at,
        };
        clients.here.insert(at, client);
        let crowd = self.clone();
        Ok(Some(Seat { crowd, at }))
    }

    /// Closes the connection of the client that needs it least.
    pub(super) fn make_room(&self) {
        self.lock().make_room();
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The client has asked for something.
    pub(super) fn asks(&self, request: &Request) {
        self.does(Doing::of(request));
    }

    /// It has its answer.
    pub(super) fn is_answered(&self) {
        self.does(Doing::Nothing);
    }

    fn does(&self, doing: Doing) {
        let mut clients = self.crowd.lock();
        let since = clients.number();
        if let Some(client) = clients.here.get_mut(&self.at) {
            (client.doing, client.since) = (doing, since);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().here.remove(&self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn is_closed(mut client: &UnixStream) -> bool {
        client.set_nonblocking(true).unwrap();
        matches!(client.read(&mut [0]), Ok(0))
    }

    #[test]
    fn who_needs_its_connection_least_goes_first() {
        let crowd = Crowd::default();
        let (clients, seats): (Vec<_>, Vec<_>) = (0..MAX_CLIENTS)
            .map(|_| {
                let (near, far) = UnixStream::pair().unwrap();
                (near, crowd.seat(&far).unwrap().unwrap())
            })
            .unzip();
        let closed = || clients.iter().position(is_closed);
        let next = || crowd.seat(&UnixStream::pair().unwrap().1).unwrap();
        // The first has asked something since the second did.
        seats[0].asks(&Request::Status);
        seats[0].is_answered();
        let first = next().unwrap();
        assert_eq!(closed(), Some(1));
        drop(first);
        // There is room for one again; then for nobody but those who wait for nothing.
        for seat in &seats {
            seat.asks(&Request::Events);
        }
        seats[0].asks(&Request::JoinUpdate);
        seats[3].is_answered();
        let two = [next().unwrap(), next().unwrap()];
        assert!(is_closed(&clients[3]) && !is_closed(&clients[2]));
        two[0].asks(&Request::Events);
        two[1].asks(&Request::Events);
        drop(next().unwrap());
        assert!(is_closed(&clients[2]) && !is_closed(&clients[0]));
    }

    #[test]
    fn an_update_is_not_cut_off() {
        let crowd = Crowd::default();
        let (_near, far) = UnixStream::pair().unwrap();
        let seats: Vec<_> = (0..MAX_CLIENTS)
            .map(|_| crowd.seat(&far).unwrap().unwrap())
            .collect();
        seats
            .iter()
            .for_each(|seat| seat.asks(&Request::JoinUpdate));
        assert!(crowd.seat(&far).unwrap().is_none());
        drop(seats);
        assert!(crowd.seat(&far).unwrap().is_some());
    }
}
