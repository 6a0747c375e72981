//! The part that `run` and `resume` share: being a guest's VMM until its end.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use event_manager::MutEventSubscriber;
use vmm_fdbox::update::ExitStatus;

use crate::api::Server;
use crate::console::{Console, ConsoleEvents, ConsoleSource};
use crate::error::{chain, warn};
use crate::event_loop::{self, EndSignal};
use crate::spec::ConsoleSpec;
use crate::vcpu::{GuestEnd, OnEnd};
use crate::vmm::Vmm;

/// What must be there before the guest runs.
pub(super) struct Surroundings {
    source: ConsoleSource,
    pub(super) console: Arc<Console>,
    pub(super) end: EndSignal,
    pub(super) on_end: OnEnd,
    server: Option<Server>,
}

impl Surroundings {
    /// Opens console and API socket, so that what is wrong with them shows before a guest runs.
    pub(super) fn open(console: &ConsoleSpec, api: Option<&Path>) -> anyhow::Result<Self> {
        let end = EndSignal::new()?;
        let sender = end.clone();
        Ok(Self {
            source: ConsoleSource::open(console)?,
            console: Arc::new(Console::open(console)?),
            end,
            on_end: Arc::new(move |end| sender.send(end)),
            server: api.map(Server::bind).transpose()?,
        })
    }

    /// Serves a running guest until its end.
    pub(super) fn serve(self, vmm: Vmm) -> anyhow::Result<ExitStatus> {
        let vmm = Arc::new(vmm);
        let serial = vmm.machine().serial().clone();
        let events = ConsoleEvents::new(self.source, self.console, serial);
        if let Some(server) = &self.server {
            // A guest without an API is better than none.
            if let Err(error) = server.start(vmm.clone()) {
                warn(&chain(&error));
            }
        }
        let subscriber: Box<dyn MutEventSubscriber> = Box::new(events);
        let end = event_loop::run(&self.end, vec![subscriber])?;
        vmm.abandon_update();
        vmm.chronicle().note("ended");
        // Before anyone hears of the end: nothing of the guest's runs any more.
        vmm.machine().park();
        match end {
            GuestEnd::Reset | GuestEnd::Stopped | GuestEnd::HandedOver => Ok(ExitStatus::Done),
            GuestEnd::Broken(why) => bail!("The guest cannot go on: {why}"),
        }
    }
}
