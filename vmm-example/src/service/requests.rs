//! What clients of the API ask of a guest's VMM.

use std::time::Duration;

use crate::service::api::Service;
use crate::service::api::peer::Peer;
use crate::service::api::protocol::{Reply, Request};
use crate::service::power::SHUTDOWN_LIMIT;
use crate::service::vmm::{Refusal, Vmm};
use crate::update;

impl Service for Vmm {
    fn serve(&self, request: Request, peer: &mut dyn Peer) {
        let done = match request {
            Request::Status => {
                peer.send(&Reply::Status(Box::new(self.status())));
                return;
            }
            Request::Metrics => {
                let text = self.metrics();
                peer.send(&Reply::Metrics { text });
                return;
            }
            Request::Events => return self.chronicle().stream(peer),
            Request::LiveUpdate(request) => return update::serve(self, &request, peer),
            Request::JoinUpdate(request) => return update::joint::serve(self, &request, peer),
            Request::SetDown => return update::joint::set_down(self, peer),
            Request::Prepare | Request::PauseAndSave | Request::RollBack | Request::HandOver => {
                Err(Refusal::NotJoined)
            }
            Request::Pause => self.pause(),
            Request::Continue => self.go_on(),
            Request::Cancel => self.cancel(),
            Request::Shutdown(request) => {
                // The answer comes first: the process ends with the guest.
                peer.send(&Reply::Ok);
                let limit = request.timeout.map_or(SHUTDOWN_LIMIT, Duration::from_secs);
                return self.shut_down(limit);
            }
        };
        peer.send(&done.map_or_else(Reply::from, |()| Reply::Ok));
    }
}
