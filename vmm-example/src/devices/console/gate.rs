//! Gates input to the guest. The gate is shut while the guest is saved, because later input would
//! neither be in the state nor be left for the VMM that takes over.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    Shut,
    /// Another process has the guest, and its input.
    Gone,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct InputGate {
    way: Mutex<Way>,
    changed: Condvar,
}

impl InputGate {
    /// Runs `work`, which takes input, once the gate is open; does nothing if the guest is gone.
    pub(super) fn pass(&self, work: impl FnOnce()) {
        let way = self
            .changed
            .wait_while(self.lock(), |way| *way == Way::Shut)
            .unwrap_or_else(PoisonError::into_inner);
        if *way == Way::Open {
            work();
        }
        // Up to here nobody can shut the gate.
        drop(way);
    }

    /// Shuts the gate; nobody is inside any more.
    pub(crate) fn shut(&self) {
        self.set(Way::Shut);
    }

    pub(crate) fn open(&self) {
        self.set(Way::Open);
    }

    /// Shuts the gate for good.
    pub(crate) fn give_up(&self) {
        self.set(Way::Gone);
    }

    fn set(&self, to: Way) {
        *self.lock() = to;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn input_waits_at_the_gate_and_goes_on() {
        let gate = InputGate::default();
        gate.shut();
        let (passed, waits) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| gate.pass(|| passed.send(()).unwrap()));
            assert!(waits.recv_timeout(Duration::from_millis(50)).is_err());
            gate.open();
            assert!(waits.recv_timeout(Duration::from_secs(10)).is_ok());
        });
    }

    #[test]
    fn input_of_a_guest_that_is_gone_is_left_alone() {
        let gate = InputGate::default();
        gate.give_up();
        gate.pass(|| panic!("it passed"));
    }
}
