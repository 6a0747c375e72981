//! Running, pausing and parking a guest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vmm_fdbox::Deadline;

use super::{Machine, MachineError};
use crate::guest::vcpu::GuestEnd;

/// How long a guest's last output may take.
const END_LIMIT: Duration = Duration::from_secs(2);

impl Machine {
    /// Lets the guest run, unless it is paused or has ended.
    pub(crate) fn run(&self) {
        if self.is_held() {
            return;
        }
        self.synced.store(false, Ordering::SeqCst);
        self.console.release();
        self.vcpus.unpark();
        self.buses.virtio.unpark();
        if self.parked.swap(false, Ordering::SeqCst) {
            self.buses.pci.unpark();
        }
    }

    /// Makes the devices take no more requests and finish those in flight, while the guest runs. If
    /// the kernel is to end, written data is synced: most of it before the devices stop, so that
    /// the guest's requests only wait for the rest. [`run`](Self::run) undoes this.
    pub(crate) fn quiesce(&self, deadline: Deadline, leaves: bool) -> Result<(), MachineError> {
        if leaves {
            self.buses.virtio.sync()?;
        }
        self.buses.virtio.quiesce(deadline)?;
        if leaves {
            self.buses.virtio.sync()?;
            self.synced.store(true, Ordering::SeqCst);
        }
        // Last, for what the guest says from here on has to wait.
        self.console.hold(deadline)?;
        if leaves {
            self.console.sync()?;
        }
        Ok(())
    }

    /// Stops for good. What the guest has written gets a while to be where it belongs; after that it is
    /// lost, as when the power fails.
    pub(crate) fn finish(&self) {
        let deadline = Deadline::within(END_LIMIT);
        let _ = self.buses.virtio.quiesce(deadline);
        self.park();
        let _ = self.console.finish(deadline);
    }

    /// Stops all vCPUs, with no access half done, then all devices. Passed-through devices
    /// continue; their interrupts are held back. Waits for nothing but the vCPUs: a guest that is
    /// to continue elsewhere is [quiesced](Self::quiesce) before.
    pub(crate) fn park(&self) {
        self.vcpus.park();
        self.buses.virtio.park();
        if !self.parked.swap(true, Ordering::SeqCst) {
            self.buses.pci.park();
        }
    }

    /// Whether vCPUs and devices are parked.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Syncs what the host would lose with its kernel, if that was not done yet, and stops all
    /// interrupts from the guest's devices. The guest is parked.
    pub(crate) fn leave_host(&self) -> Result<(), MachineError> {
        if !self.synced.swap(true, Ordering::SeqCst) {
            self.buses.virtio.sync()?;
        }
        Ok(self.buses.pci.disarm()?)
    }

    /// Pauses the guest from when it is next parked, or ends the pause from when it is next run.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Presses the power button; false if the guest has not enabled it.
    pub(crate) fn press_power_button(&self) -> bool {
        self.buses.ports.pm().press_power_button()
    }

    /// How the guest ended, if it did.
    pub(crate) fn end(&self) -> Option<GuestEnd> {
        self.vcpus.end()
    }

    /// Whether the guest broke down. One that reset itself or switched itself off did not: whoever
    /// has the guest carries that out.
    pub(crate) fn is_broken(&self) -> bool {
        self.end().is_some_and(|end| !end.is_the_guests())
    }
}
