//! A device on the guest's PCI bus.
//!
//! Everything is behind one lock: accesses that exit are rare, and while the guest runs, its
//! interrupts and most of its accesses bypass this program. Accesses to the device are made with
//! the lock held, so that whoever has the lock finds no access half done.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::{COMMAND, ConfigSpace, INTX_OFF, MASTER, MEMORY, PARITY, SERR};
use super::device::Physical;
use super::msix::MsixTable;
use super::spec::PciAddress;
use super::vectors::{Vectors, Wanted};
use super::windows::Windows;
use super::{VfioError, VfioStateV1};
use crate::devices::pci::slot::PciSlot;
use crate::error::{chain, warn};

/// The constant properties of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) slot: PciSlot,
    pub(super) address: PciAddress,
    pub(super) device_id: u32,
    pub(super) page_table_id: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Function {
    identity: Identity,
    device: Arc<dyn Physical>,
    inner: Mutex<Inner>,
    /// The complaints that were already logged.
    logged: Mutex<BTreeSet<&'static str>>,
}

/// The state that the guest changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: ConfigSpace,
    pub(super) table: MsixTable,
    pub(super) vectors: Vectors,
    pub(super) windows: Box<dyn Windows>,
}

impl Function {
    /// A parked function. The device's command register is set to the guest's value: bus mastering
    /// is not interrupted.
    pub(super) fn new(identity: Identity, device: Arc<dyn Physical>, inner: Inner) -> Self {
        let function = Self {
            identity,
            device,
            inner: Mutex::new(inner),
            logged: Mutex::default(),
        };
        let inner = function.lock();
        function.command_device(&inner.config);
        drop(inner);
        function
    }

    pub(crate) fn slot(&self) -> PciSlot {
        self.identity.slot
    }

    pub(crate) fn address(&self) -> PciAddress {
        self.identity.address
    }

    /// The number of its interrupts.
    pub(crate) fn vectors(&self) -> usize {
        self.lock().table.vectors().len()
    }

    /// Handles a read of configuration space.
    pub(crate) fn read_config(&self, offset: u8, data: &mut [u8]) {
        let (inner, offset) = (self.lock(), usize::from(offset));
        inner.config.read(offset, data);
        for part in inner.config.live(offset, data.len()) {
            let data = &mut data[part.at..part.at + part.len];
            self.device.read_config(part.offset, data);
        }
    }

    /// Handles a write to configuration space.
    pub(crate) fn write_config(&self, offset: u8, data: &[u8]) {
        let (mut inner, offset) = (self.lock(), usize::from(offset));
        let command = inner.config.command();
        inner.config.write(offset, data);
        for part in inner.config.live(offset, data.len()) {
            let data = &data[part.at..part.at + part.len];
            self.device.write_config(part.offset, data);
        }
        if inner.config.command() != command {
            self.command_device(&inner.config);
        }
        self.place(&mut inner);
        self.follow(&mut inner);
    }

    /// Handles a memory read outside the mapped windows; false if the address is not the device's.
    pub(crate) fn read_memory(&self, addr: u64, data: &mut [u8]) -> bool {
        let inner = self.lock();
        let Some((bar, offset)) = find(&inner.config, addr) else {
            return false;
        };
        let layout = inner.config.msix_layout();
        if let Some(at) = layout.table.find(bar, offset) {
            inner.table.read(at, data);
        } else if let Some(at) = layout.pending.find(bar, offset) {
            for (byte, first) in data.iter_mut().zip((8 * at..).step_by(8)) {
                *byte = (0..8).fold(0, |bits, bit| {
                    bits | u8::from(inner.vectors.is_pending(first + bit)) << bit
                });
            }
        } else {
            self.device.read_bar(bar, offset, data);
        }
        true
    }

    /// Handles a memory write outside the mapped windows; false if the address is not the device's.
    pub(crate) fn write_memory(&self, addr: u64, data: &[u8]) -> bool {
        let mut inner = self.lock();
        let Some((bar, offset)) = find(&inner.config, addr) else {
            return false;
        };
        let layout = inner.config.msix_layout();
        if let Some(at) = layout.table.find(bar, offset) {
            inner.table.write(at, data);
            self.follow(&mut inner);
        } else if layout.pending.find(bar, offset).is_none() {
            self.device.write_bar(bar, offset, data);
        }
        true
    }

    /// Holds interrupts back. The vCPUs are already parked; the device continues.
    pub(crate) fn park(&self) {
        let parked = self.lock().vectors.park();
        self.complain("hold back interrupts", parked);
    }

    /// Lets interrupts through, and raises each vector once.
    pub(crate) fn unpark(&self) {
        let mut inner = self.lock();
        self.place(&mut inner);
        let (vectors, wanted) = inner.split();
        let unparked = vectors.unpark(wanted, self.device.as_ref());
        drop(inner);
        self.complain("switch interrupts on", unparked);
    }

    /// Disables the device's interrupts, before the host goes away. The function is parked.
    pub(crate) fn disarm(&self) -> Result<(), VfioError> {
        self.lock().vectors.disarm(self.device.as_ref())
    }

    /// Resets the function to its power-on state: the device stops what it was doing. It is parked,
    /// and so are the vCPUs.
    pub(crate) fn reset(&self) {
        let mut inner = self.lock();
        let disarmed = inner.vectors.disarm(self.device.as_ref());
        inner.vectors.forget();
        inner.config.reset();
        inner.table = MsixTable::new(inner.config.msix_layout().vectors);
        // Before the reset: if the device cannot be reset, it at least accesses no memory any more.
        self.command_device(&inner.config);
        let reset = self.device.reset();
        self.command_device(&inner.config);
        self.place(&mut inner);
        drop(inner);
        self.complain("switch its interrupts off", disarmed);
        self.complain("reset it", reset);
    }

    /// The state that crosses an update besides the device. The function is parked.
    pub(crate) fn save(&self) -> VfioStateV1 {
        let inner = self.lock();
        VfioStateV1 {
            slot: self.identity.slot.index(),
            address: self.identity.address,
            device_id: self.identity.device_id,
            page_table_id: self.identity.page_table_id,
            config: inner.config.image().to_vec(),
            bars: inner.config.bars().to_vec(),
            msix: inner.table.state(),
        }
    }

    /// A duplicate of the device's descriptor, for a box or another process.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        self.device.duplicate()
    }

    /// Moves the windows to the guest's addresses of the BARs.
    fn place(&self, inner: &mut Inner) {
        let Inner {
            config, windows, ..
        } = inner;
        for bar in config.bars() {
            let placed = windows.place(bar, config.address(bar));
            self.complain("map its memory", placed);
        }
    }

    fn follow(&self, inner: &mut Inner) {
        let (vectors, wanted) = inner.split();
        let followed = vectors.follow(wanted, self.device.as_ref());
        self.complain("route its interrupts", followed);
    }

    /// Memory is always enabled and interrupt lines are always disabled, whatever the guest sets:
    /// neither affects what else the device can access.
    fn command_device(&self, config: &ConfigSpace) {
        let passed = config.command() & (MASTER | PARITY | SERR);
        let command = passed | MEMORY | INTX_OFF;
        self.device.write_config(COMMAND, &command.to_le_bytes());
    }

    /// Logs a failure. The guest cannot be notified; its driver finds a device that does not
    /// respond, and may keep trying. So each kind of failure is logged once.
    fn complain<E: std::error::Error + 'static>(&self, what: &'static str, result: Result<(), E>) {
        let first = || {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            logged.insert(what)
        };
        if let Err(error) = result
            && first()
        {
            let address = self.identity.address;
            warn(&format!("{address}: cannot {what}: {}", chain(&error)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn split(&mut self) -> (&mut Vectors, Wanted<'_>) {
        let (on, all_masked) = self.config.msix_control();
        let wanted = Wanted {
            on,
            all_masked,
            vectors: self.table.vectors(),
        };
        (&mut self.vectors, wanted)
    }
}

/// The BAR that contains an address, and the offset in it.
fn find(config: &ConfigSpace, addr: u64) -> Option<(u8, u64)> {
    config.bars().iter().find_map(|bar| {
        let offset = addr.checked_sub(config.address(bar)?)?;
        (offset < bar.size).then_some((bar.index, offset))
    })
}

#[cfg(test)]
mod tests;
