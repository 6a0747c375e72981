// SPDX-License-Identifier: GPL-2.0

//! One named descriptor of a box.

use crate::abi_dma;
use crate::file::FileRef;
use crate::kind::{
    KindRef,
    TakeCx, //
};
use crate::name::Name;
use crate::record::{
    Progress,
    Record, //
};
use crate::registry;
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
    /// On its way out, while GET_FD has the box locked.
    Taken,
}

/// An open file, its kind, and while it is sealed with KHO what it wrote.
pub(crate) struct Live {
    pub(crate) file: FileRef,
    pub(crate) kind: KindRef,
    pub(crate) record: Option<Arc<Record>>,
}

/// A descriptor that nobody has taken yet. Its kind is looked up when it is taken: it may be
/// registered later.
pub(crate) struct Incoming {
    pub(crate) compatible: KVec<u8>,
    pub(crate) record: Arc<Record>,
    pub(crate) progress: Progress,
}

impl Content {
    /// An open file that is not sealed.
    fn live(file: &FileRef, kind: KindRef) -> Content {
        Content::Live(Live {
            file: file.clone(),
            kind,
            record: None,
        })
    }

    /// Makes it a file that the taker of `cx` can use: restores what the last kernel left, and gives a
    /// VM or memory of another process a successor. Returns what the box holds from then on, and that
    /// file; what it held before, and the error.
    pub(crate) fn made_own(self, cx: &mut TakeCx<'_>) -> (Content, Result<FileRef>) {
        match self {
            Content::Live(live) => match live.kind.take(cx, &live.file) {
                Ok(file) => (Content::live(&file, live.kind), Ok(file)),
                Err(err) => (Content::Live(live), Err(err)),
            },
            Content::Incoming(mut incoming) => {
                let restored = registry::of_compatible(&incoming.compatible).and_then(|kind| {
                    let Incoming {
                        compatible,
                        record,
                        progress,
                    } = &mut incoming;
                    let file = kind.restore(cx, compatible, record, progress)?;
                    Ok((file, kind))
                });
                match restored {
                    Ok((file, kind)) => (Content::live(&file, kind), Ok(file)),
                    Err(err) => (Content::Incoming(incoming), Err(err)),
                }
            }
            Content::Taken => (Content::Taken, Err(EIO)),
        }
    }
}

impl Entry {
    /// The file, if it is one of this kernel.
    pub(crate) fn live_file(&self) -> Option<&File> {
        match &self.content {
            Content::Live(live) => Some(&live.file),
            _ => None,
        }
    }

    /// Compatible string of its kind.
    pub(crate) fn compatible(&self) -> &[u8] {
        match &self.content {
            Content::Live(live) => live.kind.compatible(),
            Content::Incoming(incoming) => &incoming.compatible,
            Content::Taken => b"",
        }
    }

    /// What the next kernel gets, while the box is sealed.
    pub(crate) fn record(&self) -> Option<&Arc<Record>> {
        match &self.content {
            Content::Live(live) => live.record.as_ref(),
            Content::Incoming(incoming) => Some(&incoming.record),
            Content::Taken => None,
        }
    }

    /// Whether it is a descriptor of the last kernel called `name`.
    pub(crate) fn is_incoming(&self, name: &[u8]) -> bool {
        matches!(self.content, Content::Incoming(_)) && self.name.as_bytes() == name
    }

    /// Whether it is to be restored upon files that are taken out of the box before it.
    pub(crate) fn waits_for_files(&self) -> bool {
        let compatible = self.compatible();
        matches!(self.content, Content::Incoming(_))
            && (compatible == abi_dma::IOMMUFD || compatible == abi_dma::VFIO_PCI)
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
            _ => false,
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
            Content::Taken => 0,
        }
    }
}
