//! Access control: the kernel reports who is at the other end of a connection.

use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, getuid};

use super::protocol::Request;

/// Why a request of a client with read-only access is refused.
pub(super) const ONLY_LOOKS: &str = "Only root and the user who started the VMM may do that: \
     others may ask for status, metrics and events";

/// The user that the VMM was started as, who may send any request. The VMM may run as another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(Uid);

impl Owner {
    /// The current user of this process.
    pub(super) fn current() -> Self {
        Self(getuid())
    }

    /// Whether a client may send this request.
    pub(super) fn lets(self, client: &UnixStream, request: &Request) -> bool {
        let looks = matches!(
            request,
            Request::Status {} | Request::Metrics {} | Request::Events {}
        );
        // A client about which nothing is known has read-only access.
        let all = |uid: Uid| uid.is_root() || uid == self.0;
        looks || socket_peercred(client).is_ok_and(|peer| all(peer.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_than_root_and_the_owner_only_look() {
        let (one, _other) = UnixStream::pair().unwrap();
        let us = Owner::current();
        let somebody = Owner(Uid::from_raw(4711));
        for request in [Request::Status {}, Request::Metrics {}, Request::Events {}] {
            assert!(us.lets(&one, &request));
            assert!(somebody.lets(&one, &request));
        }
        for request in [Request::Pause {}, Request::Cancel {}, Request::Continue {}] {
            assert!(us.lets(&one, &request));
            assert_eq!(somebody.lets(&one, &request), getuid().is_root());
        }
    }
}
