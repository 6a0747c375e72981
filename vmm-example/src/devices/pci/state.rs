//! The state of the bus and its devices that crosses an update: a section for each.
//!
//! A field that readers may ignore is added with a default; any other change is a new version.

use serde::{Deserialize, Serialize};
use vmm_fdbox::frame::{Frame, FrameError, FrameWriter, KnownSection, Need};

use super::slot::MAX_DEVICES;
use crate::devices::vfio::VfioStateV1;

/// The version of all sections here.
pub(crate) const VERSION: u32 = 1;

const BUS: &str = "pci-bus";
const DEVICES: [&str; MAX_DEVICES] = [
    "vfio0", "vfio1", "vfio2", "vfio3", "vfio4", "vfio5", "vfio6", "vfio7",
];

/// The maximum size of the section of a device, without its vectors.
const BYTES_PER_DEVICE: usize = 4 << 10;
/// The maximum size of a vector: three numbers and their names.
const BYTES_PER_VECTOR: usize = 64;

/// The maximum size of the sections of the bus and of devices with this many vectors, in bytes.
pub(crate) fn capacity(vectors: impl Iterator<Item = usize>) -> usize {
    let device = |vectors| BYTES_PER_DEVICE + vectors * BYTES_PER_VECTOR;
    BYTES_PER_DEVICE + vectors.map(device).sum::<usize>()
}

/// The number of sections that [`known`] returns.
pub(crate) const SECTIONS: usize = MAX_DEVICES + 1;

/// All sections of the bus that this program can read.
pub(crate) const fn known() -> [KnownSection; SECTIONS] {
    let mut known = [KnownSection::new(BUS, VERSION, VERSION); SECTIONS];
    let mut at = 0;
    while at < MAX_DEVICES {
        known[at + 1] = KnownSection::new(DEVICES[at], VERSION, VERSION);
        at += 1;
    }
    known
}

/// The bus and its devices; a guest without devices on it has no bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciState {
    pub(crate) bus: PciBusStateV1,
    /// Sorted by place.
    pub(crate) devices: Vec<VfioStateV1>,
}

/// The bus itself, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PciBusStateV1 {
    /// The value last written to port 0xcf8: the guest may be about to access port 0xcfc.
    pub(crate) config_address: u32,
    /// The I/O address space (IOAS) of the iommufd with the mappings of guest RAM.
    pub(crate) ioas_id: u32,
}

/// The sections of a bus with this many devices.
pub(super) fn sections(devices: usize) -> impl Iterator<Item = &'static str> {
    std::iter::once(BUS).chain(DEVICES.into_iter().take(devices))
}

/// Adds a section for the bus and one for each device.
pub(crate) fn write(state: &PciState, frame: &mut FrameWriter<'_>) -> Result<(), FrameError> {
    frame.add(BUS, VERSION, Need::Required, &state.bus)?;
    let mut names = DEVICES.into_iter();
    for device in &state.devices {
        // The number of devices was checked when the machine was built: each has a section.
        let name = names.next().ok_or(FrameError::TooManySections)?;
        frame.add(name, VERSION, Need::Required, device)?;
    }
    Ok(())
}

/// Reads the bus from a frame; `None` if the guest has none.
pub(crate) fn read<B: AsRef<[u8]>>(frame: &Frame<B>) -> Result<Option<PciState>, FrameError> {
    let [bus, slots @ ..] = known();
    let bus = frame.read_optional(bus)?;
    let mut devices = Vec::new();
    for section in slots {
        devices.extend(frame.read_optional::<VfioStateV1>(section)?);
    }
    match bus {
        Some(bus) => Ok(Some(PciState { bus, devices })),
        None if devices.is_empty() => Ok(None),
        None => Err(FrameError::MissingSection { name: BUS.into() }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
