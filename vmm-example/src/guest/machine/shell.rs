//! The parts of a guest that are built before its state is available: everything for which KVM
//! takes long.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::MachineError;
use crate::devices::virtio::{PreparedSlot, SlotLayout};
use crate::devices::{pm, serial};
use crate::guest::state::GuestState;
use crate::guest::vcpu::{IdleVcpus, OnEnd};
use crate::kvm::vcpu::{self as vcpu_state, Known, RestoreNotes, StateShape, VcpuStateV1};
use crate::kvm::{Host, KvmError, Vm};
use crate::memory::GuestRam;

/// The parts of a saved guest that can be built before its state is available: everything for which
/// KVM takes long.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(super) vcpus: IdleVcpus,
    pub(super) prepared: Vec<PreparedSlot>,
    pub(super) vm: Arc<Vm>,
    pub(super) ram: GuestRam,
    pub(super) shape: StateShape,
    /// What is known of each vCPU.
    pub(super) known: Vec<Known>,
    pub(super) host_tsc_khz: u32,
    pub(super) serial_irq: EventFd,
    pub(super) host: Host,
}

impl Shell {
    /// Builds it from a VM and its memory. `places` are those of its devices, as far as they are
    /// known.
    pub(crate) fn build(
        host: &Host,
        vm: Vm,
        ram: GuestRam,
        cpus: usize,
        layouts: &[SlotLayout],
        end: &OnEnd,
    ) -> Result<Self, MachineError> {
        let cpus = u8::try_from(cpus).unwrap_or(u8::MAX);
        check_cpus(host, cpus)?;
        // Memory first: to add it, KVM waits until nobody uses the old slots, and the devices
        // registered by the platform would make it wait for a grace period of their own.
        ram.attach(&vm)?;
        vm.create_platform()?;
        let fds = create_vcpus(&vm, cpus)?;
        let host_tsc_khz = host_tsc_khz(&fds);
        let shape = StateShape::of(host, &vm)?;
        let known = fds.first().map(|fd| Known::of(fd, &shape));
        // New vCPUs are all alike.
        let known = vec![known.transpose()?.unwrap_or_default(); fds.len()];
        let serial_irq = serial_irq(&vm)?;
        let prepared = layouts
            .iter()
            .map(|layout| PreparedSlot::prepare(&vm, *layout));
        Ok(Self {
            prepared: prepared.collect::<Result<_, _>>()?,
            vcpus: IdleVcpus::spawn(fds, end)?,
            vm: Arc::new(vm),
            ram,
            shape,
            known,
            host_tsc_khz,
            serial_irq,
            host: host.duplicate()?,
        })
    }

    /// Restores an older state of the guest, which is restored again when it has stopped. What is done for the first
    /// time takes longer: code and data are read into memory and caches, and KVM allocates.
    pub(crate) fn rehearse(&mut self, state: &GuestState) -> Result<(), MachineError> {
        let is_idle = |vcpu: &VcpuStateV1| !vcpu.is_nested();
        // The state of a nested guest only goes into a vCPU that is not in another one.
        if self.vcpus.count() != state.vcpus.len() || !state.vcpus.iter().all(is_idle) {
            return Ok(());
        }
        restore_vcpus(self, &state.vcpus)?;
        // Without the PIT: from here on it would interrupt a vCPU at any time, also one that has its final state.
        self.vm.restore_irqchip(&state.irqchip)?;
        self.vm.restore_clock(&state.clock)?;
        let shape = &self.shape;
        let fds = self.vcpus.fds();
        let known = fds.map(|fd| Known::of(&fd, shape));
        self.known = known.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Has all memory mapped, in this process and in KVM. Nothing is written.
    pub(crate) fn prefault(&self) {
        self.ram.prefault();
        // All vCPUs of a VM share KVM's mappings.
        if let Some(fd) = self.vcpus.fds().next() {
            let ranges = self.ram.ranges().iter();
            ranges.for_each(|range| vcpu_state::pre_fault(&fd, *range));
        }
    }

    /// Waits until its threads take no more of the CPU. Each narrows its system calls when it begins, for which the
    /// kernel looks at all there are: that is not to fall into the time in which the guest stands still.
    pub(crate) fn wait_until_idle(&self) {
        self.vcpus.wait_until_idle();
        self.prepared.iter().for_each(PreparedSlot::wait_until_idle);
    }
}

/// Restores the states of all vCPUs.
pub(super) fn restore_vcpus(
    shell: &Shell,
    states: &[VcpuStateV1],
) -> Result<Vec<RestoreNotes>, MachineError> {
    let (shape, known) = (&shell.shape, &shell.known);
    shell.vcpus.each_with(states, |fd, state| {
        let id = state.id;
        // A vCPU of which nothing is known is read first.
        let (none, known) = (Known::default(), known.get(usize::from(id)));
        vcpu_state::restore(fd, state, shape, known.unwrap_or(&none))
            .map_err(|source| MachineError::RestoreVcpu { id, source })
    })
}

/// Restores what of KVM is not in the vCPUs, after them.
pub(super) fn restore_platform(vm: &Vm, state: &GuestState) -> Result<(), MachineError> {
    vm.restore_pit(&state.pit)?;
    vm.restore_irqchip(&state.irqchip)?;
    Ok(vm.restore_clock(&state.clock)?)
}

pub(super) fn check_cpus(host: &Host, cpus: u8) -> Result<(), MachineError> {
    let max = host.max_vcpus();
    if usize::from(cpus) > max {
        Err(MachineError::TooManyCpus { max })
    } else {
        Ok(())
    }
}

pub(super) fn create_vcpus(vm: &Vm, cpus: u8) -> Result<Vec<VcpuFd>, KvmError> {
    (0..cpus).map(|id| vm.create_vcpu(id)).collect()
}

/// The frequency of the host's TSC in kHz, from new vCPUs; 0 if KVM does not know it.
pub(super) fn host_tsc_khz(fds: &[VcpuFd]) -> u32 {
    fds.first()
        .and_then(|fd| fd.get_tsc_khz().ok())
        .unwrap_or(0)
}

/// An event that raises the serial port's interrupt line.
pub(super) fn serial_irq(vm: &Vm) -> Result<EventFd, MachineError> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(MachineError::CreateEvent)?;
    vm.register_irqfd(&event, serial::IRQ)?;
    Ok(event)
}

/// The interrupt line of power management.
pub(super) fn sci(vm: &Arc<Vm>) -> pm::Line {
    let vm = vm.clone();
    // KVM has no reason to refuse: the line always exists.
    Box::new(move |high| drop(vm.set_line(pm::SCI.into(), high)))
}
