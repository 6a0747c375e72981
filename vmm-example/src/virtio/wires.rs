//! What connects a device to the guest: its interrupt line and the kicks of its rings, in KVM.
//!
//! KVM takes its time over each of them. Nothing but the device's place need be known for it,
//! so that it is done before a guest stops.

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioError;
use super::slot::{QUEUE_NOTIFY, Slot};
use crate::kvm::Vm;

/// Where a device is, and how many rings it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) slot: u8,
    pub(crate) rings: u8,
}

/// The events of one device, registered.
#[derive(Debug)]
pub(crate) struct Wires {
    pub(super) slot: Slot,
    /// Raises the interrupt.
    pub(super) line: EventFd,
    /// Written by the kernel when the guest has put something into the ring of that number.
    pub(super) kicks: Vec<EventFd>,
}

impl Wires {
    /// Registers those of a device at `place`.
    pub(crate) fn connect(vm: &Vm, place: Place) -> Result<Self, VirtioError> {
        let slot = Slot::new(place.slot).ok_or(VirtioError::BadSlot { slot: place.slot })?;
        let wires = Self::loose(slot, place.rings)?;
        vm.register_irqfd(&wires.line, slot.gsi())?;
        for (ring, kick) in (0u32..).zip(&wires.kicks) {
            vm.register_ioeventfd(kick, slot.base() + QUEUE_NOTIFY, ring)?;
        }
        Ok(wires)
    }

    /// Events that no VM knows.
    pub(super) fn loose(slot: Slot, rings: u8) -> Result<Self, VirtioError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VirtioError::Event);
        Ok(Self {
            slot,
            line: event()?,
            kicks: (0..rings).map(|_| event()).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn place(&self) -> Place {
        Place {
            slot: self.slot.index(),
            rings: u8::try_from(self.kicks.len()).unwrap_or(u8::MAX),
        }
    }
}

/// Takes the wires of a device at `place` out of those that there are. None if nobody knew of it.
pub(super) fn take(ready: &mut Vec<Wires>, place: Place) -> Result<Option<Wires>, VirtioError> {
    let Some(at) = ready
        .iter()
        .position(|wires| wires.place().slot == place.slot)
    else {
        return Ok(None);
    };
    match ready.swap_remove(at) {
        wires if wires.place() == place => Ok(Some(wires)),
        _ => Err(VirtioError::OtherRings { slot: place.slot }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_its_own_wires_or_none() {
        let wires = |slot, rings| Wires::loose(Slot::new(slot).unwrap(), rings).unwrap();
        let mut ready = vec![wires(0, 1), wires(2, 2), wires(3, 1)];
        let place = |slot, rings| Place { slot, rings };
        assert!(take(&mut ready, place(1, 1)).unwrap().is_none());
        let found = take(&mut ready, place(2, 2)).unwrap().unwrap();
        assert_eq!(found.place(), place(2, 2));
        assert!(take(&mut ready, place(2, 2)).unwrap().is_none());
        let other = take(&mut ready, place(3, 2)).unwrap_err();
        assert!(matches!(other, VirtioError::OtherRings { slot: 3 }));
    }
}
