//! The process of a VMM that receives a guest.
//!
//! Until the guest runs, everything is part of the blackout, except for what is done while the
//! guest still runs in another VMM. So whatever can be opened in advance is opened before the box
//! is, and reports are made after the guest was first entered.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use vmm_fdbox::frame::{Frame, KnownSection};
use vmm_fdbox::member::{Arrive, ArrivingVmm, Lent};
use vmm_fdbox::update::{Arrival, Arriving, Finished, PartyError, Step};
use vmm_fdbox::{BoxStore, FdName};

use super::arriving_guest::{ArrivingGuest, Reserved, layered, missing};
use super::cpu;
use crate::commands::serve::Environment;
use crate::devices::pci;
use crate::devices::vfio::{self, Handed, PassedFds};
use crate::devices::virtio;
use crate::error::{chain, warn};
use crate::guest::machine::{Boot, Machine, SavedDevices, Shell};
use crate::guest::state::{self, GuestState, JourneyV1};
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::sandbox::Sandbox;
use crate::service::report::ResumeReport;
use crate::update::outline::{self, OUTLINE_FD};
use crate::update::{MEMORY_FD, VM_FD, party_error};

/// The phase in which the guest is restored into KVM; before it, descriptors are taken out of the
/// box.
pub(super) const REBUILD: &str = "rebuild";

/// How long the guest runs undisturbed before its VMM reports.
const HEAD_START: Duration = Duration::from_millis(200);

impl ArrivingGuest<'_> {
    pub(super) fn sandbox(&self, state: &GuestState) -> Sandbox {
        let base = self.base_sandbox();
        let (sockets, connects) = virtio::state::sockets(&state.virtio);
        Sandbox {
            sockets: [sockets, base.sockets].concat(),
            connects,
            locks_memory: state.pci.is_some(),
            ..base
        }
    }

    /// Opens what a guest's state names, and locks its disks. Nothing is taken out of the box.
    fn open_all(&self, frame: &Frame<Vec<u8>>) -> Result<Reserved, PartyError> {
        let environment = self.environment()?;
        let state = GuestState::read(frame).map_err(party_error)?;
        // Before anything is taken out: a host that cannot run the guest leaves the box unchanged.
        cpu::check(self.host()?, &state, self.args.force.force_cpu)?;
        let sandbox = self.sandbox(&state);
        let boot = state.boot.as_ref().map(Boot::again);
        let (taps, ownership) = (self.args.handed_in(), &environment.ownership);
        let devices = virtio::reopen(&state.virtio, &taps, ownership).map_err(party_error)?;
        Ok(Reserved {
            state,
            sandbox,
            boot,
            devices,
        })
    }

    /// Takes everything out of the box and builds a parked guest from it.
    fn restore_from_box<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
    ) -> Result<(Machine, RestoreNotes), PartyError> {
        // Before anything is taken out: what cannot be opened leaves the box unchanged.
        let reserved = self.reserved.take();
        let Reserved {
            state,
            sandbox,
            boot,
            devices,
        } = reserved.unwrap_or_else(|| Err(missing("The state")))?;
        let (host, environment) = (self.host()?, self.environment()?);
        let machine = &state.machine;
        // The VM first: a guest_memfd comes out bound to it.
        let vm = arrival.take_if_there(&FdName::new(VM_FD)?)?;
        let ram = arrival.take(&FdName::new(MEMORY_FD)?)?;
        // For a VMM in the lifeboat; the state has it all.
        let outline = arrival.take_if_there(&FdName::new(OUTLINE_FD)?)?;
        let passed = self.take_passed(arrival, &state)?;
        arrival.mark(REBUILD);
        let vm = host.vm_of(vm).map_err(party_error)?;
        sandbox.enter().map_err(party_error)?;
        let ram =
            GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
        let cpus = state.vcpus.len();
        let shell =
            Shell::build(host, vm, ram, cpus, &[], &environment.on_end).map_err(party_error)?;
        let devices = SavedDevices {
            virtio: devices,
            passed,
            boot,
            force_cpu: self.args.force.force_cpu,
        };
        let console = environment.console.clone();
        let restored = Machine::restore(shell, &state, devices, console);
        self.outline = outline;
        restored.map_err(party_error)
    }

    /// Takes the passed-through devices out of the box, and what they use. Memory was taken before.
    pub(super) fn take_passed<S: BoxStore>(
        &self,
        arrival: &mut Arrival<S>,
        state: &GuestState,
    ) -> Result<Handed, PartyError> {
        let lent = self.args.devices_rest;
        let mut fds = PassedFds::new();
        if self.stands_by && !lent && state.pci.is_some() {
            // The lifeboat has given the devices back.
            arrival.unseal()?;
        }
        for name in pci::bus::names(state.pci.as_ref()) {
            let fd = match name.as_str() {
                vfio::MESSAGES => arrival.take_if_there(&FdName::new(&name)?)?,
                // The host goes on to translate.
                vfio::IOMMUFD if lent => {
                    arrival.leave(&FdName::new(&name)?);
                    None
                }
                _ => Some(arrival.take(&FdName::new(&name)?)?),
            };
            fds.extend(fd.map(|fd| (name, fd)));
        }
        Ok(Handed { fds, lent })
    }

    /// A guest that is home needs no outline any more. One in the lifeboat does: its next VMM in the host is built
    /// from it.
    fn erase_outline(&mut self) {
        let is_home = !self.stands_by || self.journey.is_some();
        if let Some(outline) = self.outline.take().filter(|_| is_home)
            && let Err(error) = outline::erase(outline)
        {
            // Its box is about to be deleted.
            warn(&chain(&error));
        }
    }
}

impl ArrivingVmm for ArrivingGuest<'_> {
    fn known(&self) -> &[KnownSection] {
        &state::KNOWN
    }

    fn get_ready(&mut self, arrive: &Arrive) -> Result<(), PartyError> {
        self.reach(Step::Preflight);
        self.box_name = Some(arrive.box_name.clone());
        self.home = arrive.module.home;
        self.paused = arrive.paused;
        self.stands_by = arrive.standby;
        if !arrive.from_vmm {
            self.host = Some(Host::open().map_err(party_error)?);
            let api = self.args.api_paths();
            let sandbox = self.base_sandbox();
            let group = self.args.api_group;
            sandbox.make_folders(group).map_err(party_error)?;
            let environment = Environment::open(&self.args.console, &api).map_err(layered)?;
            environment.share_api(group).map_err(layered)?;
            self.environment = Some(environment);
            // The state was written by a VMM, so it is read, and what it names is opened, as the
            // guest's own user.
            sandbox.become_user().map_err(party_error)?;
        }
        self.is_ready = true;
        Ok(())
    }

    fn reserve(&mut self, frame: &Frame<Vec<u8>>) {
        self.reserved = Some(self.open_all(frame));
    }

    fn position(&self, frame: &Frame<Vec<u8>>) -> Option<u32> {
        state::position(frame)
    }

    fn prebuild<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.reach(Step::Prebuild);
        if self.stands_by {
            self.standby = Some(self.stand_by(arriving)?);
            return Ok(());
        }
        self.prebuilt = Some(self.prebuild_from_vmm(arriving, lent)?);
        Ok(())
    }

    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.reach(Step::Restore);
        let (machine, notes) = match self.prebuilt.take() {
            Some(prebuilt) => self.restore_from_vmm(arrival, prebuilt, lent)?,
            None if self.stands_by => {
                let standby = self.standing_by()?;
                self.journey = state::journey(&arrival.frame());
                self.restore_standby(arrival, standby)?
            }
            None => self.restore_from_box(arrival)?,
        };
        if self.paused {
            machine.hold(true);
        }
        (self.parked, self.notes) = (Some(machine), notes);
        Ok(())
    }

    fn abandon(&mut self) {
        self.parked = None;
        self.prebuilt = None;
        self.standby = None;
        self.reserved = None;
    }

    fn run(&mut self) -> Result<u64, PartyError> {
        self.reach(Step::Jump);
        let machine = self.parked.take().ok_or_else(|| missing("The guest"))?;
        let environment = self.environment()?;
        let mut vmm = environment.start(machine);
        if self.args.devices_rest {
            vmm.set_in_lifeboat();
        }
        environment.ownership.set(true);
        let entered = wait_for_entry(vmm.machine());
        self.vmm = Some(vmm);
        Ok(entered)
    }

    fn report(&mut self, finished: Finished) -> Value {
        self.reach(Step::Finish);
        // The guest has a backlog of work, and perhaps only this CPU.
        thread::sleep(HEAD_START);
        self.erase_outline();
        let (Some(vmm), Some(box_name)) = (&self.vmm, &self.box_name) else {
            return Value::Null;
        };
        let host = self.on_host.clone();
        let mut report = ResumeReport::new(
            (box_name, self.home),
            host,
            vmm.machine(),
            &self.notes,
            &finished,
        );
        let timeline = &finished.timeline;
        match &self.journey {
            Some(journey) => report.came_home(journey.clone().ended(timeline)),
            None if self.stands_by => {
                JourneyV1::begun(timeline)
                    .into_iter()
                    .for_each(|begun| vmm.begin_journey(begun));
            }
            None => {}
        }
        vmm.history().arrived(report.host(), report.blackout());
        serde_json::to_value(report).unwrap_or_default()
    }
}

/// Waits until a vCPU has entered the guest and returns the TSC of that moment.
fn wait_for_entry(machine: &Machine) -> u64 {
    loop {
        match machine.first_entry_tsc() {
            0 => thread::sleep(Duration::from_micros(100)),
            tsc => return tsc,
        }
    }
}
