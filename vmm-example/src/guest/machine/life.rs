//! Whether a guest runs, and what it or somebody else wants.

use std::sync::atomic::Ordering;

use vmm_fdbox::Deadline;

use super::{Machine, MachineError};
use crate::guest::vcpu::GuestEnd;

impl Machine {
    /// Lets the guest run, unless it is held or at its end.
    pub(crate) fn run(&self) {
        if self.is_held() {
            return;
        }
        self.synced.store(false, Ordering::SeqCst);
        self.vcpus.unpark();
        self.buses.virtio.unpark();
        if self.parked.swap(false, Ordering::SeqCst) {
            self.buses.pci.unpark();
        }
    }

    /// Has the devices take no more requests and end those that are in flight, while the guest runs.
    /// If the kernel is to end, what they wrote is made safe: most of it before they stop, so that
    /// the guest's requests wait for the rest only. [`run`](Self::run) leads back.
    pub(crate) fn quiesce(&self, deadline: Deadline, leaves: bool) -> Result<(), MachineError> {
        if leaves {
            self.buses.virtio.sync()?;
        }
        self.buses.virtio.quiesce(deadline)?;
        if leaves {
            self.buses.virtio.sync()?;
            self.synced.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Stops all vCPUs, with no access of theirs half done, then all devices. Devices of the host go
    /// on; their interrupts wait. Nothing is waited for but the vCPUs: a guest that is to run on
    /// somewhere else is [quiesced](Self::quiesce) before.
    pub(crate) fn park(&self) {
        self.vcpus.park();
        self.buses.virtio.park();
        if !self.parked.swap(true, Ordering::SeqCst) {
            self.buses.pci.park();
        }
    }

    /// Whether vCPUs and devices stand still.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Makes safe what the host would lose with its kernel, if that was not done yet, and lets nothing of
    /// the guest's interrupt it any more. The guest is parked.
    pub(crate) fn leave_host(&self) -> Result<(), MachineError> {
        if !self.synced.swap(true, Ordering::SeqCst) {
            self.buses.virtio.sync()?;
        }
        Ok(self.buses.pci.disarm()?)
    }

    /// From now on the guest stands still, once it is parked, or does not any more, once it is run.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Presses the power button; false if the guest does not listen to it.
    pub(crate) fn press_power_button(&self) -> bool {
        self.buses.ports.pm().press_power_button()
    }

    /// How the guest came to its end, if it did.
    pub(crate) fn end(&self) -> Option<GuestEnd> {
        self.vcpus.end()
    }

    /// Whether the guest broke down. One that reset itself or switched itself off did not: whoever has
    /// it carries that out.
    pub(crate) fn is_broken(&self) -> bool {
        self.end().is_some_and(|end| !end.is_the_guests())
    }
}
