//! What a device finds at its place: an interrupt line and the kicks of its rings, in KVM, and a
//! thread.
//!
//! All of this takes its time, and nothing but the device's place need be known for it: it is done
//! before a guest stops.

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioError;
use super::slot::{Place, QUEUE_NOTIFY, Slot};
use super::worker::IdleWorker;
use crate::kvm::Vm;

/// A place made ready for its device.
#[derive(Debug)]
pub(crate) struct Bay {
    pub(super) slot: Slot,
    /// Raises the interrupt.
    pub(super) line: EventFd,
    /// Written by the kernel when the guest has put something into the ring of that number.
    pub(super) kicks: Vec<EventFd>,
    pub(super) worker: IdleWorker,
}

impl Bay {
    /// Makes `place` ready.
    pub(crate) fn prepare(vm: &Vm, place: Place) -> Result<Self, VirtioError> {
        let slot = Slot::new(place.slot).ok_or(VirtioError::BadSlot { slot: place.slot })?;
        let bay = Self::of_no_vm(slot, place.rings)?;
        vm.register_irqfd(&bay.line, slot.gsi())?;
        for (ring, kick) in (0u32..).zip(&bay.kicks) {
            vm.register_ioeventfd(kick, slot.base() + QUEUE_NOTIFY, ring)?;
        }
        Ok(bay)
    }

    /// One whose events no VM knows.
    pub(super) fn of_no_vm(slot: Slot, rings: u8) -> Result<Self, VirtioError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VirtioError::Event);
        Ok(Self {
            slot,
            line: event()?,
            kicks: (0..rings).map(|_| event()).collect::<Result<_, _>>()?,
            worker: IdleWorker::spawn(slot)?,
        })
    }

    pub(super) fn place(&self) -> Place {
        Place::of(self.slot, self.kicks.len())
    }
}

/// Takes the bay at `place` out of those that there are. None if nobody knew of it.
pub(super) fn take(ready: &mut Vec<Bay>, place: Place) -> Result<Option<Bay>, VirtioError> {
    let Some(at) = ready.iter().position(|bay| bay.place().slot == place.slot) else {
        return Ok(None);
    };
    match ready.swap_remove(at) {
        bay if bay.place() == place => Ok(Some(bay)),
        _ => Err(VirtioError::OtherRings { slot: place.slot }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_its_own_bay_or_none() {
        let bay = |slot, rings| Bay::of_no_vm(Slot::new(slot).unwrap(), rings).unwrap();
        let mut ready = vec![bay(0, 1), bay(2, 2), bay(3, 1)];
        let place = |slot, rings| Place { slot, rings };
        assert!(take(&mut ready, place(1, 1)).unwrap().is_none());
        let found = take(&mut ready, place(2, 2)).unwrap().unwrap();
        assert_eq!(found.place(), place(2, 2));
        assert!(take(&mut ready, place(2, 2)).unwrap().is_none());
        let other = take(&mut ready, place(3, 2)).unwrap_err();
        assert!(matches!(other, VirtioError::OtherRings { slot: 3 }));
    }
}
