//! The state of a guest without its memory, as sections of the VM state frame.
//!
//! Each section is a type of its own, separate from the live object. A field that readers may
//! ignore is added with a default; any other change is a new version.

mod journey;
mod later;
mod life;

use serde::{Deserialize, Serialize};
use vmm_fdbox::frame::{Description, Frame, FrameError, FrameWriter, KnownSection, Need};

pub(crate) use journey::{JourneyV1, LifeboatReport, journey, write_journey};
pub(crate) use later::{PRODUCER, SHOWN_VERSION};
pub(crate) use life::LifeStateV1;

use crate::devices::pci::state::{self as pci, PciState};
use crate::devices::pm::PmStateV1;
use crate::devices::serial::SerialStateV1;
use crate::devices::virtio::slot::MAX_DEVICES;
use crate::devices::virtio::state::{self as virtio, VirtioStateV1};
use crate::guest::boot::BootStateV1;
use crate::kvm::irqchip::{ClockStateV1, IrqchipStateV1, PitStateV1};
use crate::kvm::vcpu::VcpuStateV1;
use crate::memory::layout::RamRange;
use crate::spec::MemoryKind;

const MACHINE: &str = "machine";
const VCPUS: &str = "vcpus";
const IRQCHIP: &str = "irqchip";
const PIT: &str = "pit";
const CLOCK: &str = "clock";
const SERIAL: &str = "serial";
const PM: &str = "acpi-pm";
const CONSOLE: &str = "console";
const RESUME_ORDER: &str = "resume-order";
const BOOT: &str = "boot";
pub(crate) const LIFE: &str = "life";

/// The sections that a guest can do without.
const CONSOLE_V1: KnownSection = KnownSection::new(CONSOLE, 1, 1);
const RESUME_ORDER_V1: KnownSection = KnownSection::new(RESUME_ORDER, 1, 1);
const BOOT_V1: KnownSection = KnownSection::new(BOOT, 1, 1);
/// Only present if it says something; a reader that does not know it must not run the guest.
const LIFE_V1: KnownSection = KnownSection::new(LIFE, 1, 1);

/// The number of sections that this program can read.
const SECTIONS: usize = MACHINE_SECTIONS.len() + virtio::SECTIONS + pci::SECTIONS + later::SECTIONS;

/// All sections that this program can read.
pub(crate) const KNOWN: [KnownSection; SECTIONS] = known();

/// Those that are not devices on the virtio or PCI bus.
const MACHINE_SECTIONS: [KnownSection; 12] = [
    KnownSection::new(MACHINE, 1, 1),
    KnownSection::new(VCPUS, 1, 1),
    KnownSection::new(IRQCHIP, 1, 1),
    KnownSection::new(PIT, 1, 1),
    KnownSection::new(CLOCK, 1, 1),
    KnownSection::new(SERIAL, 1, 1),
    KnownSection::new(PM, 1, 1),
    CONSOLE_V1,
    RESUME_ORDER_V1,
    BOOT_V1,
    LIFE_V1,
    journey::JOURNEY_V1,
];

const fn known() -> [KnownSection; SECTIONS] {
    let (virtio, pci, later) = (virtio::known(), pci::known(), later::known());
    let parts: [&[KnownSection]; 4] = [&MACHINE_SECTIONS, &virtio, &pci, &later];
    let mut known = [MACHINE_SECTIONS[0]; SECTIONS];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let mut next = 0;
        while next < parts[part].len() {
            known[at] = parts[part][next];
            next += 1;
            at += 1;
        }
        part += 1;
    }
    known
}

/// What [`GuestState::write`] writes for any guest.
const WRITTEN: [(&str, u32, Need); 8] = [
    (MACHINE, 1, Need::Required),
    (VCPUS, 1, Need::Required),
    (IRQCHIP, 1, Need::Required),
    (PIT, 1, Need::Required),
    (CLOCK, 1, Need::Required),
    (SERIAL, 1, Need::Required),
    (PM, 1, Need::Required),
    (CONSOLE, 1, Need::Optional),
];

/// What this program writes for a guest whose devices have these sections, so that another program
/// can check whether it can read it.
pub(crate) fn description(devices: &[&'static str]) -> Description {
    let devices = devices
        .iter()
        .map(|name| (*name, DEVICE_VERSION, Need::Required));
    let written = WRITTEN.into_iter().chain(devices).chain(later::WRITTEN);
    Description::new(PRODUCER, written)
}

/// The version of the sections of devices, on any bus.
const DEVICE_VERSION: u32 = virtio::VERSION;
const _: () = assert!(virtio::VERSION == pci::VERSION);

/// The maximum size of a vCPU's state: with every XSAVE component, and a nested guest.
const BYTES_PER_VCPU: usize = 64 << 10;
/// The maximum size of all other sections: a full console buffer, and a waiting frame of every
/// network.
const BYTES_BESIDE: usize = (192 << 10) + MAX_DEVICES * (72 << 10);

/// The maximum size of the frame of a guest without a PCI bus.
pub(crate) fn frame_capacity(cpus: usize) -> usize {
    cpus * BYTES_PER_VCPU + BYTES_BESIDE
}

/// What the guest is, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineStateV1 {
    pub(crate) name: String,
    pub(crate) memory_kind: MemoryKind,
    pub(crate) ram: Vec<RamRange>,
}

/// Output that nobody has read yet, version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsoleStateV1 {
    #[serde(with = "serde_bytes")]
    pub(crate) unsent: Vec<u8>,
}

/// The guest's place in the order of resumes, version 1. Only present if an order was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ResumeOrderV1 {
    /// 0 is resumed first.
    position: u32,
}

/// Writes the guest's place in the order of resumes.
pub(crate) fn write_position(frame: &mut FrameWriter<'_>, position: u32) -> Result<(), FrameError> {
    let order = ResumeOrderV1 { position };
    frame.add(RESUME_ORDER, 1, Need::Optional, &order)
}

/// The guest's place in the order; `None` if no order was given, or this program cannot read it.
pub(crate) fn position<B: AsRef<[u8]>>(frame: &Frame<B>) -> Option<u32> {
    let order: Option<ResumeOrderV1> = frame.read_optional(RESUME_ORDER_V1).unwrap_or_default();
    order.map(|order| order.position)
}

/// A guest without its memory.
#[derive(Clone, Debug)]
pub(crate) struct GuestState {
    pub(crate) machine: MachineStateV1,
    pub(crate) vcpus: Vec<VcpuStateV1>,
    pub(crate) irqchip: IrqchipStateV1,
    pub(crate) pit: PitStateV1,
    pub(crate) clock: ClockStateV1,
    pub(crate) serial: SerialStateV1,
    pub(crate) pm: PmStateV1,
    pub(crate) console: ConsoleStateV1,
    /// Sorted by slot.
    pub(crate) virtio: Vec<VirtioStateV1>,
    /// `None` if it has no PCI bus.
    pub(crate) pci: Option<PciState>,
    /// What it boots from when it resets; `None` if its VMM ends then.
    pub(crate) boot: Option<BootStateV1>,
    pub(crate) life: LifeStateV1,
}

impl GuestState {
    /// Adds all sections to a frame.
    pub(crate) fn write(&self, frame: &mut FrameWriter<'_>) -> Result<(), FrameError> {
        frame.add(MACHINE, 1, Need::Required, &self.machine)?;
        frame.add(VCPUS, 1, Need::Required, &self.vcpus)?;
        frame.add(IRQCHIP, 1, Need::Required, &self.irqchip)?;
        frame.add(PIT, 1, Need::Required, &self.pit)?;
        frame.add(CLOCK, 1, Need::Required, &self.clock)?;
        frame.add(SERIAL, 1, Need::Required, &self.serial)?;
        frame.add(PM, 1, Need::Required, &self.pm)?;
        frame.add(CONSOLE, 1, Need::Optional, &self.console)?;
        virtio::write(&self.virtio, frame)?;
        if let Some(state) = &self.pci {
            pci::write(state, frame)?;
        }
        if let Some(boot) = &self.boot {
            frame.add(BOOT, 1, Need::Optional, boot)?;
        }
        if self.life.says_something() {
            frame.add(LIFE, 1, Need::Required, &self.life)?;
        }
        later::write(frame)
    }

    /// Reads all sections of a frame that was checked with [`KNOWN`].
    pub(crate) fn read<B: AsRef<[u8]>>(frame: &Frame<B>) -> Result<Self, FrameError> {
        Ok(Self {
            machine: frame.read(MACHINE)?,
            vcpus: frame.read(VCPUS)?,
            irqchip: frame.read(IRQCHIP)?,
            pit: frame.read(PIT)?,
            clock: frame.read(CLOCK)?,
            serial: frame.read(SERIAL)?,
            pm: frame.read(PM)?,
            console: frame.read_optional(CONSOLE_V1)?.unwrap_or_default(),
            virtio: virtio::read(frame)?,
            pci: pci::read(frame)?,
            boot: frame.read_optional(BOOT_V1)?,
            life: frame.read_optional(LIFE_V1)?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
