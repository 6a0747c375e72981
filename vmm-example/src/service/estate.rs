//! What of a VMM goes to its successor beside the guest: sockets, console, terminal.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::devices::console::{Console, ConsoleSource, TerminalModes};
use crate::service::api::{Exit, Server};
use crate::socket::Title;
use crate::spec::ConsoleSpec;

/// Names of descriptors that a successor gets; those of devices come from
/// [`VirtioBus::lend`](crate::devices::virtio::VirtioBus::lend).
pub(crate) mod fd {
    pub(crate) const STDIN: &str = "stdin";
    pub(crate) const API: &str = "api";
    pub(crate) const CONSOLE: &str = "console";
    pub(crate) const CONSOLE_CLIENT: &str = "console-client";
}

/// How long clients that are being answered may keep the old process.
const CLIENTS_LIMIT: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Estate {
    spec: ConsoleSpec,
    console: Arc<Console>,
    listener: Option<OwnedFd>,
    terminal: Option<TerminalModes>,
    api: Option<Api>,
    title: Title,
}

#[derive(Debug)]
struct Api {
    path: PathBuf,
    listener: OwnedFd,
    exit: Arc<Exit>,
}

impl Estate {
    pub(crate) fn new(
        spec: &ConsoleSpec,
        console: &Arc<Console>,
        source: &ConsoleSource,
        server: Option<&Server>,
        title: &Title,
    ) -> std::io::Result<Self> {
        let api = |server: &Server| {
            Ok::<_, std::io::Error>(Api {
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
            api: server.map(api).transpose()?,
            title: title.clone(),
        })
    }

    /// The options that the successor is started with.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--console".into(), self.spec.to_string().into()];
        if let Some(api) = &self.api {
            arguments.push("--api-socket".into());
            arguments.push(api.path.clone().into());
        }
        arguments
    }

    /// The descriptors that the successor gets first, by name.
    pub(crate) fn fds(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        // `stdin()` would be a handle whose descriptor lives no longer than it.
        let mut fds = vec![(fd::STDIN, rustix::stdio::stdin())];
        fds.extend(self.listener.iter().map(|own| (fd::CONSOLE, own.as_fd())));
        fds.extend(self.api.iter().map(|api| (fd::API, api.listener.as_fd())));
        fds
    }

    pub(crate) fn terminal(&self) -> Option<TerminalModes> {
        self.terminal
    }

    /// Whoever is connected to the console; ask when nobody can come and go any more.
    pub(crate) fn console_client(&self) -> Option<OwnedFd> {
        self.console.client()
    }

    /// From now on all of it is the successor's. Returns the clients of the API that wait for
    /// no answer; one that gets this one's does not count.
    pub(crate) fn give_up(&self) -> Vec<OwnedFd> {
        self.title.set(false);
        self.console.gate().give_up();
        let api = self.api.iter();
        api.flat_map(|api| api.exit.leave(1, CLIENTS_LIMIT))
            .map(OwnedFd::from)
            .collect()
    }
}
