//! Gates input to the guest. The gate is shut while the guest is saved, because later input would
//! neither be in the state nor be left for the VMM that takes over. It stays shut if another process
//! gets the guest, and its input.
//!
//! Nobody waits at the gate: the event loop comes back when [`opened`](InputGate::opened) says so, and
//! serves everything else meanwhile, above all the end of this VMM.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct InputGate {
    is_open: Mutex<bool>,
    opened: EventFd,
}

impl InputGate {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            is_open: Mutex::new(true),
            opened: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Runs `work`, which takes input, if the gate is open. Otherwise it is to be tried again when the
    /// gate was opened.
    #[must_use]
    pub(super) fn pass(&self, work: impl FnOnce()) -> bool {
        // While this is held nobody can shut the gate.
        let is_open = self.lock();
        if *is_open {
            work();
        }
        *is_open
    }

    /// Becomes readable when the gate was opened. Only the event loop reads it.
    pub(super) fn opened(&self) -> &EventFd {
        &self.opened
    }

    /// Shuts the gate; nobody is inside any more.
    pub(crate) fn shut(&self) {
        *self.lock() = false;
    }

    pub(crate) fn open(&self) {
        *self.lock() = true;
        // If the counter is full, the loop has already been woken.
        let _ = self.opened.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_the_gate_shut_is_told_when_it_opens() {
        let gate = InputGate::new().unwrap();
        assert!(gate.pass(|| {}));
        gate.shut();
        assert!(!gate.pass(|| panic!("it passed")));
        assert!(gate.opened().read().is_err());
        gate.open();
        assert_eq!(gate.opened().read().unwrap(), 1);
        let mut has_passed = false;
        assert!(gate.pass(|| has_passed = true));
        assert!(has_passed);
    }
}
