//! A VMM without a guest: what it has so far.

use std::os::fd::OwnedFd;

use rustix::process::Signal;
use vmm_fdbox::update::{PartyError, Step};
use vmm_fdbox::{BoxName, Home};

use crate::cli::MemberArgs;
use crate::commands::serve::Environment;
use crate::commands::signal;
use crate::devices::virtio;
use crate::guest::machine::{Boot, Machine, Shell};
use crate::guest::state::{GuestState, JourneyV1};
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::sandbox::Sandbox;
use crate::service::api::ApiPaths;
use crate::service::report::HostReport;
use crate::service::vmm::Vmm;
use crate::spec::ConsoleSpec;
use crate::update::handover_info::HandoverInfo;

/// What was built before the guest was paused in its old VMM.
pub(super) struct Prebuilt {
    pub(super) info: HandoverInfo,
    /// What the old VMM could not open.
    pub(super) boot: Option<Boot>,
    pub(super) shell: Shell,
}

/// What was built before the guest was paused in the other kernel.
pub(super) struct Standby {
    /// The guest's state as it was then.
    pub(super) outline: GuestState,
    pub(super) boot: Option<Boot>,
    /// In the host, with what they need of it; in the lifeboat at rest.
    pub(super) devices: Vec<virtio::Opened>,
    pub(super) shell: Shell,
}

/// What was opened for a guest that waits in its box.
pub(super) struct Reserved {
    pub(super) state: GuestState,
    pub(super) sandbox: Sandbox,
    pub(super) boot: Option<Boot>,
    pub(super) devices: Vec<virtio::Opened>,
}

/// A VMM without a guest: see `arriving`.
pub(super) struct ArrivingGuest<'a> {
    pub(super) args: &'a MemberArgs,
    pub(super) box_name: Option<BoxName>,
    /// The home of the box.
    pub(super) home: Home,
    /// Whether the guest is to arrive paused.
    pub(super) paused: bool,
    pub(super) is_ready: bool,
    /// For the report.
    pub(super) on_host: HostReport,
    pub(super) host: Option<Host>,
    pub(super) environment: Option<Environment>,
    pub(super) prebuilt: Option<Prebuilt>,
    /// Whether the guest runs in another kernel, beside this one; and what was built for it.
    pub(super) stands_by: bool,
    pub(super) standby: Option<Standby>,
    /// The file with the guest's outline, which is erased when the guest is home.
    pub(super) outline: Option<OwnedFd>,
    /// What the lifeboat tells of the guest, in the host.
    pub(super) journey: Option<JourneyV1>,
    /// `Err` if something could not be opened.
    pub(super) reserved: Option<Result<Reserved, PartyError>>,
    /// The guest, which does not run yet.
    pub(super) parked: Option<Machine>,
    pub(super) notes: RestoreNotes,
    pub(super) vmm: Option<Vmm>,
}

pub(super) fn missing(what: &str) -> PartyError {
    format!("{what} is missing: the coordinator left a step out").into()
}

/// Wraps an error with several layers for the library.
pub(super) fn layered(error: anyhow::Error) -> PartyError {
    format!("{error:#}").into()
}

impl<'a> ArrivingGuest<'a> {
    pub(super) fn new(args: &'a MemberArgs) -> Self {
        Self {
            args,
            box_name: None,
            home: Home::default(),
            paused: false,
            is_ready: false,
            on_host: HostReport::read(),
            host: None,
            environment: None,
            prebuilt: None,
            stands_by: false,
            standby: None,
            outline: None,
            journey: None,
            reserved: None,
            parked: None,
            notes: RestoreNotes::default(),
            vmm: None,
        }
    }

    /// Whether it got as far as the box.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The guest, and everything that it needs.
    pub(super) fn into_parts(self) -> Option<(Environment, Vmm)> {
        Some((self.environment?, self.vmm?))
    }

    /// Called when a step is requested: a test may want the process to hang there.
    pub(super) fn reach(&self, step: Step) {
        if self.args.stop_at == Some(step) {
            signal::send(std::process::id(), Signal::STOP);
        }
    }

    pub(super) fn host(&self) -> Result<&Host, PartyError> {
        self.host.as_ref().ok_or_else(|| missing("KVM"))
    }

    pub(super) fn environment(&self) -> Result<&Environment, PartyError> {
        self.environment
            .as_ref()
            .ok_or_else(|| missing("The console"))
    }

    /// The VMM's sandbox, without what depends on the guest.
    pub(super) fn sandbox_with(&self, api: &ApiPaths, console: &ConsoleSpec) -> Sandbox {
        let mut sandbox = self.args.privileges.sandbox();
        sandbox.sockets.extend(api.iter().cloned());
        if let ConsoleSpec::Socket(path) = console {
            sandbox.sockets.push(path.clone());
        }
        sandbox
    }

    /// The same, with the sockets that this VMM was started with.
    pub(super) fn base_sandbox(&self) -> Sandbox {
        self.sandbox_with(&self.args.api_paths(), &self.args.console)
    }
}
