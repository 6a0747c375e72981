//! The gate of all vCPU threads of a guest: open to run, shut to park them.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long to wait for a thread to park before it is kicked again.
const PATIENCE: Duration = Duration::from_millis(10);

/// The order for the vCPU threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum GateState {
    Park = 0,
    Run = 1,
    Quit = 2,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Read without the lock by threads between two entries into the guest.
    state: AtomicU8,
    parked: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// A shut gate.
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(GateState::Park as u8),
            parked: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// The current order.
    pub(crate) fn state(&self) -> GateState {
        match self.state.load(Ordering::SeqCst) {
            0 => GateState::Park,
            1 => GateState::Run,
            _ => GateState::Quit,
        }
    }

    /// Sets the order. Quit is final.
    pub(crate) fn set(&self, state: GateState) {
        let _guard = self.lock();
        if self.state() != GateState::Quit {
            self.state.store(state as u8, Ordering::SeqCst);
        }
        self.changed.notify_all();
    }

    /// Parks the calling vCPU thread until it may run (true) or must quit (false).
    pub(crate) fn park(&self) -> bool {
        let mut parked = self.lock();
        *parked += 1;
        self.changed.notify_all();
        let mut parked = self
            .changed
            .wait_while(parked, |_| self.state() == GateState::Park)
            .unwrap_or_else(PoisonError::into_inner);
        *parked -= 1;
        self.state() == GateState::Run
    }

    /// Waits until `count` threads are parked, and calls `again` whenever it has waited for long: a
    /// thread that was kicked may since be waiting for something else.
    pub(crate) fn wait_parked(&self, count: usize, mut again: impl FnMut()) {
        let mut parked = self.lock();
        while *parked < count {
            let waited = self
                .changed
                .wait_timeout_while(parked, PATIENCE, |parked| *parked < count);
            let (still, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            parked = still;
            if waited.timed_out() {
                again();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_thread_that_does_not_park_is_told_again() {
        let gate = Arc::new(Gate::new());
        let mut signalled = 0;
        let late = gate.clone();
        gate.wait_parked(1, || {
            signalled += 1;
            if signalled == 3 {
                let late = late.clone();
                thread::spawn(move || late.park());
            }
        });
        assert!(signalled >= 3);
        gate.set(GateState::Quit);
    }

    #[test]
    fn threads_park_run_and_quit_as_ordered() {
        let gate = Arc::new(Gate::new());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || {
                    let mut runs = 0;
                    while gate.park() {
                        runs += 1;
                        while gate.state() == GateState::Run {
                            thread::yield_now();
                        }
                    }
                    runs
                })
            })
            .collect();
        gate.wait_parked(3, || {});
        gate.set(GateState::Run);
        gate.set(GateState::Park);
        gate.wait_parked(3, || {});
        gate.set(GateState::Quit);
        gate.set(GateState::Run);
        assert_eq!(gate.state(), GateState::Quit);
        for thread in threads {
            assert!(thread.join().unwrap() <= 1);
        }
    }
}
