// SPDX-License-Identifier: GPL-2.0

//! What the boat remembers of a box that it has borrowed from the host.

use crate::file::FileRef;
use crate::lending::Lease;
use crate::objects::lent;
use kernel::prelude::*;

/// What makes a box one of the host's.
pub(crate) struct Borrowed {
    lease: Lease,
    /// The files that were made of the host's memory.
    files: KVec<FileRef>,
}

impl Borrowed {
    pub(crate) fn new(lease: Lease) -> Borrowed {
        Borrowed {
            lease,
            files: KVec::new(),
        }
    }

    /// The lease under which it was borrowed.
    pub(crate) fn lease(&self) -> Lease {
        self.lease
    }

    /// Room for one more file.
    pub(crate) fn reserve(&mut self) -> Result {
        Ok(self.files.reserve(1, GFP_KERNEL)?)
    }

    /// Has `file` revoked when the box is returned. Room was reserved.
    pub(crate) fn note(&mut self, file: &FileRef) {
        let _ = self.files.push_within_capacity(file.clone());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        for file in self.files.iter() {
            lent::revoke(file);
        }
    }
}
