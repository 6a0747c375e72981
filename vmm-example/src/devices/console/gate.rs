//! Gates input to the guest. The gate is shut while the guest is saved, because later input would
//! neither be in the state nor be left for the VMM that takes over.
//!
//! Nobody waits at the gate: the event loop comes back when [`opened`](InputGate::opened) says so, and
//! serves everything else meanwhile, above all the end of this VMM.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    Shut,
    /// Another process has the guest, and its input.
    Gone,
}

/// What became of the work of one who wanted to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Passage {
    /// It is done, or nobody's any more.
    Settled,
    /// The gate is shut: try again when it was opened.
    Later,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct InputGate {
    way: Mutex<Way>,
    opened: EventFd,
}

impl InputGate {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            way: Mutex::default(),
            opened: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Runs `work`, which takes input, if the gate is open. If the guest is gone, nothing is done.
    pub(super) fn pass(&self, work: impl FnOnce()) -> Passage {
        let way = self.lock();
        match *way {
            Way::Open => work(),
            Way::Gone => {}
            Way::Shut => return Passage::Later,
        }
        // Up to here nobody can shut the gate.
        drop(way);
        Passage::Settled
    }

    /// Becomes readable when the gate was opened. Only the event loop reads it.
    pub(super) fn opened(&self) -> &EventFd {
        &self.opened
    }

    /// Shuts the gate; nobody is inside any more.
    pub(crate) fn shut(&self) {
        *self.lock() = Way::Shut;
    }

    pub(crate) fn open(&self) {
        *self.lock() = Way::Open;
        // If the counter is full, the loop has already been woken.
        let _ = self.opened.write(1);
    }

    /// Shuts the gate for good.
    pub(crate) fn give_up(&self) {
        *self.lock() = Way::Gone;
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_the_gate_shut_is_told_when_it_opens() {
        let gate = InputGate::new().unwrap();
        assert_eq!(gate.pass(|| {}), Passage::Settled);
        gate.shut();
        assert_eq!(gate.pass(|| panic!("it passed")), Passage::Later);
        assert!(gate.opened().read().is_err());
        gate.open();
        assert_eq!(gate.opened().read().unwrap(), 1);
        let mut has_passed = false;
        assert_eq!(gate.pass(|| has_passed = true), Passage::Settled);
        assert!(has_passed);
    }

    #[test]
    fn input_of_a_guest_that_is_gone_is_left_alone() {
        let gate = InputGate::new().unwrap();
        gate.give_up();
        assert_eq!(gate.pass(|| panic!("it passed")), Passage::Settled);
    }
}
