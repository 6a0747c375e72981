//! A box in a keeper's hands, as its threads share it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use crate::coordinator::Owner;
use crate::name::BoxName;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A box. Whose it is can be asked while somebody works on its content, or that is still being restored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: BoxName,
    owner: Mutex<Owner>,
    content: Mutex<Content>,
}

impl Held {
    pub(super) fn new(name: BoxName, owner: Owner, content: Content) -> Self {
        Self {
            name,
            owner: Mutex::new(owner),
            content: Mutex::new(content),
        }
    }

    /// What is in it. Whoever comes first has what the last kernel left restored.
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        let mut content = lock(&self.content);
        content.arrive();
        content
    }

    pub(super) fn owner(&self) -> Owner {
        *lock(&self.owner)
    }

    /// Makes an open box somebody's. A sealed one may have said already whose it is.
    pub(super) fn give(&self, owner: Owner) -> Result<(), Errno> {
        if self.content().is_sealed()? {
            return Err(Errno::BUSY);
        }
        *lock(&self.owner) = owner;
        Ok(())
    }
}
