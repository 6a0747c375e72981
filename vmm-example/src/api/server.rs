//! The side of the VMM: a thread that listens, and one for each client.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::peer::{Connection, Peer, Received};
use super::protocol::{Reply, Request};
use crate::socket;

/// How long to wait after a client that could not be accepted.
const RETRY: Duration = Duration::from_millis(100);

/// Why the API is not there.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    #[error("Cannot listen on the API socket {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("Cannot start the API's thread")]
    Spawn(#[source] io::Error),
}

/// Who answers.
pub(crate) trait Service: Send + Sync {
    /// Answers a client's request, the final reply last. Called from many threads.
    fn serve(&self, request: Request, peer: &mut dyn Peer);
}

/// The API socket, bound; it goes when this does.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    pub(crate) fn bind(path: &Path) -> Result<Self, ServerError> {
        let listener = socket::listen(path).map_err(|source| ServerError::Listen {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path: path.into(),
            listener,
        })
    }

    /// Starts to serve.
    pub(crate) fn start(&self, service: Arc<dyn Service>) -> Result<(), ServerError> {
        let listener = self.listener.try_clone().map_err(ServerError::Spawn)?;
        thread::Builder::new()
            .name("api".into())
            .spawn(move || {
                for client in listener.incoming() {
                    let Ok(client) = client else {
                        // Out of descriptors, most likely: not for ever.
                        thread::sleep(RETRY);
                        continue;
                    };
                    let service = service.clone();
                    // A client that finds no thread finds its connection closed.
                    let _ = thread::Builder::new()
                        .name("api-client".into())
                        .spawn(move || serve(&*service, client));
                }
            })
            .map(drop)
            .map_err(ServerError::Spawn)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves a client until it hangs up.
fn serve(service: &dyn Service, client: UnixStream) {
    let mut peer = Connection::new(client);
    loop {
        match peer.receive(None) {
            // A client that no longer listens does not stop what it asked for.
            Received::Request(request) => service.serve(request, &mut peer),
            Received::Nonsense(message) => drop(peer.send(&Reply::Error { message })),
            Received::Nothing => {}
            Received::Gone => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Client;
    use crate::api::protocol::{UpdateEnd, UpdateEvent, UpdateRequest};
    use std::io::{BufRead, BufReader, Write};
    use vmm_fdbox::update::Event;

    /// Answers updates with an event and an end, all else with a refusal.
    struct Fake;

    impl Service for Fake {
        fn serve(&self, request: Request, peer: &mut dyn Peer) {
            if matches!(request, Request::LiveUpdate(_)) {
                peer.send(&Reply::Event(UpdateEvent::new(1, &Event::RollingBack)));
                peer.send(&Reply::UpdateEnd(UpdateEnd::ready()));
            } else {
                peer.send(&Reply::Error {
                    message: "no".into(),
                });
            }
        }
    }

    #[test]
    fn a_client_sees_every_reply_of_each_of_its_requests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let server = Server::bind(&path).unwrap();
        server.start(Arc::new(Fake)).unwrap();
        let mut client = Client::connect(&path).unwrap();
        for _ in 0..2 {
            let mut events = 0;
            let request = Request::LiveUpdate(UpdateRequest::default());
            let end = client.ask(&request, |_| events += 1).unwrap();
            assert_eq!((end, events), (Reply::UpdateEnd(UpdateEnd::ready()), 1));
        }
        let refused = client.ask(&Request::Pause, |_| {}).unwrap();
        assert_eq!(
            refused,
            Reply::Error {
                message: "no".into()
            }
        );
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_request_gets_an_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || serve(&Fake, theirs));
        let mut ours = BufReader::new(ours);
        for line in ["{}", "status", "{\"verb\":\"explode\"}"] {
            ours.get_mut()
                .write_all(format!("{line}\n").as_bytes())
                .unwrap();
            let mut answer = String::new();
            ours.read_line(&mut answer).unwrap();
            assert!(answer.contains("Not a request"), "{answer}");
        }
        drop(ours);
        thread.join().unwrap();
    }
}
