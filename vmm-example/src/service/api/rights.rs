//! Access control: the kernel reports who is at the other end of a connection.

use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, getuid};

use super::protocol::Request;

/// Why a request is refused.
const NOT_THE_OWNER: &str = "Only root and the user who started the VMM may do that: \
     others may ask for status, metrics and events";
const ONLY_LOOKS: &str = "This socket is only for status, metrics and events: \
     use the API socket for other requests";

/// Who may send which requests to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Root and this user, whom the VMM was started as, may ask for everything. It need not run as that user.
    Owner(Uid),
    /// Nobody does more than look, whoever it is.
    Look,
}

impl Rights {
    /// The rights that the current user of this process gives.
    pub(crate) fn of_owner() -> Self {
        Self::Owner(getuid())
    }

    /// The answer to a request that is refused.
    pub(super) fn refusal(self) -> &'static str {
        match self {
            Self::Owner(_) => NOT_THE_OWNER,
            Self::Look => ONLY_LOOKS,
        }
    }

    /// Whether a client may send this request.
    pub(super) fn lets(self, client: &UnixStream, request: &Request) -> bool {
        let looks = matches!(
            request,
            Request::Status {} | Request::Metrics {} | Request::Events {}
        );
        let Self::Owner(owner) = self else {
            return looks;
        };
        // A client about which nothing is known has read-only access.
        let all = |uid: Uid| uid.is_root() || uid == owner;
        looks || socket_peercred(client).is_ok_and(|peer| all(peer.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_than_root_and_the_owner_only_look() {
        let (one, _other) = UnixStream::pair().unwrap();
        let us = Rights::of_owner();
        let somebody = Rights::Owner(Uid::from_raw(4711));
        for request in [Request::Status {}, Request::Metrics {}, Request::Events {}] {
            assert!(us.lets(&one, &request));
            assert!(somebody.lets(&one, &request));
            assert!(Rights::Look.lets(&one, &request));
        }
        for request in [Request::Pause {}, Request::Cancel {}, Request::Continue {}] {
            assert!(us.lets(&one, &request));
            assert_eq!(somebody.lets(&one, &request), getuid().is_root());
            assert!(!Rights::Look.lets(&one, &request));
        }
    }
}
