//! The requests that a guest's VMM serves.

use std::time::Duration;

use crate::guest::state;
use crate::service::api::Service;
use crate::service::api::peer::Peer;
use crate::service::api::protocol::{Reply, Request};
use crate::service::power::SHUTDOWN_LIMIT;
use crate::service::vmm::Vmm;
use crate::update::leaving;

impl Service for Vmm {
    fn serve(&self, request: Request, peer: &mut dyn Peer) {
        let done = match request {
            Request::Status {} => {
                peer.send(&Reply::Status(Box::new(self.status())));
                return;
            }
            Request::Metrics {} => {
                let text = self.metrics();
                peer.send(&Reply::Metrics { text });
                return;
            }
            Request::Events {} => return self.history().stream(peer),
            Request::DescribeState {} => {
                let devices = self.machine().device_sections();
                let mut state = state::description(&devices);
                for (section, needs) in self.machine().virtio().needs() {
                    let needs = serde_json::to_value(needs).unwrap_or_default();
                    state = state.with_needs(section, needs);
                }
                let state = Box::new(state);
                peer.send(&Reply::State { state });
                return;
            }
            Request::JoinUpdate {} => match self.check_update() {
                Ok(()) => return join(self, peer),
                Err(refusal) => Err(refusal),
            },
            Request::Pause {} => self.pause(),
            Request::Continue {} => self.go_on(),
            Request::Cancel {} => self.cancel(),
            Request::Shutdown(request) => {
                // The answer comes first, because the process ends with the guest.
                peer.send(&Reply::Ok);
                let limit = request.timeout.map_or(SHUTDOWN_LIMIT, Duration::from_secs);
                return self.shut_down(limit);
            }
        };
        peer.send(&done.map_or_else(Reply::from, |()| Reply::Ok));
    }
}

/// Takes part in an update: from now on the connection speaks the member protocol.
fn join(vmm: &Vmm, peer: &mut dyn Peer) {
    match peer.socket() {
        Ok(socket) => {
            if peer.send(&Reply::Ok) {
                leaving::serve(vmm, socket);
            }
        }
        Err(error) => {
            let message = format!("This connection cannot be used for it: {error}");
            peer.send(&Reply::Error { message });
        }
    }
}
