//! Opening the host resources of devices: for a new guest, or from a state.

use std::collections::HashMap;
use std::io;
use std::iter::empty;
use std::os::fd::{OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use super::VirtioError;
use super::block::{self, Block};
use super::console::ConsoleDevice;
use super::device::Device;
use super::device_state::{BlockStateV1, DeviceStateV1, TapSource};
use super::fd_names::{CLIENT, DISK, LISTENER, TAP, device_fd_name};
use super::net::Net;
use super::rest::Resting;
use super::rng::Rng;
use super::slot::{MAX_DEVICES, Slot, SlotLayout};
use super::spec::{DeviceSpecs, TapSpec};
use super::state::{TransportStateV1, VirtioStateV1};
use super::vsock::Vsock;
use crate::socket::Ownership;

/// How long an old VMM of this host may take to release what it had.
const PATIENCE: Duration = Duration::from_secs(2);

/// A device with all its host resources, and its place in the machine.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) slot: Slot,
    pub(super) device: Box<dyn Device>,
    /// The state of its registers; `None` for a new device.
    pub(super) transport: Option<TransportStateV1>,
}

impl Opened {
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Its slot and number of rings.
    pub(crate) fn layout(&self) -> SlotLayout {
        SlotLayout::of(self.slot, self.device.queue_sizes().len())
    }
}

/// Opens the devices of a new guest. `ownership` is that of their sockets in the file system.
pub(crate) fn open(specs: &DeviceSpecs, ownership: &Ownership) -> Result<Vec<Opened>, VirtioError> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    if !specs.fits() {
        return Err(VirtioError::TooMany {
            count: specs.count(),
        });
    }
    for (number, disk) in specs.disks.iter().enumerate() {
        let what = format!("the disk {}", disk.path.display());
        let id = format!("fdbox-disk{number}");
        devices.push(boxed(what, Block::open(disk, id))?);
    }
    for net in &specs.nets {
        devices.push(match &net.tap {
            TapSpec::Name(name) => boxed(format!("the tap {name}"), Net::open(name, net.mac))?,
            TapSpec::Fd(fd) => boxed(format!("the tap of fd={fd}"), Net::adopt(*fd, net.mac))?,
        });
    }
    if let Some(console) = &specs.console {
        let opened = ConsoleDevice::open(&console.0, ownership);
        devices.push(boxed(format!("the console {:?}", console.0), opened)?);
    }
    if specs.rng {
        devices.push(Box::new(Rng));
    }
    if let Some(vsock) = &specs.vsock {
        let what = format!("the vsock socket {}", vsock.socket.display());
        devices.push(boxed(
            what,
            Vsock::open(vsock.cid, &vsock.socket, ownership),
        )?);
    }
    Ok(Slot::all()
        .zip(devices)
        .map(|(slot, device)| Opened {
            slot,
            device,
            transport: None,
        })
        .collect())
}

fn boxed<D: Device + 'static>(
    what: String,
    opened: io::Result<D>,
) -> Result<Box<dyn Device>, VirtioError> {
    match opened {
        Ok(device) => Ok(Box::new(device)),
        Err(source) => Err(VirtioError::Open { what, source }),
    }
}

/// Opens the devices of a saved guest. `handed_in` are the taps passed by descriptor, in order.
pub(crate) fn reopen(
    states: &[VirtioStateV1],
    handed_in: &[RawFd],
    ownership: &Ownership,
) -> Result<Vec<Opened>, VirtioError> {
    let mut handed_in = handed_in.iter().copied();
    let devices = each(states, |state| {
        reopen_one(&state.device, &mut handed_in, ownership)
    })?;
    match handed_in.next() {
        Some(fd) => Err(VirtioError::NotWanted { fd }),
        None => Ok(devices),
    }
}

/// Creates in advance what the devices in these slots, which are to be inherited, can no longer get
/// once the process has entered its sandbox.
pub(crate) fn reserve_io(places: &[SlotLayout]) {
    // A disk has one ring. An old VMM does not report its kind.
    let disks = places.iter().filter(|place| place.rings == 1).count();
    block::reserve(if places.is_empty() {
        MAX_DEVICES
    } else {
        disks
    });
}

/// Takes over the devices of a saved guest from another process of this host, which had everything
/// in `passed` open. Whatever is not included is opened again.
pub(crate) fn inherit(
    states: &[VirtioStateV1],
    mut passed: HashMap<String, OwnedFd>,
    ownership: &Ownership,
) -> Result<Vec<Opened>, VirtioError> {
    each(states, |state| {
        let mut take = |name| passed.remove(&device_fd_name(state.slot, name));
        match &state.device {
            DeviceStateV1::Block(block) => match take(DISK) {
                Some(disk) => boxed(disk_name(block), Block::inherit(block, disk)),
                None => reopen_one(&state.device, &mut empty(), ownership),
            },
            DeviceStateV1::Net(net) => match take(TAP) {
                Some(tap) => boxed("the tap of a network device".into(), Net::inherit(net, tap)),
                None => reopen_one(&state.device, &mut empty(), ownership),
            },
            DeviceStateV1::Console(console) => match take(LISTENER) {
                Some(listener) => boxed(
                    format!("the console {:?}", console.target),
                    ConsoleDevice::inherit(&console.target, listener, take(CLIENT), ownership),
                ),
                None => reopen_one(&state.device, &mut empty(), ownership),
            },
            DeviceStateV1::Vsock(vsock) => match take(LISTENER) {
                Some(listener) => boxed(
                    format!("the vsock socket {}", vsock.socket.display()),
                    Vsock::inherit(vsock, listener, ownership),
                ),
                None => reopen_one(&state.device, &mut empty(), ownership),
            },
            DeviceStateV1::Rng(_) => Ok(Box::new(Rng)),
        }
    })
}

/// The devices of a saved guest in a lifeboat: at rest, except for those that need no host.
pub(crate) fn at_rest(states: &[VirtioStateV1]) -> Result<Vec<Opened>, VirtioError> {
    each(states, |state| {
        Ok(match &state.device {
            DeviceStateV1::Rng(_) => Box::new(Rng),
            device => Box::new(Resting::new(device.clone())),
        })
    })
}

/// Gives devices that were opened in advance the state that they have by now. The slots are the same, and so are the
/// kinds.
pub(crate) fn catch_up(
    mut opened: Vec<Opened>,
    states: &[VirtioStateV1],
) -> Result<Vec<Opened>, VirtioError> {
    if opened.len() != states.len() {
        return Err(VirtioError::OtherDevices);
    }
    for (opened, state) in opened.iter_mut().zip(states) {
        if opened.slot.index() != state.slot || opened.device.kind() != state.device.kind() {
            return Err(VirtioError::OtherDevices);
        }
        let caught_up = opened.device.catch_up(&state.device);
        caught_up.map_err(|source| VirtioError::CatchUp {
            device: opened.device.kind().to_string(),
            source,
        })?;
        opened.transport = Some(state.transport.clone());
    }
    Ok(opened)
}

/// Opens each device, in a slot of its own.
fn each(
    states: &[VirtioStateV1],
    mut open: impl FnMut(&VirtioStateV1) -> Result<Box<dyn Device>, VirtioError>,
) -> Result<Vec<Opened>, VirtioError> {
    let mut devices: Vec<Opened> = Vec::with_capacity(states.len());
    for state in states {
        let slot = Slot::new(state.slot)
            .filter(|slot| devices.iter().all(|other| other.slot != *slot))
            .ok_or(VirtioError::BadSlot { slot: state.slot })?;
        devices.push(Opened {
            slot,
            device: open(state)?,
            transport: Some(state.transport.clone()),
        });
    }
    Ok(devices)
}

fn disk_name(state: &BlockStateV1) -> String {
    format!("the disk {}", state.path.display())
}

fn reopen_one(
    state: &DeviceStateV1,
    handed_in: &mut impl Iterator<Item = RawFd>,
    ownership: &Ownership,
) -> Result<Box<dyn Device>, VirtioError> {
    match state {
        DeviceStateV1::Block(state) => boxed(disk_name(state), patiently(|| Block::reopen(state))),
        DeviceStateV1::Net(state) => match &state.tap {
            TapSource::Name(name) => {
                let opened = patiently(|| Net::reopen(state, None));
                boxed(format!("the tap {name}"), opened)
            }
            TapSource::Descriptor => {
                let opened = Net::reopen(state, handed_in.next());
                boxed("the tap of a network device".into(), opened)
            }
        },
        DeviceStateV1::Console(state) => boxed(
            format!("the console {:?}", state.target),
            patiently(|| ConsoleDevice::open(&state.target, ownership)),
        ),
        DeviceStateV1::Rng(_) => Ok(Box::new(Rng)),
        DeviceStateV1::Vsock(state) => {
            let what = format!("the vsock socket {}", state.socket.display());
            boxed(what, patiently(|| Vsock::reopen(state, ownership)))
        }
    }
}

/// Retries while the resource is busy: the previous VMM may be about to end.
fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        match open() {
            Err(error) if is_busy(&error) && begin.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::AddrInUse
    )
}
