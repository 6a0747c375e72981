//! Interrupts as memory: where devices write their messages while their guest is in the lifeboat.
//!
//! An MSI-X message is a write by the device to the address in its table (PCI Local Bus
//! Specification 3.0, section 6.8.2). In the host that is an address of the interrupt controllers.
//! The lifeboat gets no interrupts of the host's devices, so there each vector has a word in a file
//! that the iommufd maps like guest RAM, and the VMM looks at the words now and then.
//!
//! The words are outside of guest RAM, at addresses at which the guest has nothing. It could have its
//! device write there, which would raise interrupts of that guest.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::MemfdFlags;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::VfioError;
use crate::devices::pci::slot::{MAX_DEVICES, PciSlot};
use crate::memory::layout::{HOLE_START, PCI_WINDOW};

/// The name of the file in a box and among the descriptors passed to another process.
pub(crate) const MESSAGES: &str = "vfio-messages";

/// The maximum number of vectors of a function.
const VECTORS: u64 = 2048;
const WORD: u64 = size_of::<u32>() as u64;
/// The size of the file in bytes.
pub(super) const LEN: u64 = MAX_DEVICES as u64 * VECTORS * WORD;
/// Its address for devices.
pub(super) const IOVA: u64 = PCI_WINDOW - LEN;
/// What a message writes.
pub(super) const RAISED: u32 = 1;

/// A new file for the messages of a guest's devices.
pub(super) fn create() -> Result<OwnedFd, VfioError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let created = rustix::fs::memfd_create(MESSAGES, flags).and_then(|fd| {
        rustix::fs::ftruncate(&fd, LEN)?;
        Ok(fd)
    });
    created.map_err(|source| VfioError::Messages(source.into()))
}

/// The words of all devices, mapped.
#[derive(Debug)]
pub(super) struct Messages(MmapRegion);

impl Messages {
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Self, VfioError> {
        let file = fd.try_clone_to_owned().map_err(VfioError::Messages)?;
        let file = FileOffset::new(File::from(file), 0);
        let mapped = MmapRegion::from_file(file, LEN as usize);
        mapped.map(Self).map_err(VfioError::MapMessages)
    }

    /// Whether a message has arrived since the last time.
    pub(super) fn take(&self, slot: PciSlot, vector: u16) -> bool {
        let word = self
            .0
            .get_atomic_ref::<AtomicU32>(offset(slot, vector) as usize);
        word.is_ok_and(|word| {
            word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Acquire) != 0
        })
    }
}

/// The address of a vector's word for the device.
pub(super) fn address(slot: PciSlot, vector: u16) -> u64 {
    IOVA + offset(slot, vector)
}

const _: () = assert!(IOVA > HOLE_START, "outside of guest RAM");

fn offset(slot: PciSlot, vector: u16) -> u64 {
    (u64::from(slot.index()) * VECTORS + u64::from(vector) % VECTORS) * WORD
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn each_vector_of_each_device_has_a_word_outside_of_ram_and_window() {
        let last = PciSlot::all().last().unwrap();
        assert_eq!(address(PciSlot::all().next().unwrap(), 0), IOVA);
        assert_eq!(address(last, 2047) + WORD, PCI_WINDOW);
    }

    #[test]
    fn a_message_is_seen_once() {
        let file = File::from(create().unwrap());
        let messages = Messages::map(file.as_fd()).unwrap();
        let slot = PciSlot::all().nth(1).unwrap();
        assert!(!messages.take(slot, 3));
        let at = address(slot, 3) - IOVA;
        file.write_all_at(&RAISED.to_le_bytes(), at).unwrap();
        assert!(!messages.take(slot, 2), "another vector");
        assert!(messages.take(slot, 3));
        assert!(!messages.take(slot, 3));
    }
}
