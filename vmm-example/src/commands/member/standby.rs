//! A VMM that waits for a guest which runs in another kernel, beside this one: in the lifeboat for one of the
//! host, in the host for one that comes back.

use vmm_fdbox::update::{Arrival, Arriving, PartyError};
use vmm_fdbox::{BoxStore, FdName};

use super::arriving::REBUILD;
use super::arriving_guest::{ArrivingGuest, Standby, missing};
use super::cpu;
use crate::devices::virtio;
use crate::guest::machine::{Boot, Machine, SavedDevices, Shell};
use crate::guest::state::GuestState;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::sandbox::Sandbox;
use crate::update::outline::{self, OUTLINE_FD};
use crate::update::{MEMORY_FD, VM_FD, party_error};

impl ArrivingGuest<'_> {
    /// Builds everything but the state. The guest runs on its memory meanwhile.
    pub(super) fn stand_by<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
    ) -> Result<Standby, PartyError> {
        let file = arriving.take(&FdName::new(OUTLINE_FD)?)?;
        let outline = outline::read(&file).map_err(party_error)?;
        self.outline = Some(file);
        let (host, environment) = (self.host()?, self.environment()?);
        cpu::check(host, &outline, self.args.force.force_cpu)?;
        let vm = arriving.take_if_there(&FdName::new(VM_FD)?)?;
        let vm = host.vm_of(vm).map_err(party_error)?;
        let ram = arriving.take(&FdName::new(MEMORY_FD)?)?;
        let machine = &outline.machine;
        let ram =
            GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
        // Before the sandbox denies access to files.
        let boot = outline.boot.as_ref();
        let boot = boot.map(match self.args.devices_rest {
            true => Boot::in_host,
            false => Boot::again,
        });
        let (devices, sandbox) = self.devices_of(&outline)?;
        sandbox.enter().map_err(party_error)?;
        let slots: Vec<_> = devices.iter().map(virtio::Opened::layout).collect();
        let cpus = outline.vcpus.len();
        let mut shell =
            Shell::build(host, vm, ram, cpus, &slots, &environment.on_end).map_err(party_error)?;
        shell.wait_until_idle();
        environment.console.start().map_err(party_error)?;
        shell.prefault();
        shell.rehearse(&outline).map_err(party_error)?;
        Ok(Standby {
            outline,
            boot,
            devices,
            shell,
        })
    }

    /// The guest's devices, and a sandbox in which they work.
    fn devices_of(
        &self,
        outline: &GuestState,
    ) -> Result<(Vec<virtio::Opened>, Sandbox), PartyError> {
        let states = &outline.virtio;
        if self.args.devices_rest {
            let devices = virtio::at_rest(states).map_err(party_error)?;
            return Ok((devices, self.base_sandbox()));
        }
        let (taps, ownership) = (self.args.handed_in(), &self.environment()?.ownership);
        let devices = virtio::reopen(states, &taps, ownership).map_err(party_error)?;
        Ok((devices, self.sandbox(outline)))
    }

    /// Restores the state into what was built.
    pub(super) fn restore_standby<S: BoxStore>(
        &self,
        arrival: &mut Arrival<S>,
        standby: Standby,
    ) -> Result<(Machine, RestoreNotes), PartyError> {
        let Standby {
            outline,
            boot,
            devices,
            shell,
        } = standby;
        let environment = self.environment()?;
        let state = GuestState::read(&arrival.frame()).map_err(party_error)?;
        if state.machine != outline.machine {
            return Err("The guest is not the one that was announced".into());
        }
        let force_cpu = self.args.force.force_cpu;
        // That of the outline was checked.
        if !cpu::is_same(&state, &outline) {
            cpu::check(self.host()?, &state, force_cpu)?;
        }
        let devices = SavedDevices {
            virtio: virtio::catch_up(devices, &state.virtio).map_err(party_error)?,
            passed: self.take_passed(arrival, &state)?,
            boot,
            force_cpu,
        };
        let console = environment.console.clone();
        arrival.mark(REBUILD);
        Machine::restore(shell, &state, devices, console).map_err(party_error)
    }

    /// What stands by.
    pub(super) fn standing_by(&mut self) -> Result<Standby, PartyError> {
        self.standby
            .take()
            .ok_or_else(|| missing("The guest's outline"))
    }
}
