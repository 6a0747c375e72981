//! The part that `run` and `resume` share: serving a guest as its VMM until its end.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use event_manager::MutEventSubscriber;
use vmm_fdbox::update::ExitStatus;

use crate::devices::console::{Console, ConsoleEvents, ConsoleSource};
use crate::error::{chain, warn};
use crate::guest::machine::Machine;
use crate::guest::vcpu::{GuestEnd, OnEnd};
use crate::service::api::{ApiPaths, Server, Servers, Service};
use crate::service::endpoints::Endpoints;
use crate::service::event_loop::{self, EndSignal};
use crate::service::events::Notice;
use crate::service::power::{PowerTimer, SHUTDOWN_LIMIT};
use crate::service::signals::{Asked, Signals};
use crate::service::vmm::Vmm;
use crate::socket::Ownership;
use crate::spec::ConsoleSpec;

/// What must be in place before the guest runs.
pub(super) struct Environment {
    spec: ConsoleSpec,
    source: ConsoleSource,
    pub(super) console: Arc<Console>,
    end: EndSignal,
    pub(super) on_end: OnEnd,
    servers: Servers,
    /// Removes sockets and restores terminals when this process ends.
    pub(super) ownership: Ownership,
    /// Whether the guest's beginning and end are announced on standard output.
    announces: bool,
    power: PowerTimer,
    signals: Signals,
    /// How long the guest has after a signal.
    shutdown_limit: Duration,
}

impl Environment {
    /// Opens console and API sockets, so that errors show before a guest runs.
    pub(super) fn open(console: &ConsoleSpec, paths: &ApiPaths) -> anyhow::Result<Self> {
        let ownership = Ownership::new(true);
        // A VMM that takes over the guest has another working directory.
        let console = console.clone().absolute()?;
        let source = ConsoleSource::open(&console, &ownership)?;
        let servers = Servers::bind(paths, &ownership)?;
        Self::with(&console, source, servers, ownership)
    }

    pub(super) fn with(
        spec: &ConsoleSpec,
        source: ConsoleSource,
        servers: Servers,
        ownership: Ownership,
    ) -> anyhow::Result<Self> {
        // Before there are threads that could receive a signal.
        let signals = Signals::hold_back().context("Cannot hold back signals")?;
        let end = EndSignal::new()?;
        let power = PowerTimer::new(&end).context("Cannot create a timer")?;
        let sender = end.clone();
        Ok(Self {
            spec: spec.clone(),
            source,
            console: Arc::new(Console::open(spec)?),
            end,
            on_end: Arc::new(move |end| sender.send(end)),
            servers,
            ownership,
            announces: false,
            power,
            signals,
            shutdown_limit: SHUTDOWN_LIMIT,
        })
    }

    /// Lets a group connect to the API, read-only.
    pub(super) fn share_api(&self, group: Option<u32>) -> anyhow::Result<()> {
        let Some(group) = group else {
            return Ok(());
        };
        let context = || format!("Cannot give the API's socket to group {group}");
        self.servers.share(group).with_context(context)
    }

    /// Announces the guest's beginning and end on standard output.
    pub(super) fn announce(mut self) -> Self {
        self.announces = true;
        self
    }

    /// Sets how long the guest has to switch itself off after a signal.
    pub(super) fn shut_down_in(mut self, limit: Duration) -> Self {
        self.shutdown_limit = limit;
        self
    }

    /// Takes over a client of the console.
    pub(super) fn adopt_client(&mut self, client: UnixStream) -> io::Result<()> {
        self.console.adopt_client(client.try_clone()?);
        self.source.adopt_client(client);
        Ok(())
    }

    /// Makes a VMM from a parked guest and runs it.
    pub(super) fn start(&self, machine: Machine) -> Vmm {
        let vmm = Vmm::start(machine, self.end.clone(), self.power.clone());
        vmm.machine().flush_console();
        vmm
    }

    /// Serves a running guest until its end.
    pub(super) fn serve(self, vmm: Vmm) -> anyhow::Result<ExitStatus> {
        self.serve_with(vmm, |_| {})
    }

    /// Like [`serve`](Self::serve); `welcome` gets the API once it is served.
    pub(super) fn serve_with(
        self,
        mut vmm: Vmm,
        welcome: impl FnOnce(Welcome),
    ) -> anyhow::Result<ExitStatus> {
        let endpoints = Endpoints::new(
            &self.spec,
            &self.console,
            &self.source,
            &self.servers,
            &self.ownership,
        );
        let Servers { api, status } = self.servers;
        let server = api.map(Arc::new);
        match endpoints {
            Ok(endpoints) => vmm.set_endpoints(endpoints),
            // The guest runs anyway, and `--kernel` still works.
            Err(error) => warn(&format!("Another binary cannot take over: {error}")),
        }
        let vmm = Arc::new(vmm);
        let serial = vmm.machine().serial().clone();
        let events = ConsoleEvents::new(self.source, self.console, serial);
        if let Some(server) = &server {
            if start(server, &vmm) && self.announces {
                let path = server.path().display().to_string();
                announce(vmm.machine().name(), "listening", &path);
            }
            let (server, service): (_, Arc<dyn Service>) = (Arc::downgrade(server), vmm.clone());
            welcome(Box::new(move |client| {
                if let Some(server) = server.upgrade() {
                    server.welcome(&service, client);
                }
            }));
        }
        if let Some(status) = &status {
            start(status, &vmm);
        }
        let asked = vmm.clone();
        let (mut limit, mut has_hung_up) = (self.shutdown_limit, false);
        let on_signal = self.signals.then(move |what| match what {
            // A second signal means not to wait.
            Asked::End => asked.shut_down(std::mem::take(&mut limit)),
            Asked::HungUp if std::mem::replace(&mut has_hung_up, true) => {}
            Asked::HungUp => asked.shut_down(limit),
        });
        let subscribers: Vec<Box<dyn MutEventSubscriber>> =
            vec![Box::new(events), Box::new(self.power), Box::new(on_signal)];
        let end = event_loop::run(&self.end, subscribers, |end| vmm.carry_out(end))?;
        vmm.abandon_update();
        // Before anyone is told about the end: nothing of the guest runs any more.
        vmm.machine().finish();
        vmm.history().ended(end.reason());
        if self.announces {
            announce(vmm.machine().name(), "ended", end.reason());
        }
        came_to_its_end(vmm.machine().name(), end)
    }
}

/// Starts to serve a socket: a guest without an API is better than none.
fn start(server: &Server, vmm: &Arc<Vmm>) -> bool {
    let started = server.start(vmm.clone());
    if let Err(error) = &started {
        warn(&chain(error));
    }
    started.is_ok()
}

/// The exit status of the command.
fn came_to_its_end(guest: &str, end: GuestEnd) -> anyhow::Result<ExitStatus> {
    match end {
        GuestEnd::TripleFault => {
            warn(&format!("{}: {}", guest, end.reason()));
            Ok(ExitStatus::Done)
        }
        GuestEnd::Reset | GuestEnd::Off | GuestEnd::Stopped | GuestEnd::HandedOver => {
            Ok(ExitStatus::Done)
        }
        GuestEnd::Broken(why) => bail!("The guest cannot go on: {why}"),
    }
}

/// Notifies the program that started this one, as `events` would.
fn announce(guest: &str, event: &str, message: &str) {
    // The guest does not end because nobody reads the output.
    let _ = writeln!(io::stdout(), "{}", announcement(guest, event, message));
}

fn announcement(guest: &str, event: &str, message: &str) -> String {
    let notice = Notice {
        message: Some(message.into()),
        ..Notice::now(guest, event)
    };
    serde_json::to_string(&notice).unwrap_or_default()
}

/// Takes clients of the API that another process accepted.
pub(super) type Welcome = Box<dyn Fn(UnixStream) + Send>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_one_object_on_one_line() {
        let reason = GuestEnd::Broken("KVM said:\n\"no\"".into());
        let line = announcement("vm0", "ended", reason.reason());
        assert!(!line.contains('\n'), "{line}");
        let notice: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&notice["guest"], &notice["event"]),
            (&"vm0".into(), &"ended".into())
        );
        assert_eq!(notice["message"], reason.reason());
        assert!(notice["unix_ns"].is_u64() && notice["boottime_ns"].is_u64());
    }
}
