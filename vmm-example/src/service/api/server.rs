//! The VMM's side: a thread that listens, and one for each client.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::clients::{Clients, Seat};
use super::exit::Exit;
use super::peer::{Connection, Peer, Received};
use super::protocol::{Reply, Request};
use super::rights::Rights;
use crate::sandbox;
use crate::socket::{self, Ownership, SocketPath};

/// How long to wait after a client could not be accepted.
const RETRY: Duration = Duration::from_millis(100);

/// Why the API is not available.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    #[error("Cannot listen on the socket {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("Cannot start the API's thread")]
    Spawn(#[source] io::Error),
}

/// Answers requests.
pub(crate) trait Service: Send + Sync {
    /// Answers a client's request, the final reply last. Called from many threads.
    fn serve(&self, request: Request, peer: &mut dyn Peer);
}

/// The API socket, bound; removed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    place: SocketPath,
    listener: UnixListener,
    exit: Arc<Exit>,
    clients: Clients,
    rights: Rights,
}

impl Server {
    pub(crate) fn bind(
        path: &Path,
        rights: Rights,
        ownership: &Ownership,
    ) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen {
            path: path.into(),
            source,
        };
        let listener = socket::listen(path).map_err(listen)?;
        Self::adopt(path, listener, rights, ownership).map_err(listen)
    }

    /// Takes over a socket that another process bound.
    pub(crate) fn adopt(
        path: &Path,
        listener: UnixListener,
        rights: Rights,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        // Another process may accept the client that woke this one.
        listener.set_nonblocking(true)?;
        Ok(Self {
            place: SocketPath::new(path, ownership),
            listener,
            exit: Arc::new(Exit::new()?),
            clients: Clients::default(),
            rights,
        })
    }

    /// Lets a group connect, read-only.
    pub(crate) fn share(&self, group: u32) -> io::Result<()> {
        socket::share(self.path(), group)
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// A duplicate of the listening socket, for another process.
    pub(crate) fn listener(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }

    /// For handing the clients over to another process.
    pub(crate) fn exit(&self) -> Arc<Exit> {
        self.exit.clone()
    }

    /// Starts serving.
    pub(crate) fn start(&self, service: Arc<dyn Service>) -> Result<(), ServerError> {
        let listener = self.listener.try_clone().map_err(ServerError::Spawn)?;
        let (exit, clients) = (self.exit.clone(), self.clients.clone());
        let rights = self.rights;
        let presence = exit.enter();
        thread::Builder::new()
            .name("api".into())
            .spawn(move || {
                sandbox::confine(sandbox::Thread::Api);
                let _presence = presence;
                while exit.wait_readable(&listener) {
                    match listener.accept() {
                        Ok((client, _)) => welcome(&service, client, &exit, &clients, rights),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // Most likely out of descriptors, which does not last forever.
                        Err(_) => {
                            clients.make_room();
                            thread::sleep(RETRY);
                        }
                    }
                }
            })
            .map(drop)
            .map_err(ServerError::Spawn)
    }

    /// Serves a client that another process accepted.
    pub(crate) fn welcome(&self, service: &Arc<dyn Service>, client: UnixStream) {
        welcome(service, client, &self.exit, &self.clients, self.rights);
    }
}

/// A client for which there is no place, or no thread, is disconnected.
fn welcome(
    service: &Arc<dyn Service>,
    client: UnixStream,
    exit: &Arc<Exit>,
    clients: &Clients,
    rights: Rights,
) {
    let Ok(Some(seat)) = clients.seat(&client) else {
        return;
    };
    let (service, exit) = (service.clone(), exit.clone());
    let presence = exit.enter();
    let _ = thread::Builder::new()
        .name("api-client".into())
        .spawn(move || {
            serve(&*service, client, &exit, seat, rights);
            drop(presence);
        });
}

/// Serves a client until it hangs up, or until this process leaves: an idle client is then handed
/// to the next one.
fn serve(service: &dyn Service, client: UnixStream, exit: &Exit, seat: Seat, rights: Rights) {
    let mut peer = Connection::new(client);
    loop {
        if !peer.has_begun() && !exit.wait_readable(peer.stream()) {
            // From here on nobody closes it.
            drop(seat);
            return exit.leave_client(peer.into_stream());
        }
        match peer.receive(None) {
            // Nobody waits for the answer any more, and the client may have reported a failure.
            Received::Request(_) if peer.is_gone() => return,
            Received::Request(request) if !rights.lets(peer.stream(), &request) => {
                let message = rights.refusal().into();
                peer.send(&Reply::Error { message });
            }
            Received::Request(request) => {
                seat.asks(&request);
                // A connection that listens accepts no other request.
                let is_last = matches!(request, Request::Events {});
                service.serve(request, &mut peer);
                seat.is_answered();
                if is_last {
                    return;
                }
            }
            Received::Nonsense(message) => drop(peer.send(&Reply::Error { message })),
            Received::Nothing => {}
            Received::Gone => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::api::Client;
    use crate::service::events::Notice;
    use std::io::{BufRead, BufReader, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers a cancel with a notice and a final reply, and anything else with an error.
    struct Fake;

    impl Service for Fake {
        fn serve(&self, request: Request, peer: &mut dyn Peer) {
            if request == (Request::Cancel {}) {
                peer.send(&Reply::Notice(Notice::now("vm0", "paused")));
                peer.send(&Reply::Ok);
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
        let server = Server::bind(&path, Rights::of_owner(), &Ownership::new(true)).unwrap();
        server.start(Arc::new(Fake)).unwrap();
        let mut client = Client::connect(&path).unwrap();
        for _ in 0..2 {
            let mut events = 0;
            let end = client.ask(&Request::Cancel {}, |_| events += 1).unwrap();
            assert_eq!((end, events), (Reply::Ok, 1));
        }
        let refused = client.ask(&Request::Pause {}, |_| {}).unwrap();
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
    fn whoever_asks_a_socket_to_look_gets_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let server = Server::bind(&path, Rights::Look, &Ownership::new(true)).unwrap();
        server.start(Arc::new(Fake)).unwrap();
        let mut client = Client::connect(&path).unwrap();
        let mut ask = |request| client.ask(&request, |_| {}).unwrap();
        let Reply::Error { message } = ask(Request::Cancel {}) else {
            panic!("it was let")
        };
        assert!(message.contains("status, metrics and events"), "{message}");
        let served = Reply::Error {
            message: "no".into(),
        };
        assert_eq!(ask(Request::Status {}), served);
    }

    #[test]
    fn what_is_no_request_gets_an_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let seat = Clients::default().seat(&theirs).unwrap().unwrap();
        let thread = thread::spawn(move || {
            serve(
                &Fake,
                theirs,
                &Exit::new().unwrap(),
                seat,
                Rights::of_owner(),
            )
        });
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

    #[test]
    fn clients_go_over_to_the_next_server_without_noticing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let (old_ownership, new_ownership) = (Ownership::new(true), Ownership::new(false));
        let old = Server::bind(&path, Rights::of_owner(), &old_ownership).unwrap();
        let service: Arc<dyn Service> = Arc::new(Fake);
        old.start(service.clone()).unwrap();
        let mut client = Client::connect(&path).unwrap();
        assert!(client.ask(&Request::Status {}, |_| {}).is_ok());

        let listener = UnixListener::from(old.listener().unwrap());
        let new = Server::adopt(&path, listener, Rights::of_owner(), &new_ownership).unwrap();
        let clients = old.exit().leave(0, Duration::from_secs(10));
        assert_eq!(clients.len(), 1);
        // Nobody accepts the connection, and nobody refuses it.
        let mut between = Client::connect(&path).unwrap();
        old_ownership.set(false);
        drop(old);
        new.start(service.clone()).unwrap();
        for client in clients {
            new.welcome(&service, client);
        }
        assert!(client.ask(&Request::Status {}, |_| {}).is_ok());
        assert!(between.ask(&Request::Status {}, |_| {}).is_ok());
        drop(new);
        assert!(path.exists());
    }
    /// Counts the requests it gets.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Service for Counter {
        fn serve(&self, _: Request, peer: &mut dyn Peer) {
            self.0.fetch_add(1, Ordering::SeqCst);
            peer.send(&Reply::Ok);
        }
    }

    /// How often a client is served that sends `asked` beforehand, and then hangs up or only shuts
    /// down its sending side.
    fn served(asked: &str, hangs_up: bool) -> usize {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(asked.as_bytes()).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let ours = (!hangs_up).then_some(ours);
        let counter = Counter::default();
        let seat = Clients::default().seat(&theirs).unwrap().unwrap();
        serve(
            &counter,
            theirs,
            &Exit::new().unwrap(),
            seat,
            Rights::of_owner(),
        );
        drop(ours);
        counter.0.into_inner()
    }

    #[test]
    fn what_a_client_asked_that_is_gone_is_not_done() {
        let asked = "{\"verb\":\"join-update\"}\n{\"verb\":\"pause\"}\n";
        assert_eq!(served(asked, true), 0);
        assert_eq!(served(asked, false), 2);
    }

    #[test]
    fn a_thousand_idle_clients_keep_nobody_from_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let server = Server::bind(&path, Rights::of_owner(), &Ownership::new(true)).unwrap();
        server.start(Arc::new(Fake)).unwrap();
        let mut first = Client::connect(&path).unwrap();
        assert!(first.ask(&Request::Status {}, |_| {}).is_ok());
        let idle: Vec<_> = (0..1000).map_while(|_| connect(&path)).collect();
        assert_eq!(idle.len(), 1000, "{:?}", UnixStream::connect(&path));
        let mut last = Client::connect(&path).unwrap();
        assert!(last.ask(&Request::Status {}, |_| {}).is_ok());
        assert!(first.ask(&Request::Status {}, |_| {}).is_err());
    }

    /// A client that only waits for its place.
    fn connect(path: &Path) -> Option<UnixStream> {
        UnixStream::connect(path).ok()
    }
}
