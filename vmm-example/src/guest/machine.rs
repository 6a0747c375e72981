//! A guest: its VM, memory, vCPUs and devices, built to boot or from a saved state.

mod life;
mod reset;
mod save;
mod shell;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

use crate::devices::console::{Console, ConsoleError};
use crate::devices::pci::PciBus;
use crate::devices::pm::PowerManagement;
use crate::devices::ports::PortBus;
use crate::devices::serial::{SerialPort, SerialStateError};
use crate::devices::vfio::{Claimed, Handed, VfioError};
use crate::devices::virtio::{DeviceCounts, Opened, VirtioBus, VirtioError};
use crate::guest::boot::{self, BootCpuError, BootError, BootImage, BootSpec, BootStateV1};
use crate::guest::cpuid::host::Optional;
use crate::guest::cpuid::{self, CpuidError, HiddenCpuid};
use crate::guest::state::{GuestState, LIFE, MachineStateV1};
use crate::guest::vcpu::{Buses, IdleVcpus, OnEnd, VcpuError, Vcpus};
use crate::kvm::vcpu::{self as vcpu_state, RestoreNotes, StateShape};
use crate::kvm::{Host, KvmError, Vm, named, tsc};
use crate::memory::{GuestRam, MemoryError};
use crate::metrics::{Counted, Metrics};
use crate::spec::MemorySpec;

pub(crate) use reset::Boot;
pub(crate) use shell::Shell;
use shell::{
    check_cpus, create_vcpus, host_tsc_khz, restore_platform, restore_vcpus, sci, serial_irq,
};

/// Why a guest could not be built, saved or restored.
#[derive(Debug, Error)]
pub(crate) enum MachineError {
    #[error("KVM cannot run this guest")]
    Kvm(#[from] KvmError),
    #[error("No memory for the guest")]
    Memory(#[from] MemoryError),
    #[error("Cannot load the guest's kernel")]
    Boot(#[from] BootError),
    #[error("Cannot start the guest's CPUs")]
    BootCpu(#[from] BootCpuError),
    #[error("Cannot describe the CPU to the guest")]
    Cpuid(#[from] CpuidError),
    #[error("Cannot run the guest's CPUs")]
    Vcpu(#[from] VcpuError),
    #[error("This host's KVM runs {max} vCPUs per guest at most: use --cpus {max} or fewer")]
    TooManyCpus { max: usize },
    #[error("The guest was announced with {built} vCPUs and has {saved}")]
    OtherCpus { built: usize, saved: usize },
    #[error("The saved guest's vCPU number {at} says that it is number {id}")]
    WrongId { at: usize, id: u8 },
    #[error(
        "This host's KVM refuses what the guest has in the MSRs {msrs}: --force-cpu resumes it without, \
         and it may crash"
    )]
    RefusedMsrs { msrs: String },
    #[error("Cannot restore vCPU {id}")]
    RestoreVcpu { id: u8, source: KvmError },
    #[error("Cannot save vCPU {id}")]
    SaveVcpu { id: u8, source: KvmError },
    #[error("Cannot restore the serial port")]
    RestoreSerial(#[from] SerialStateError),
    #[error("Cannot create an event for an interrupt")]
    CreateEvent(#[source] std::io::Error),
    #[error("Cannot hand over the guest's boot files")]
    Lend(#[source] std::io::Error),
    #[error("The guest's boot files are not available: {0}")]
    NoBoot(String),
    #[error("The guest's serial line is not to be had")]
    Console(#[from] ConsoleError),
    #[error("Cannot give the guest its devices")]
    Virtio(#[from] VirtioError),
    #[error("Cannot give the guest a device of the host")]
    Vfio(#[from] VfioError),
}

/// The description of a new guest.
#[derive(Debug)]
pub(crate) struct NewGuest<'a> {
    pub(crate) name: &'a str,
    pub(crate) memory: MemorySpec,
    pub(crate) cpus: u8,
    /// CPU features that are hidden from it.
    pub(crate) hidden_cpuid: &'a [HiddenCpuid],
    pub(crate) image: BootImage,
    /// Whether it boots again when it resets.
    pub(crate) reboots: bool,
    pub(crate) devices: Vec<Opened>,
    /// Passed-through devices.
    pub(crate) passed: Claimed,
}

/// The devices of a saved guest.
#[derive(Debug)]
pub(crate) struct SavedDevices {
    /// The devices of its state, opened.
    pub(crate) virtio: Vec<Opened>,
    /// Descriptors of the passed-through devices, which keep running.
    pub(crate) passed: Handed,
    /// What the guest boots from when it resets.
    pub(crate) boot: Option<Boot>,
    /// Whether MSRs that KVM refuses are skipped.
    pub(crate) force_cpu: bool,
}

/// A guest, parked or running. The vCPUs are dropped first, memory known to KVM last.
#[derive(Debug)]
pub(crate) struct Machine {
    vcpus: Vcpus,
    buses: Buses,
    console: Arc<Console>,
    vm: Arc<Vm>,
    ram: GuestRam,
    shape: StateShape,
    /// The optional CPU features it was given.
    cpu_features: Vec<Optional>,
    host_tsc_khz: u32,
    name: String,
    host: Host,
    boot: Option<Boot>,
    /// Whether somebody wants it to be paused.
    held: AtomicBool,
    /// Whether its vCPUs and devices are parked.
    parked: AtomicBool,
    /// Whether everything its devices wrote is synced, and they write nothing more.
    synced: AtomicBool,
}

impl Machine {
    /// Builds a guest that is about to enter its kernel, parked.
    pub(crate) fn boot(
        host: &Host,
        guest: NewGuest<'_>,
        console: Arc<Console>,
        end: &OnEnd,
    ) -> Result<Self, MachineError> {
        let cpus = guest.cpus;
        check_cpus(host, cpus)?;
        let vm = Arc::new(host.create_vm()?);
        vm.create_platform()?;
        let ram = GuestRam::create(&vm, guest.memory)?;
        ram.attach(&vm)?;
        let slots: Vec<_> = guest.devices.iter().map(Opened::slot).collect();
        let spec = BootSpec {
            cpus,
            devices: &slots,
            has_pci: !guest.passed.is_empty(),
        };
        let entry = boot::load(&ram, &guest.image, spec)?;
        let supported = host.supported_cpuid()?;
        let fds = create_vcpus(&vm, cpus)?;
        let host_tsc_khz = host_tsc_khz(&fds);
        let mut cpu_features = Vec::new();
        for (id, fd) in (0u8..).zip(&fds) {
            let cpuid = cpuid::for_vcpu(&supported, guest.hidden_cpuid, id, cpus)?;
            cpu_features = Optional::given(cpuid.as_slice());
            named("KVM_SET_CPUID2", fd.set_cpuid2(&cpuid))?;
            boot::setup_cpu(fd, id, entry)?;
        }
        let virtio = VirtioBus::new(&vm, ram.mapped(), guest.devices, Vec::new())?;
        let pci = PciBus::new(&vm, &ram, guest.passed)?;
        console.start()?;
        let serial = SerialPort::new(serial_irq(&vm)?, console.clone());
        let bus = PortBus::new(serial, PowerManagement::new(sci(&vm)));
        let shape = StateShape::of(host, &vm)?;
        let buses = Buses::new(bus, virtio, pci);
        Ok(Self {
            vcpus: IdleVcpus::spawn(fds, end)?.connect(&buses),
            buses,
            console,
            vm,
            ram,
            shape,
            cpu_features,
            host_tsc_khz,
            name: guest.name.into(),
            host: host.duplicate()?,
            boot: guest.reboots.then(|| Boot::of(guest.image)),
            held: AtomicBool::new(false),
            parked: AtomicBool::new(true),
            synced: AtomicBool::new(false),
        })
    }

    /// Rebuilds a guest from its saved state, on memory that still exists; parked. `devices` are
    /// those of `state`, opened.
    pub(crate) fn restore(
        shell: Shell,
        state: &GuestState,
        devices: SavedDevices,
        console: Arc<Console>,
    ) -> Result<(Self, RestoreNotes), MachineError> {
        if shell.vcpus.count() != state.vcpus.len() {
            return Err(MachineError::OtherCpus {
                built: shell.vcpus.count(),
                saved: state.vcpus.len(),
            });
        }
        let mut ids = state.vcpus.iter().map(|vcpu| vcpu.id).enumerate();
        if let Some((at, id)) = ids.find(|(at, id)| *at != usize::from(*id)) {
            return Err(MachineError::WrongId { at, id });
        }
        let restored = restore_vcpus(&shell, &state.vcpus)?;
        let Shell {
            vcpus,
            prepared,
            vm,
            ram,
            shape,
            host_tsc_khz,
            serial_irq,
            host,
            known: _,
        } = shell;
        let mut notes = RestoreNotes::default();
        for new in restored {
            notes.refused_msrs.extend(new.refused_msrs);
        }
        if !notes.refused_msrs.is_empty() && !devices.force_cpu {
            let msrs = notes.refused_msrs.iter().map(|msr| format!("{msr:#x}"));
            let msrs = msrs.collect::<Vec<_>>().join(", ");
            return Err(MachineError::RefusedMsrs { msrs });
        }
        restore_platform(&vm, state)?;
        vcpus.fds().for_each(|fd| vcpu_state::notify_stopped(&fd));
        console.start()?;
        console.queue(&state.console.unsent);
        let virtio = VirtioBus::new(&vm, ram.mapped(), devices.virtio, prepared)?;
        let pci = PciBus::restore(&vm, state.pci.as_ref(), devices.passed)?;
        // Last, because it may raise its interrupt.
        let serial = SerialPort::from_state(&state.serial, serial_irq, console.clone())?;
        let bus = PortBus::new(serial, PowerManagement::from_state(state.pm, sci(&vm)));
        let buses = Buses::new(bus, virtio, pci);
        let machine = Self {
            vcpus: vcpus.connect(&buses),
            buses,
            console,
            vm,
            ram,
            shape,
            cpu_features: state
                .vcpus
                .first()
                .map_or_else(Vec::new, |vcpu| Optional::given(&vcpu.cpuid)),
            host_tsc_khz,
            name: state.machine.name.clone(),
            host,
            boot: devices.boot,
            held: AtomicBool::new(state.life.paused),
            parked: AtomicBool::new(true),
            synced: AtomicBool::new(false),
        };
        machine.vcpus.set_end(state.life.end());
        Ok((machine, notes))
    }

    /// Sends what the console could not send while the guest was stopped.
    pub(crate) fn flush_console(&self) {
        self.console.flush();
    }

    /// Tells a parked guest that it was stopped, so that its watchdogs ignore the gap.
    pub(crate) fn notify_stopped(&self) {
        self.vcpus
            .fds()
            .for_each(|fd| vcpu_state::notify_stopped(&fd));
    }

    /// Its devices' open descriptors, by name, for another process of this host. It is parked.
    pub(crate) fn lend(&self) -> Result<Vec<(String, OwnedFd)>, MachineError> {
        let mut lent = self.buses.virtio.lend()?;
        lent.extend(self.buses.pci.lend()?);
        let boot = self.boot.as_ref().map(Boot::lend).transpose();
        lent.extend(boot.map_err(MachineError::Lend)?.unwrap_or_default());
        Ok(lent)
    }

    /// What the guest boots from when it resets, if this process could not open it.
    pub(crate) fn boot_to_open(&self) -> Option<BootStateV1> {
        self.boot.as_ref().and_then(Boot::to_open)
    }

    /// /dev/kvm, for a VMM that takes over.
    pub(crate) fn lend_kvm(&self) -> Result<OwnedFd, MachineError> {
        Ok(self.host.lend()?)
    }

    /// The sections that the state of its devices would have.
    pub(crate) fn device_sections(&self) -> Vec<&'static str> {
        let mut sections = self.buses.virtio.sections();
        sections.extend(self.buses.pci.sections());
        sections.extend(self.is_held().then_some(LIFE));
        sections
    }

    /// What another process needs to build a [`Shell`].
    pub(crate) fn description(&self) -> MachineStateV1 {
        MachineStateV1 {
            name: self.name.clone(),
            memory_kind: self.ram.kind(),
            ram: self.ram.ranges().to_vec(),
        }
    }

    pub(crate) fn console(&self) -> &Arc<Console> {
        &self.console
    }

    pub(crate) fn virtio(&self) -> &VirtioBus {
        &self.buses.virtio
    }

    pub(crate) fn pci(&self) -> &PciBus {
        &self.buses.pci
    }

    /// What the guest's devices have done since this process took them over.
    pub(crate) fn device_counts(&self) -> Vec<DeviceCounts> {
        self.buses.virtio.counts()
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub(crate) fn serial(&self) -> &Arc<SerialPort> {
        self.buses.ports.serial()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The optional CPU features it was given.
    pub(crate) fn cpu_features(&self) -> &[Optional] {
        &self.cpu_features
    }

    pub(crate) fn cpus(&self) -> usize {
        self.vcpus.count()
    }

    /// Frequency of the host's TSC in kHz; 0 if KVM does not know it.
    pub(crate) fn host_tsc_khz(&self) -> u32 {
        self.host_tsc_khz
    }

    /// The host's TSC when the first vCPU entered the guest; 0 before that. A guest that is paused
    /// or has ended is not entered, and counts as entered now.
    pub(crate) fn first_entry_tsc(&self) -> u64 {
        match self.vcpus.first_entry_tsc() {
            0 if self.is_held() || self.end().is_some() => tsc::read(),
            entered => entered,
        }
    }
}

impl Counted for Machine {
    /// Collects the metrics of every device that has any.
    fn count(&self, metrics: &mut Metrics) {
        Counted::count(&self.vcpus, metrics);
        self.serial().count(metrics);
        self.buses.virtio.count(metrics);
    }
}
