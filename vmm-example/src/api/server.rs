//! The side of the VMM: a thread that listens, and one for each client.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use thiserror::Error;

use super::protocol::{Reply, Request};
use crate::socket;
use crate::vmm::Vmm;

/// The longest request in bytes.
const MAX_REQUEST: u64 = 64 << 10;

/// Why the API is not there.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    #[error("Cannot listen on the API socket {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("Cannot start the API's thread")]
    Spawn(#[source] io::Error),
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
    pub(crate) fn start(&self, vmm: Arc<Vmm>) -> Result<(), ServerError> {
        let listener = self.listener.try_clone().map_err(ServerError::Spawn)?;
        thread::Builder::new()
            .name("api".into())
            .spawn(move || {
                for client in listener.incoming().filter_map(Result::ok) {
                    let vmm = vmm.clone();
                    // A client that finds no thread finds its connection closed.
                    let _ = thread::Builder::new()
                        .name("api-client".into())
                        .spawn(move || serve(&vmm, client));
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
fn serve(vmm: &Vmm, mut client: UnixStream) {
    let Ok(reader) = client.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while matches!(
        reader.by_ref().take(MAX_REQUEST).read_line(&mut line),
        Ok(1..)
    ) {
        // A client that no longer listens does not stop what it asked for.
        let mut send = |reply: &Reply| drop(send_line(&mut client, reply));
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => vmm.serve(request, &mut send),
            Err(error) => send(&Reply::Error {
                message: format!("Not a request: {error}"),
            }),
        }
        line.clear();
    }
}

fn send_line(client: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    client.write_all(line.as_bytes())
}
