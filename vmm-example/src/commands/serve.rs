//! The part that `run` and `resume` share: being a guest's VMM until its end.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use event_manager::MutEventSubscriber;
use vmm_fdbox::update::ExitStatus;

use crate::api::{Server, Service};
use crate::console::{Console, ConsoleEvents, ConsoleSource};
use crate::error::{chain, warn};
use crate::event_loop::{self, EndSignal};
use crate::handover::Estate;
use crate::machine::Machine;
use crate::socket::Title;
use crate::spec::ConsoleSpec;
use crate::vcpu::{GuestEnd, OnEnd};
use crate::vmm::Vmm;

/// What must be there before the guest runs.
pub(super) struct Surroundings {
    spec: ConsoleSpec,
    pub(super) source: ConsoleSource,
    pub(super) console: Arc<Console>,
    pub(super) end: EndSignal,
    pub(super) on_end: OnEnd,
    server: Option<Server>,
    /// Sockets go and terminals come back with this process.
    pub(super) title: Title,
}

impl Surroundings {
    /// Opens console and API socket, so that what is wrong with them shows before a guest runs.
    pub(super) fn open(console: &ConsoleSpec, api: Option<&Path>) -> anyhow::Result<Self> {
        let title = Title::new(true);
        let source = ConsoleSource::open(console, &title)?;
        let server = api.map(|path| Server::bind(path, &title)).transpose()?;
        Self::with(console, source, server, title)
    }

    pub(super) fn with(
        spec: &ConsoleSpec,
        source: ConsoleSource,
        server: Option<Server>,
        title: Title,
    ) -> anyhow::Result<Self> {
        let end = EndSignal::new()?;
        let sender = end.clone();
        Ok(Self {
            spec: spec.clone(),
            source,
            console: Arc::new(Console::open(spec)?),
            end,
            on_end: Arc::new(move |end| sender.send(end)),
            server,
            title,
        })
    }

    /// Makes a VMM of a parked guest and runs it.
    pub(super) fn start(&self, machine: Machine) -> Vmm {
        let vmm = Vmm::start(machine, self.end.clone());
        vmm.machine().flush_console();
        vmm
    }

    /// Serves a running guest until its end.
    pub(super) fn serve(self, vmm: Vmm) -> anyhow::Result<ExitStatus> {
        self.serve_with(vmm, |_| {})
    }

    /// As [`serve`](Self::serve); `welcome` gets the API once it is served.
    pub(super) fn serve_with(
        self,
        mut vmm: Vmm,
        welcome: impl FnOnce(Welcome),
    ) -> anyhow::Result<ExitStatus> {
        let server = self.server.map(Arc::new);
        let estate = Estate::new(
            &self.spec,
            &self.console,
            &self.source,
            server.as_deref(),
            &self.title,
        );
        match estate {
            Ok(estate) => vmm.set_estate(estate),
            // It runs all the same, and `--kernel` still works.
            Err(error) => warn(&format!("Another binary cannot take over: {error}")),
        }
        let vmm = Arc::new(vmm);
        let serial = vmm.machine().serial().clone();
        let events = ConsoleEvents::new(self.source, self.console, serial);
        if let Some(server) = &server {
            // A guest without an API is better than none.
            if let Err(error) = server.start(vmm.clone()) {
                warn(&chain(&error));
            }
            let (server, service): (_, Arc<dyn Service>) = (Arc::downgrade(server), vmm.clone());
            welcome(Box::new(move |client| {
                if let Some(server) = server.upgrade() {
                    server.welcome(&service, client);
                }
            }));
        }
        let subscriber: Box<dyn MutEventSubscriber> = Box::new(events);
        let end = event_loop::run(&self.end, vec![subscriber])?;
        vmm.abandon_update();
        vmm.chronicle().ended(end.reason());
        // Before anyone hears of the end: nothing of the guest's runs any more.
        vmm.machine().park();
        match end {
            GuestEnd::TripleFault => {
                warn(&format!("{}: {}", vmm.machine().name(), end.reason()));
                Ok(ExitStatus::Done)
            }
            GuestEnd::Reset | GuestEnd::Stopped | GuestEnd::HandedOver => Ok(ExitStatus::Done),
            GuestEnd::Broken(why) => bail!("The guest cannot go on: {why}"),
        }
    }
}

/// Takes clients of the API that another process accepted.
pub(super) type Welcome = Box<dyn Fn(UnixStream) + Send>;
