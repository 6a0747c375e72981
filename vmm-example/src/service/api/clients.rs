//! The clients of an API socket. Their number is limited, but there must always be space for the
//! next one.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::Request;

/// The maximum number of clients. Each needs a thread and two descriptors.
pub(super) const MAX_CLIENTS: usize = 64;

/// What a client is doing, in the order in which clients are disconnected to make space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// It has not asked anything, or has its answer.
    Nothing,
    /// It is being answered, or listens to events.
    Hears,
    /// It takes part in an update, and is never disconnected.
    Updates,
}

impl Activity {
    fn of(request: &Request) -> Self {
        match request {
            Request::JoinUpdate {} => Self::Updates,
            _ => Self::Hears,
        }
    }
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    activity: Activity,
    /// Increases with each thing that any client begins or ends.
    since: u64,
}

#[derive(Debug, Default)]
struct Seats {
    here: BTreeMap<u64, Client>,
    /// The last number used.
    last: u64,
}

impl Seats {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Disconnects the client that needs its connection least. False if all of them need theirs.
    fn make_room(&mut self) -> bool {
        let clients = self.here.iter();
        let least = clients.min_by_key(|(_, client)| (client.activity, client.since));
        match least {
            Some((at, client)) if client.activity != Activity::Updates => {
                // Its thread notices.
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
pub(super) struct Clients(Arc<Mutex<Seats>>);

/// A client's place, released on drop.
#[derive(Debug)]
pub(super) struct Seat {
    clients: Clients,
    at: u64,
}

impl Clients {
    /// Allocates a place for another client, for which another one may be disconnected. `None` if
    /// none can be.
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
            activity: Activity::Nothing,
            since: at,
        };
        clients.here.insert(at, client);
        let clients = self.clone();
        Ok(Some(Seat { clients, at }))
    }

    /// Disconnects the client that needs its connection least.
    pub(super) fn make_room(&self) {
        self.lock().make_room();
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The client has sent a request.
    pub(super) fn asks(&self, request: &Request) {
        self.does(Activity::of(request));
    }

    /// The client has its answer.
    pub(super) fn is_answered(&self) {
        self.does(Activity::Nothing);
    }

    fn does(&self, activity: Activity) {
        let mut clients = self.clients.lock();
        let since = clients.number();
        if let Some(client) = clients.here.get_mut(&self.at) {
            (client.activity, client.since) = (activity, since);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.lock().here.remove(&self.at);
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
        let clients = Clients::default();
        let (ends, seats): (Vec<_>, Vec<_>) = (0..MAX_CLIENTS)
            .map(|_| {
                let (near, far) = UnixStream::pair().unwrap();
                (near, clients.seat(&far).unwrap().unwrap())
            })
            .unzip();
        let closed = || ends.iter().position(is_closed);
        let next = || clients.seat(&UnixStream::pair().unwrap().1).unwrap();
        // The first one has sent a request since the second did.
        seats[0].asks(&Request::Status {});
        seats[0].is_answered();
        let first = next().unwrap();
        assert_eq!(closed(), Some(1));
        drop(first);
        // There is a free place again; after that only idle clients can be disconnected.
        for seat in &seats {
            seat.asks(&Request::Events {});
        }
        seats[0].asks(&Request::JoinUpdate {});
        seats[3].is_answered();
        let two = [next().unwrap(), next().unwrap()];
        assert!(is_closed(&ends[3]) && !is_closed(&ends[2]));
        two[0].asks(&Request::Events {});
        two[1].asks(&Request::Events {});
        drop(next().unwrap());
        assert!(is_closed(&ends[2]) && !is_closed(&ends[0]));
    }

    #[test]
    fn an_update_is_not_cut_off() {
        let clients = Clients::default();
        let (_near, far) = UnixStream::pair().unwrap();
        let seats: Vec<_> = (0..MAX_CLIENTS)
            .map(|_| clients.seat(&far).unwrap().unwrap())
            .collect();
        seats
            .iter()
            .for_each(|seat| seat.asks(&Request::JoinUpdate {}));
        assert!(clients.seat(&far).unwrap().is_none());
        drop(seats);
        assert!(clients.seat(&far).unwrap().is_some());
    }
}
