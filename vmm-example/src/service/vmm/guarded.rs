//! State that one caller at a time may be changing for long, while all others can read it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Guarded<T> {
    /// Serialises the changes. Taken before the state.
    turn: Mutex<()>,
    state: Mutex<T>,
    changed: Condvar,
}

/// The exclusive right to change what the state describes, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(
    #[expect(dead_code, reason = "it is held, not used")] MutexGuard<'a, ()>,
);

impl<T> Guarded<T> {
    /// Waits for the turn, however long another caller takes.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn(self.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state, for a moment. The holder must not wait for anything.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for the state to change.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits as long as `is_so` returns true.
    pub(super) fn wait_while(&self, state: MutexGuard<'_, T>, is_so: impl FnMut(&mut T) -> bool) {
        let waited = self.changed.wait_while(state, is_so);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    #[test]
    fn whoever_looks_does_not_wait_for_a_long_change() {
        let guarded = Arc::new(Guarded::<u32>::default());
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let changing = Arc::clone(&guarded);
        let change = thread::spawn(move || {
            let _turn = changing.turn();
            begun.send(()).unwrap();
            ends.recv().unwrap();
            *changing.lock() = 2;
        });
        begins.recv().unwrap();
        // As a status and a cancel do while a guest is being paused.
        assert_eq!(*guarded.lock(), 0);
        *guarded.lock() = 1;
        assert!(guarded.turn.try_lock().is_err());
        end.send(()).unwrap();
        drop(guarded.turn());
        assert_eq!(*guarded.lock(), 2);
        change.join().unwrap();
    }
}
