//! Reading the state of a guest.

use kvm_ioctls::VcpuFd;
use vmm_fdbox::Finding;
use vmm_fdbox::frame::FrameWriter;

use super::{Boot, Machine, MachineError};
use crate::error::chain;
use crate::guest::boot::BootStateV1;
use crate::guest::state::{
    self, ConsoleStateV1, GuestState, LifeStateV1, PRODUCER, frame_capacity,
};
use crate::kvm::vcpu::{self as vcpu_state, VcpuStateV1};

impl Machine {
    /// Reads the state of a parked guest. Devices come first: saving them changes no CPU.
    pub(crate) fn save(&self) -> Result<GuestState, MachineError> {
        self.save_with(|| self.vcpus.each(|id, fd| self.save_vcpu(id, fd)))
    }

    /// Checks whether the running guest could be saved, so that errors of KVM and lack of space are
    /// found here and not in the blackout.
    pub(crate) fn try_save(&self) -> Vec<Finding> {
        let written = self
            .save_running()
            .map_err(|error| chain(&error))
            .and_then(|state| self.try_write(&state));
        let finding = |problem| {
            let remedy = "report it: this VMM and the host's KVM are not compatible";
            Finding::blocker("The guest's state", problem, remedy)
        };
        written.err().map(finding).into_iter().collect()
    }

    /// The state of the running guest, each vCPU's at another moment: nobody can continue from it.
    pub(crate) fn save_running(&self) -> Result<GuestState, MachineError> {
        self.save_with(|| self.vcpus.each_in_turn(|id, fd| self.save_vcpu(id, fd)))
    }

    fn try_write(&self, state: &GuestState) -> Result<(), String> {
        let mut room = vec![0; self.state_capacity()];
        let frame = FrameWriter::new(&mut room, PRODUCER);
        let written = frame.and_then(|mut frame| {
            state.write(&mut frame)?;
            // As long as any position is.
            state::write_position(&mut frame, u32::MAX)?;
            frame.finish()
        });
        written.map(drop).map_err(|error| chain(&error))
    }

    /// The maximum size of the guest's state, in bytes.
    pub(crate) fn state_capacity(&self) -> usize {
        frame_capacity(self.cpus()) + self.pci().state_capacity()
    }

    fn save_vcpu(&self, id: u8, fd: &VcpuFd) -> Result<VcpuStateV1, MachineError> {
        vcpu_state::save(fd, id, &self.shape)
            .map_err(|source| MachineError::SaveVcpu { id, source })
    }

    /// What the guest boots from when it resets.
    pub(crate) fn boot_state(&self) -> Option<BootStateV1> {
        self.boot.as_ref().map(Boot::state)
    }

    fn save_with(
        &self,
        vcpus: impl FnOnce() -> Result<Vec<VcpuStateV1>, MachineError>,
    ) -> Result<GuestState, MachineError> {
        let clock = self.vm.save_clock(self.host_tsc_khz)?;
        let (virtio, pci) = (self.buses.virtio.save(), self.buses.pci.save());
        let serial = self.buses.ports.serial().state();
        let console = ConsoleStateV1 {
            unsent: self.console.unsent(),
        };
        let vcpus = vcpus()?;
        Ok(GuestState {
            machine: self.description(),
            vcpus,
            irqchip: self.vm.save_irqchip()?,
            pit: self.vm.save_pit()?,
            clock,
            serial,
            pm: self.buses.ports.pm().state(),
            console,
            virtio,
            pci,
            boot: self.boot_state(),
            life: LifeStateV1::new(self.is_held(), self.vcpus.end().as_ref()),
        })
    }
}
