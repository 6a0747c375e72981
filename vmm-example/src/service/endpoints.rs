//! What a VMM hands to its successor besides the guest: sockets, console, terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::devices::console::{Console, ConsoleSource, TerminalModes};
use crate::service::api::{ApiPaths, Exit, Server, Servers};
use crate::socket::Ownership;
use crate::spec::ConsoleSpec;

/// Names of descriptors for a successor; those of devices come from
/// [`VirtioBus::lend`](crate::devices::virtio::VirtioBus::lend).
pub(crate) mod fd {
    pub(crate) const STDIN: &str = "stdin";
    pub(crate) const STDOUT: &str = "stdout";
    pub(crate) const STDERR: &str = "stderr";
    pub(crate) const KVM: &str = "kvm";
    pub(crate) const API: &str = "api";
    pub(crate) const STATUS: &str = "status";
    pub(crate) const CONSOLE: &str = "console";
    pub(crate) const CONSOLE_CLIENT: &str = "console-client";
    /// The guest's state while it runs: see [`outline`](crate::update::outline).
    pub(crate) const OUTLINE: &str = "outline";
    /// Followed by a number for each client of the API.
    pub(crate) const CLIENT: &str = "client";
}

/// How long clients with pending answers may keep the old process alive.
const CLIENTS_LIMIT: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Endpoints {
    spec: ConsoleSpec,
    console: Arc<Console>,
    listener: Option<OwnedFd>,
    terminal: Option<TerminalModes>,
    api: Option<Api>,
    /// The one for those who only look.
    status: Option<Api>,
    ownership: Ownership,
}

#[derive(Debug)]
struct Api {
    path: PathBuf,
    listener: OwnedFd,
    exit: Arc<Exit>,
}

impl Endpoints {
    pub(crate) fn new(
        spec: &ConsoleSpec,
        console: &Arc<Console>,
        source: &ConsoleSource,
        servers: &Servers,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        let api = |server: &Server| {
            Ok::<_, io::Error>(Api {
                path: server.path().into(),
                listener: server.listener()?,
                exit: server.exit(),
            })
        };
        Ok(Self {
            spec: spec.clone(),
            console: console.clone(),
            listener: source.listener(),
            terminal: source.terminal(),
            api: servers.api.as_ref().map(api).transpose()?,
            status: servers.status.as_ref().map(api).transpose()?,
            ownership: ownership.clone(),
        })
    }

    /// The destination of the serial port.
    pub(crate) fn console(&self) -> &ConsoleSpec {
        &self.spec
    }

    /// The paths of the API sockets.
    pub(crate) fn api_paths(&self) -> ApiPaths {
        let path = |api: &Option<Api>| api.as_ref().map(|api| api.path.clone());
        ApiPaths {
            api: path(&self.api),
            status: path(&self.status),
        }
    }

    /// The descriptors that the successor gets first, by name.
    pub(crate) fn fds(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        use rustix::stdio::{stderr, stdin, stdout};
        let mut fds = vec![
            (fd::STDIN, stdin()),
            (fd::STDOUT, stdout()),
            (fd::STDERR, stderr()),
        ];
        fds.extend(self.listener.iter().map(|own| (fd::CONSOLE, own.as_fd())));
        fds.extend(self.api.iter().map(|api| (fd::API, api.listener.as_fd())));
        let status = self.status.iter();
        fds.extend(status.map(|status| (fd::STATUS, status.listener.as_fd())));
        fds.into_iter()
            .map(|(name, fd)| Ok((name.to_owned(), fd.try_clone_to_owned()?)))
            .collect()
    }

    pub(crate) fn terminal(&self) -> Option<TerminalModes> {
        self.terminal
    }

    /// The client of the console; call this when it can no longer change.
    pub(crate) fn console_client(&self) -> Option<OwnedFd> {
        self.console.client()
    }

    /// From now on all of it belongs to the successor. Returns the idle clients of the API; the one
    /// that requested this does not count.
    pub(crate) fn give_up(&self) -> Vec<OwnedFd> {
        self.ownership.set(false);
        self.console.gate().shut();
        // Of those who only look nobody is passed on: the new VMM would not know that it is one of them.
        let looking = self.status.iter();
        looking.for_each(|status| drop(status.exit.leave(0, CLIENTS_LIMIT)));
        let api = self.api.iter();
        api.flat_map(|api| api.exit.leave(1, CLIENTS_LIMIT))
            .map(OwnedFd::from)
            .collect()
    }
}
