//! Locks of a keeper's threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A thread that panicked has left the data as it was before or after its request.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
