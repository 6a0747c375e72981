//! What is set up in advance for a device in its slot: an interrupt line and the notifications of
//! its rings, in KVM, and a thread.
//!
//! All of this takes time and only requires the device's slot to be known: it is done before a
//! guest stops.

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioError;
use super::slot::{QUEUE_NOTIFY, Slot, SlotLayout};
use super::worker::IdleWorker;
use crate::kvm::Vm;

/// A slot that is ready for its device.
#[derive(Debug)]
pub(crate) struct PreparedSlot {
    pub(super) slot: Slot,
    /// Raises the interrupt.
    pub(super) line: EventFd,
    /// Written by the kernel when the guest has put something into the ring with that index.
    pub(super) kicks: Vec<EventFd>,
    pub(super) worker: IdleWorker,
}

impl PreparedSlot {
    /// Prepares a slot.
    pub(crate) fn prepare(vm: &Vm, layout: SlotLayout) -> Result<Self, VirtioError> {
        let slot = Slot::new(layout.slot).ok_or(VirtioError::BadSlot { slot: layout.slot })?;
        let prepared = Self::of_no_vm(slot, layout.rings)?;
        vm.register_irqfd(&prepared.line, slot.gsi())?;
        for (ring, kick) in (0u32..).zip(&prepared.kicks) {
            vm.register_ioeventfd(kick, slot.base() + QUEUE_NOTIFY, ring)?;
        }
        Ok(prepared)
    }

    /// A slot whose events are not connected to any VM.
    pub(super) fn of_no_vm(slot: Slot, rings: u8) -> Result<Self, VirtioError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VirtioError::Event);
        Ok(Self {
            slot,
            line: event()?,
            kicks: (0..rings).map(|_| event()).collect::<Result<_, _>>()?,
            worker: IdleWorker::spawn(slot)?,
        })
    }

    /// Waits until its thread takes no more of the CPU.
    pub(crate) fn wait_until_idle(&self) {
        self.worker.wait_until_idle();
    }

    pub(super) fn layout(&self) -> SlotLayout {
        SlotLayout::of(self.slot, self.kicks.len())
    }
}

/// Removes the slot prepared at `place` from the list. `None` if it was not prepared.
pub(super) fn take(
    ready: &mut Vec<PreparedSlot>,
    layout: SlotLayout,
) -> Result<Option<PreparedSlot>, VirtioError> {
    let Some(at) = ready
        .iter()
        .position(|prepared| prepared.layout().slot == layout.slot)
    else {
        return Ok(None);
    };
    match ready.swap_remove(at) {
        prepared if prepared.layout() == layout => Ok(Some(prepared)),
        _ => Err(VirtioError::OtherRings { slot: layout.slot }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_its_own_slot_or_none() {
        let prepared =
            |slot, rings| PreparedSlot::of_no_vm(Slot::new(slot).unwrap(), rings).unwrap();
        let mut ready = vec![prepared(0, 1), prepared(2, 2), prepared(3, 1)];
        let layout = |slot, rings| SlotLayout { slot, rings };
        assert!(take(&mut ready, layout(1, 1)).unwrap().is_none());
        let found = take(&mut ready, layout(2, 2)).unwrap().unwrap();
        assert_eq!(found.layout(), layout(2, 2));
        assert!(take(&mut ready, layout(2, 2)).unwrap().is_none());
        let other = take(&mut ready, layout(3, 2)).unwrap_err();
        assert!(matches!(other, VirtioError::OtherRings { slot: 3 }));
    }
}
