//! Who may ask for what: the kernel says who is at the other end of a connection.

use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, getuid};

use super::protocol::Request;

/// Why a request is refused to whom may only look.
pub(super) const ONLY_LOOKS: &str =
    "That is for root and for who started the VMM: others may ask for status, metrics and events";

/// The user that a VMM was started as, who may ask for everything. It need not be the one it runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(Uid);

impl Owner {
    /// The user that this process is now.
    pub(super) fn current() -> Self {
        Self(getuid())
    }

    /// Whether a client may ask for this.
    pub(super) fn lets(self, client: &UnixStream, request: &Request) -> bool {
        let looks = matches!(
            request,
            Request::Status {} | Request::Metrics {} | Request::Events {}
        );
        // A client of which nothing is known may look.
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
