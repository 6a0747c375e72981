//! Whether a guest runs, and what it or somebody else wants.

use std::sync::atomic::Ordering;

use super::Machine;
use crate::guest::vcpu::GuestEnd;

impl Machine {
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
