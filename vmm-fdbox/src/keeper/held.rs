//! A box in a keeper, shared by its threads.

use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::content::{Content, Summary};
use super::lock::lock;
use crate::name::BoxName;
use crate::owner::Owner;

/// A box. While its contents are in use, for example to be sealed, its owner and its summary can be
/// queried all the same.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: BoxName,
    owner: Mutex<Owner>,
    summary: Arc<Mutex<Summary>>,
    content: Mutex<Content>,
}

impl Held {
    pub(super) fn new(name: BoxName, owner: Owner, content: Content) -> Self {
        Self {
            name,
            owner: Mutex::new(owner),
            summary: content.shared_summary(),
            content: Mutex::new(content),
        }
    }

    /// The contents of the box. The first caller restores what the last kernel left.
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        let mut content = lock(&self.content);
        content.arrive();
        content
    }

    pub(super) fn owner(&self) -> Owner {
        *lock(&self.owner)
    }

    pub(super) fn summary(&self) -> Summary {
        *lock(&self.summary)
    }

    /// Changes the owner of an open box. For a sealed box the owner may already be recorded.
    pub(super) fn give(&self, owner: Owner) -> Result<(), Errno> {
        if self.content().is_sealed()? {
            return Err(Errno::BUSY);
        }
        *lock(&self.owner) = owner;
        Ok(())
    }
}
