// SPDX-License-Identifier: GPL-2.0

//! One named descriptor of a box.
//!
//! An [`Entry`] is immutable and shared with listings. What changes while a task works on the box is in
//! the [`Slot`].

use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::KindRef;
use crate::name::Name;
use kernel::{
    fs::File,
    prelude::*,
    sync::Arc, //
};

/// A descriptor in a box.
pub(crate) struct Entry {
    /// Never reused within a box; the cursor of listings.
    pub(crate) id: u64,
    pub(crate) name: Name,
    pub(crate) content: Content,
}

/// What a descriptor consists of.
pub(crate) enum Content {
    /// An open file of this kernel.
    Live(Live),
    /// What the last kernel saved.
    Incoming(Incoming),
}

/// An open file, and its kind.
pub(crate) struct Live {
    pub(crate) file: FileRef,
    pub(crate) kind: KindRef,
    /// Result of [`crate::kind::Kind::object`].
    pub(crate) object: usize,
    /// Result of [`crate::kind::Kind::belongs_to`].
    pub(crate) belongs_to: usize,
}

impl Live {
    /// `kind` is the kind of `file`.
    pub(crate) fn new(file: FileRef, kind: KindRef) -> Live {
        let object = kind.object(&file);
        let belongs_to = kind.belongs_to(&file);
        Live {
            file,
            kind,
            object,
            belongs_to,
        }
    }

    /// Address of the open file, for comparison.
    pub(crate) fn address(&self) -> usize {
        file::address(&self.file)
    }
}

/// A descriptor of the last kernel that has not been restored yet. Its kind is looked up at each
/// use, because a driver may register it later.
pub(crate) struct Incoming {
    pub(crate) compatible: KVec<u8>,
    pub(crate) record: Arc<Record>,
    /// Whether its kind needs files that are taken out of the box before it.
    pub(crate) waits_for_files: bool,
}

/// The progress of SEAL for a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not sealed by this kernel.
    Open,
    /// Its shape is frozen.
    Frozen,
    /// KHO preserves the memory in its record.
    Kept,
}

/// A descriptor and the state of the work on it. Only the task that works on the box has access.
pub(crate) struct Slot {
    pub(crate) entry: Arc<Entry>,
    pub(crate) stage: Stage,
    /// The record of a file of this kernel, while it is sealed.
    pub(crate) written: Option<Arc<Record>>,
    /// The progress of restoring what the last kernel left.
    pub(crate) progress: Progress,
}

impl Slot {
    /// A slot in its initial state.
    pub(crate) fn new(entry: Arc<Entry>) -> Slot {
        Slot {
            entry,
            stage: Stage::Open,
            written: None,
            progress: Progress::default(),
        }
    }

    /// The record for the next kernel, once it was written.
    pub(crate) fn record(&self) -> Option<&Arc<Record>> {
        match &self.entry.content {
            Content::Live(_) => self.written.as_ref(),
            Content::Incoming(incoming) => Some(&incoming.record),
        }
    }
}

impl core::ops::Deref for Slot {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Entry {
    /// The file, if there is one in this kernel.
    pub(crate) fn live_file(&self) -> Option<&File> {
        match &self.content {
            Content::Live(live) => Some(&live.file),
            Content::Incoming(_) => None,
        }
    }

    /// Whether it is a file that belongs to the object with this address.
    pub(crate) fn belongs_to(&self, object: usize) -> bool {
        matches!(&self.content, Content::Live(live) if live.belongs_to == object)
    }

    /// Compatible string of its kind.
    pub(crate) fn compatible(&self) -> &[u8] {
        match &self.content {
            Content::Live(live) => live.kind.compatible(),
            Content::Incoming(incoming) => &incoming.compatible,
        }
    }

    /// Whether it is a descriptor of the last kernel.
    pub(crate) fn is_incoming(&self) -> bool {
        matches!(self.content, Content::Incoming(_))
    }

    /// Whether it needs files that are taken out of the box before it.
    pub(crate) fn waits_for_files(&self) -> bool {
        matches!(&self.content, Content::Incoming(incoming) if incoming.waits_for_files)
    }

    /// Whether it is a file of this kernel that is sealed after all others of its box.
    pub(crate) fn seals_last(&self) -> bool {
        matches!(&self.content, Content::Live(live) if live.kind.seals_last())
    }

    /// Whether it came from the last kernel with the extents of `record`, and there are any.
    pub(crate) fn shares_extents(&self, record: &Record) -> bool {
        match &self.content {
            Content::Incoming(incoming) => {
                !record.extents().is_empty() && incoming.record.extents() == record.extents()
            }
            Content::Live(_) => false,
        }
    }

    /// Number of bytes of memory that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Live(live) => live.kind.bytes(&live.file),
            Content::Incoming(incoming) => {
                let pages = incoming.record.pages();
                pages.saturating_mul(kernel::page::PAGE_SIZE as u64)
            }
        }
    }
}
