//! Borrowing a vCPU's descriptor from its thread for a moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Requests for a vCPU's descriptor. Its thread leaves the guest when there is one, and stays out
/// until there is none.
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

    /// Waits until there are no requests.
    pub(super) fn wait(&self) {
        let guard = self.returned.wait_while(self.lock(), |()| self.is_wanted());
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes the thread stay out of the guest until the returned value is dropped. It has to be
    /// kicked.
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
        // Under the lock, so that a thread that has just checked does not miss it and sleep.
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

    /// A thread that locks the shared value over and over gives it to whoever asks.
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
        // It checks whenever somebody asks.
        while !thread.is_finished() {
            drop(loan.ask());
        }
        thread.join().unwrap();
    }
}
