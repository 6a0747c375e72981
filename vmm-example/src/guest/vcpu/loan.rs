//! Asking a vCPU's thread for the descriptor that it runs the guest by, for a moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who wants a vCPU's descriptor. Its thread leaves the guest when somebody does, and stays away
/// until nobody does any more.
#[derive(Debug, Default)]
pub(super) struct Loan {
    /// Read without the lock by the thread between two entries into the guest.
    wanted: AtomicUsize,
    lock: Mutex<()>,
    returned: Condvar,
}

impl Loan {
    /// Whether the thread is to leave the guest.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) != 0
    }

    /// Waits until nobody wants the descriptor.
    pub(super) fn wait(&self) {
        let guard = self.returned.wait_while(self.lock(), |()| self.is_wanted());
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the thread stay away until what is returned is dropped. It has to be kicked.
    pub(super) fn ask(&self) -> Asked<'_> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        Asked(self)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Loan::ask`].
#[derive(Debug)]
pub(super) struct Asked<'a>(&'a Loan);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        // Under the lock: a thread that has just looked does not sleep through it.
        let _guard = self.0.lock();
        self.0.wanted.fetch_sub(1, Ordering::SeqCst);
        self.0.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    /// A thread that takes what it shares again and again gives it to whoever asks.
    #[test]
    fn whoever_asks_gets_it_from_a_thread_that_has_it_all_the_time() {
        let shared = Arc::new((Loan::default(), Mutex::new(0u32)));
        let user = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (loan, value) = &*user;
            loop {
                loan.wait();
                let mut value = value.lock().unwrap();
                while !loan.is_wanted() {
                    *value = value.wrapping_add(2);
                }
                if *value % 2 == 1 {
                    return;
                }
            }
        });
        let (loan, value) = &*shared;
        for _ in 0..100 {
            let asked = loan.ask();
            assert_eq!(*value.lock().unwrap() % 2, 0);
            drop(asked);
        }
        let asked = loan.ask();
        *value.lock().unwrap() |= 1;
        drop(asked);
        // It looks whenever somebody asks.
        while !thread.is_finished() {
            drop(loan.ask());
        }
        thread.join().unwrap();
    }
}
