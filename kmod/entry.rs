// SPDX-License-Identifier: GPL-2.0

//! One named descriptor of a box.
//!
//! An [`Entry`] does not change: listings share it with whoever works on the box. What changes
//! while one works on it is beside it, in the [`Slot`].

use crate::file::{
    self,
    FileRef, //
};
use crate::kind::KindRef;
use crate::name::Name;
use crate::record::{
    Progress,
    Record, //
};
use kernel::{
    fs::File,
    prelude::*,
    sync::Arc, //
};

/// A descriptor in a box.
pub(crate) struct Entry {
    /// Never reused within a box: the cursor of a listing.
    pub(crate) id: u64,
    pub(crate) name: Name,
    pub(crate) content: Content,
}

/// What stands behind the name.
pub(crate) enum Content {
    /// An open file of this kernel.
    Live(Live),
    /// What the last kernel left.
    Incoming(Incoming),
}

/// An open file, and its kind.
pub(crate) struct Live {
    pub(crate) file: FileRef,
    pub(crate) kind: KindRef,
    /// What [`crate::kind::Kind::object`] says.
    pub(crate) object: usize,
    /// What [`crate::kind::Kind::belongs_to`] says.
    pub(crate) belongs_to: usize,
}

impl Live {
    /// `file`, which is of this kind.
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

/// A descriptor that nobody has taken yet. Its kind is looked up when it is taken: it may be
/// registered later.
pub(crate) struct Incoming {
    pub(crate) compatible: KVec<u8>,
    pub(crate) record: Arc<Record>,
    /// Whether its kind restores it upon files that are taken out of the box before it.
    pub(crate) waits_for_files: bool,
}

/// How far SEAL has come with a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// As it was put in, or as it arrived.
    Open,
    /// Its shape is frozen.
    Frozen,
    /// KHO keeps what its record names.
    Kept,
}

/// A place in a box: the descriptor, and what is done to it. Only whoever works on the box has it.
pub(crate) struct Slot {
    pub(crate) entry: Arc<Entry>,
    pub(crate) stage: Stage,
    /// What a file of this kernel wrote for the next one, while it is sealed.
    pub(crate) written: Option<Arc<Record>>,
    /// How far the restore of what the last kernel left has come.
    pub(crate) progress: Progress,
}

impl Slot {
    /// One that nothing was done to.
    pub(crate) fn new(entry: Arc<Entry>) -> Slot {
        Slot {
            entry,
            stage: Stage::Open,
            written: None,
            progress: Progress::default(),
        }
    }

    /// What the next kernel gets, once it was written.
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
    /// The file, if it is one of this kernel.
    pub(crate) fn live_file(&self) -> Option<&File> {
        match &self.content {
            Content::Live(live) => Some(&live.file),
            Content::Incoming(_) => None,
        }
    }

    /// Whether it is a file that belongs to the object of this address.
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

    /// Whether it is to be restored upon files that are taken out of the box before it.
    pub(crate) fn waits_for_files(&self) -> bool {
        matches!(&self.content, Content::Incoming(incoming) if incoming.waits_for_files)
    }

    /// Whether it is a file of this kernel that is sealed after all others of its box.
    pub(crate) fn seals_last(&self) -> bool {
        matches!(&self.content, Content::Live(live) if live.kind.seals_last())
    }

    /// Whether the last kernel left it with the extents of `record`, and it has any.
    pub(crate) fn shares_extents(&self, record: &Record) -> bool {
        match &self.content {
            Content::Incoming(incoming) => {
                !record.extents().is_empty() && incoming.record.extents() == record.extents()
            }
            Content::Live(_) => false,
        }
    }

    /// Bytes of memory it holds.
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
