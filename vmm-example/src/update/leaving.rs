//! A VMM that a guest leaves: its answers to the coordinator of an update.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vmm_fdbox::frame::FrameWriter;
use vmm_fdbox::member::{Join, Leaving, LeavingVmm, Left, Lent, serve_leaving};
use vmm_fdbox::update::{
    CancelFlag, Destination, Event, Guest, NamedFd, Outcome, PartyError, Plan,
};
use vmm_fdbox::{Clock, Deadline, FdName, Finding, Info, Kind};

use super::handover_info::HandoverInfo;
use super::moving::{Movable, Moving, kept};
use super::party_error;
use crate::devices::virtio;
use crate::guest::machine::Machine;
use crate::guest::state;
use crate::guest::vcpu::GuestEnd;
use crate::service::endpoints::{Endpoints, fd};
use crate::service::update_message::UpdateEnd;
use crate::service::vmm::Vmm;

/// How long devices may take to come to rest in a guest that is left behind.
const QUIESCE_LIMIT: Duration = Duration::from_secs(10);

/// Follows the coordinator at the other end of a socket, and ends the VMM if the guest then belongs
/// to another VMM or is lost.
pub(crate) fn serve(vmm: &Vmm, socket: UnixStream) {
    let mut leaving = LeavingGuest {
        guest: Moving::new(vmm.machine()),
        vmm,
        down: None,
        is_taken: false,
        goes_home: false,
    };
    match serve_leaving(socket, &mut leaving) {
        Left::Here => {}
        Left::HandedOver => vmm.end(GuestEnd::HandedOver),
        Left::Lost(_) if leaving.is_taken => vmm.end(GuestEnd::HandedOver),
        Left::Lost(stopped) => vmm.end(GuestEnd::Broken(stopped.message)),
    }
}

/// A VMM and its guest, which may be about to leave it.
struct LeavingGuest<'a> {
    guest: Moving<'a, Machine>,
    vmm: &'a Vmm,
    /// Cancels the reason for which the guest is down.
    down: Option<CancelFlag>,
    /// Whether the new VMM took the guest out of its box without reporting it in time.
    is_taken: bool,
    /// Whether it leaves a lifeboat.
    goes_home: bool,
}

impl Guest for LeavingGuest<'_> {
    fn preflight(&mut self) -> Vec<Finding> {
        self.guest.preflight()
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.guest.kinds()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        self.guest.take_fds()
    }

    fn quiesce(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        self.guest.quiesce(deadline)
    }

    fn pause(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        self.guest.pause(deadline)
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, deadline: Deadline) -> Result<(), PartyError> {
        self.guest.save(frame, deadline)?;
        if self.goes_home
            && let Some(journey) = self.vmm.journey()
        {
            state::write_journey(frame, &journey).map_err(party_error)?;
        }
        Ok(())
    }

    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
        self.guest.give_back(name, fd)
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.guest.resume_in_place()
    }
}

impl LeavingVmm for LeavingGuest<'_> {
    fn join(&mut self, join: &Join) -> Result<Plan, PartyError> {
        let machine = self.vmm.machine();
        self.guest.position = join.position;
        self.guest.carried = join.to == Destination::Successor;
        self.guest.boards = join.to == Destination::Lifeboat;
        self.goes_home = join.to == Destination::Home;
        self.guest.in_lifeboat = self.vmm.is_in_lifeboat();
        let info = Info::from(join.module);
        (self.guest.kept, self.guest.keeps) = (kept(&info), info.features);
        if self.guest.carried {
            endpoints(self.vmm)?;
        }
        let clock = clock(machine.host_tsc_khz());
        let mut plan = Plan::new(join.box_name.clone(), clock, state::PRODUCER);
        plan.state_bytes = machine.state_capacity();
        plan.cancel = self.vmm.begin_update().map_err(party_error)?;
        Ok(plan)
    }

    fn observer(&mut self) -> Box<dyn FnMut(u64, &Event) + Send> {
        let watch = self.vmm.update_watch();
        Box::new(move |_, event| watch(event))
    }

    fn lend(&mut self, at: Leaving) -> Result<Lent, PartyError> {
        let (machine, endpoints) = (self.vmm.machine(), endpoints(self.vmm)?);
        match at {
            Leaving::Prepared => {
                let mut fds = endpoints.fds()?;
                let kvm = machine.lend_kvm().map_err(party_error)?;
                fds.push((fd::KVM.to_owned(), kvm));
                fds.push((fd::OUTLINE.to_owned(), machine.outline()?));
                let value = serde_json::to_value(info(machine, endpoints))?;
                Ok(Lent { value, fds })
            }
            Leaving::Saved => {
                let client = endpoints.console_client();
                let client = client.map(|client| (fd::CONSOLE_CLIENT.to_owned(), client));
                let mut fds = machine.lend().map_err(party_error)?;
                fds.extend(client);
                let value = serde_json::Value::Null;
                Ok(Lent { value, fds })
            }
            Leaving::HandedOver => {
                let clients = (0..).zip(endpoints.give_up());
                let named = |(at, client)| (format!("{}{at}", fd::CLIENT), client);
                let value = serde_json::Value::Null;
                let fds = clients.map(named).collect();
                Ok(Lent { value, fds })
            }
            _ => Ok(Lent::default()),
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        // Lost to this VMM, that is; the coordinator reports what happened to the guest.
        self.is_taken = self.guest.carried && matches!(outcome, Outcome::GuestLost { .. });
        let end = match self.is_taken {
            true => UpdateEnd::handed_over(),
            false => UpdateEnd::new(outcome),
        };
        self.vmm.end_update(&end);
        if self.guest.carried && end.has_left() {
            // Nobody is to wait for more from here.
            self.vmm.history().close();
        }
        if self.is_taken
            && let Some(endpoints) = self.vmm.endpoints()
        {
            // Sockets and terminal belong to the other VMM now, and clients are no longer handed
            // over.
            drop(endpoints.give_up());
        }
    }

    fn set_down(&mut self) -> Result<(), PartyError> {
        self.down = Some(self.vmm.begin_update().map_err(party_error)?);
        let machine = self.vmm.machine();
        // The coordinator does not wait longer than this.
        let quiet = machine.quiesce(Deadline::within(QUIESCE_LIMIT), true);
        let safe = quiet.and_then(|()| {
            Movable::park(machine);
            machine.leave_host()
        });
        let safe = match safe {
            _ if machine.has_ended() => Err("The guest has come to its end".into()),
            left => left.map_err(party_error),
        };
        if safe.is_err() {
            self.stand_up()?;
        }
        safe
    }

    fn down_cancel(&self) -> Option<CancelFlag> {
        self.down.clone()
    }

    fn stand_up(&mut self) -> Result<(), PartyError> {
        self.vmm.machine().continue_guest();
        self.vmm.end_update(&UpdateEnd::stood_up());
        Ok(())
    }
}

fn endpoints(vmm: &Vmm) -> Result<&Endpoints, PartyError> {
    let none = "This VMM could not prepare for another binary when it started";
    vmm.endpoints().ok_or_else(|| none.into())
}

fn info(machine: &Machine, endpoints: &Endpoints) -> HandoverInfo {
    let (sockets, connects) = virtio::state::sockets(&machine.virtio().save());
    HandoverInfo {
        sockets,
        connects,
        host_devices: machine.pci().addresses(),
        boot: machine.boot_to_open(),
        machine: machine.description(),
        vcpus: machine.cpus(),
        layouts: machine.virtio().layouts(),
        console: endpoints.console().to_string(),
        api_socket: endpoints.api_paths().api,
        status_socket: endpoints.api_paths().status,
        terminal: endpoints.terminal(),
    }
}

/// The host's TSC, with the frequency known to KVM, or else measured.
fn clock(khz: u32) -> Clock {
    NonZeroU32::new(khz).map_or_else(|| Clock::measure(Duration::from_millis(50)), Clock::tsc)
}
