//! A VMM that receives a guest from another VMM of this kernel.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use vmm_fdbox::member::Lent;
use vmm_fdbox::update::{Arrival, Arriving, PartyError};
use vmm_fdbox::{BoxStore, FdName};

use super::arriving_guest::{ArrivingGuest, Prebuilt, layered, missing};
use super::environment;
use crate::devices::pci;
use crate::devices::vfio::Handed;
use crate::devices::virtio;
use crate::guest::machine::{Boot, Machine, SavedDevices, Shell};
use crate::guest::state::GuestState;
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::sandbox::Sandbox;
use crate::service::endpoints::fd;
use crate::update::handover_info::HandoverInfo;
use crate::update::outline;
use crate::update::{MEMORY_FD, VM_FD, party_error};

impl ArrivingGuest<'_> {
    /// Builds everything but the state. The guest runs in the old VMM meanwhile.
    pub(super) fn prebuild_from_vmm<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<Prebuilt, PartyError> {
        let info: HandoverInfo = serde_json::from_value(lent.value)?;
        let mut fds: HashMap<String, OwnedFd> = lent.fds.into_iter().collect();
        // The old VMM may have dropped the right to open it, and so may this one.
        let host = match fds.remove(fd::KVM) {
            Some(kvm) => Host::adopt(kvm),
            None => Host::open(),
        };
        self.host = Some(host.map_err(party_error)?);
        // An old VMM that does not know it has none.
        let outline = fds.remove(fd::OUTLINE).map(outline::read);
        let outline = outline.transpose().map_err(party_error)?;
        let environment = environment::adopt(&info, fds).map_err(layered)?;
        let host = self.host()?;
        // The VM first: a guest_memfd comes out bound to it.
        let vm = arriving.take_if_there(&FdName::new(VM_FD)?)?;
        let vm = host.vm_of(vm).map_err(party_error)?;
        let ram = arriving.take(&FdName::new(MEMORY_FD)?)?;
        let machine = &info.machine;
        let ram =
            GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
        let (cpus, layouts) = (info.vcpus, &info.layouts);
        let console = info.console.parse()?;
        let base = self.sandbox_with(&info.api_paths(), &console);
        let sandbox = Sandbox {
            sockets: [&info.sockets[..], &base.sockets].concat(),
            connects: info.connects.clone(),
            locks_memory: !info.host_devices.is_empty(),
            ..base
        };
        virtio::reserve_io(layouts);
        let boot = match &info.boot {
            Some(boot) => {
                // Its paths come from a VMM.
                sandbox.become_user().map_err(party_error)?;
                Some(Boot::again(boot))
            }
            None => None,
        };
        sandbox.enter().map_err(party_error)?;
        let mut shell =
            Shell::build(host, vm, ram, cpus, layouts, &environment.on_end).map_err(party_error)?;
        shell.wait_until_idle();
        environment.console.start().map_err(party_error)?;
        if let Some(outline) = outline {
            shell.rehearse(&outline).map_err(party_error)?;
        }
        self.environment = Some(environment);
        Ok(Prebuilt { info, boot, shell })
    }

    /// Restores the state into what was built, with what the old VMM lends.
    pub(super) fn restore_from_vmm<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        prebuilt: Prebuilt,
        mut lent: Lent,
    ) -> Result<(Machine, RestoreNotes), PartyError> {
        let Prebuilt {
            info,
            boot: opened,
            shell,
        } = prebuilt;
        if let Some(client) = lent.take(fd::CONSOLE_CLIENT) {
            let environment = self.environment.as_mut();
            let environment = environment.ok_or_else(|| missing("The console"))?;
            environment.adopt_client(client.into())?;
        }
        let environment = self.environment()?;
        let state = GuestState::read(&arrival.frame()).map_err(party_error)?;
        if state.machine != info.machine {
            return Err("The guest is not the one that was announced".into());
        }
        let names = pci::bus::names(state.pci.as_ref());
        let fds = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), lent.take(&name)?)))
            .collect();
        let passed = Handed {
            fds,
            lent: self.args.devices_rest,
        };
        let mut fds: HashMap<String, OwnedFd> = lent.fds.into_iter().collect();
        let boot = state.boot.as_ref();
        let boot = boot.map(|boot| Boot::inherit(boot, &mut fds, opened));
        let virtio =
            virtio::inherit(&state.virtio, fds, &environment.ownership).map_err(party_error)?;
        let devices = SavedDevices {
            virtio,
            passed,
            boot,
            force_cpu: self.args.force.force_cpu,
        };
        let console = environment.console.clone();
        Machine::restore(shell, &state, devices, console).map_err(party_error)
    }
}
