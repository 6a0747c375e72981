//! The state of the devices that crosses an update: a section for each.
//!
//! A field that readers may ignore is added with a default; any other change is a new version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};
use vmm_fdbox::frame::{Frame, FrameError, FrameWriter, KnownSection, Need};

use super::device_state::DeviceStateV1;
use super::kind::Kind;

/// The version of all sections here.
pub(crate) const VERSION: u32 = 1;

/// The sections of devices, in the order in which they are searched.
const NAMES: [(Kind, &str); 19] = [
    (Kind::Block, "virtio-blk0"),
    (Kind::Block, "virtio-blk1"),
    (Kind::Block, "virtio-blk2"),
    (Kind::Block, "virtio-blk3"),
    (Kind::Block, "virtio-blk4"),
    (Kind::Block, "virtio-blk5"),
    (Kind::Block, "virtio-blk6"),
    (Kind::Block, "virtio-blk7"),
    (Kind::Net, "virtio-net0"),
    (Kind::Net, "virtio-net1"),
    (Kind::Net, "virtio-net2"),
    (Kind::Net, "virtio-net3"),
    (Kind::Net, "virtio-net4"),
    (Kind::Net, "virtio-net5"),
    (Kind::Net, "virtio-net6"),
    (Kind::Net, "virtio-net7"),
    (Kind::Console, "virtio-console0"),
    (Kind::Rng, "virtio-rng0"),
    (Kind::Vsock, "virtio-vsock0"),
];

/// The number of sections that [`known`] returns.
pub(crate) const SECTIONS: usize = NAMES.len();

/// All sections of devices that this program can read.
pub(crate) const fn known() -> [KnownSection; SECTIONS] {
    let mut known = [KnownSection::new("", 0, 0); SECTIONS];
    let mut at = 0;
    while at < SECTIONS {
        known[at] = KnownSection::new(NAMES[at].1, VERSION, VERSION);
        at += 1;
    }
    known
}

/// A ring as set up by its driver, and its progress, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueStateV1 {
    pub(crate) max_size: u16,
    pub(crate) size: u16,
    pub(crate) ready: bool,
    pub(crate) desc_table: u64,
    pub(crate) avail_ring: u64,
    pub(crate) used_ring: u64,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
    pub(crate) event_idx: bool,
}

impl From<&Queue> for QueueStateV1 {
    fn from(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx: state.event_idx_enabled,
        }
    }
}

impl TryFrom<&QueueStateV1> for Queue {
    type Error = virtio_queue::Error;

    fn try_from(state: &QueueStateV1) -> Result<Self, Self::Error> {
        Self::try_from(QueueState {
            max_size: state.max_size,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        })
    }
}

/// The registers, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransportStateV1 {
    /// The features that were offered: a driver that is probing must not see them change.
    pub(crate) device_features: u64,
    pub(crate) driver_features: u64,
    pub(crate) device_features_sel: u32,
    pub(crate) driver_features_sel: u32,
    pub(crate) queue_sel: u32,
    pub(crate) status: u32,
    pub(crate) interrupt_status: u32,
    pub(crate) config_generation: u32,
    pub(crate) queues: Vec<QueueStateV1>,
}

/// A device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VirtioStateV1 {
    /// Its slot in the machine.
    pub(crate) slot: u8,
    pub(crate) transport: TransportStateV1,
    pub(crate) device: DeviceStateV1,
}

/// The kind of device that a section describes.
pub(super) fn kind_of(section: &str) -> Option<Kind> {
    let of = NAMES.iter().find(|(_, name)| *name == section);
    of.map(|(kind, _)| *kind)
}

/// The section of each device; `None` for one too many of its kind.
pub(super) fn sections(kinds: impl Iterator<Item = Kind>) -> Vec<Option<&'static str>> {
    let mut names = NAMES.to_vec();
    let section = |kind| {
        let at = names.iter().position(|(of, _)| *of == kind);
        at.map(|at| names.remove(at).1)
    };
    kinds.map(section).collect()
}

/// Adds a section for each device. The names of a kind are used in the order of its devices.
pub(crate) fn write(
    devices: &[VirtioStateV1],
    frame: &mut FrameWriter<'_>,
) -> Result<(), FrameError> {
    let names = sections(devices.iter().map(|device| device.device.kind()));
    for (device, name) in devices.iter().zip(names) {
        // The number was checked when the machine was built: see `DeviceSpecs::check`.
        let name = name.ok_or(FrameError::TooManySections)?;
        frame.add(name, VERSION, Need::Required, device)?;
    }
    Ok(())
}

/// Reads the devices of a frame, in the order of their slots.
pub(crate) fn read<B: AsRef<[u8]>>(frame: &Frame<B>) -> Result<Vec<VirtioStateV1>, FrameError> {
    let mut devices = Vec::new();
    for section in known() {
        devices.extend(frame.read_optional::<VirtioStateV1>(section)?);
    }
    devices.sort_by_key(|device| device.slot);
    Ok(devices)
}

/// The devices' sockets in the file system, and the prefix of those that a device connects to.
pub(crate) fn sockets(devices: &[VirtioStateV1]) -> (Vec<PathBuf>, Option<PathBuf>) {
    let mut connects = None;
    let socket = |state: &VirtioStateV1| match &state.device {
        DeviceStateV1::Vsock(vsock) => {
            connects = Some(vsock.socket.clone());
            connects.clone()
        }
        DeviceStateV1::Console(console) => console.socket(),
        DeviceStateV1::Block(_) | DeviceStateV1::Net(_) | DeviceStateV1::Rng(_) => None,
    };
    let sockets = devices.iter().filter_map(socket).collect();
    (sockets, connects)
}

#[cfg(test)]
pub(crate) mod tests;
