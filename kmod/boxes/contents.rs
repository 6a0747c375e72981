// SPDX-License-Identifier: GPL-2.0

//! The contents of a box.

use crate::boxes::borrowed::Borrowed;
use crate::boxes::entry::{
    Content,
    Entry,
    Incoming,
    Live,
    Slot, //
};
use crate::boxes::slots::{
    IndexNodes,
    Slots, //
};
use crate::file::FileRef;
use crate::kexec::kho;
use crate::kexec::record::Record;
use crate::leaving::Change;
use crate::registry::{
    self,
    Found, //
};
use crate::take_cx::{
    GivenOut,
    Substitute,
    TakeCx, //
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    },
};

/// The descriptors of a box, and the objects that are held for them.
pub(crate) struct Contents {
    pub(crate) slots: Slots,
    pub(crate) substitutes: KVec<Substitute>,
    given_out: KVVec<GivenOut>,
    /// Set until a box of the last kernel is unsealed: otherwise it is carried to the next kernel.
    pub(crate) required: Option<kho::Required>,
    /// In the boat, for a box of the host's.
    pub(crate) borrowed: Option<Borrowed>,
}

/// Replaces a descriptor for which a file was made.
pub(crate) struct Successor {
    pub(crate) file: FileRef,
    /// `None` if the file is the one that is in the box.
    pub(crate) entry: Option<(Arc<Entry>, IndexNodes)>,
}

impl Contents {
    /// Empty contents.
    pub(crate) fn new() -> Contents {
        Contents {
            slots: Slots::new(),
            substitutes: KVec::new(),
            given_out: KVVec::new(),
            required: None,
            borrowed: None,
        }
    }

    /// Takes the descriptor at `at` out.
    pub(crate) fn remove(&mut self, at: usize) {
        let entry = self.slots[at].entry.clone();
        self.slots.remove(at);
        self.forget_owner_of(&entry);
        if self.slots.is_empty() {
            // No file is left that could belong to any of them.
            self.substitutes.clear();
        }
    }

    /// Replaces the descriptor at `at` with the file that was made from it.
    pub(crate) fn replace(&mut self, at: usize, entry: Arc<Entry>, nodes: IndexNodes) {
        let old = self.slots[at].entry.clone();
        self.slots.replace(at, entry, nodes);
        self.forget_owner_of(&old);
    }

    /// Called when `gone` has left the box: the object that it belonged to may have been freed with
    /// it, and its address may be reused.
    fn forget_owner_of(&mut self, gone: &Entry) {
        let Content::Live(live) = &gone.content else {
            return;
        };
        let owner = live.belongs_to;
        if owner == 0 || self.slots.iter().any(|slot| slot.belongs_to(owner)) {
            return;
        }
        for substitute in self.substitutes.iter_mut() {
            if substitute.object == owner && substitute.file.is_none() {
                substitute.object = 0;
            }
        }
    }

    /// Makes the descriptor at `at` an open file that the current task can use. The descriptor is
    /// unchanged until the caller [`replace`](Self::replace)s it. `fd` is the number that the file
    /// will have. `is_away`: the boat uses the memory in the box. Fails with `EAGAIN` for a descriptor
    /// of the last kernel once the reboot has begun.
    pub(crate) fn make_own(&mut self, at: usize, fd: u32, is_away: bool) -> Result<Successor> {
        let old = self.slots[at].entry.clone();
        let _change = match &old.content {
            Content::Live(_) => None,
            Content::Incoming(_) => Some(Change::begin()?),
        };
        // Everything that can fail is done before the file is made.
        let kind = registry::of_compatible(old.compatible())?;
        let name = old.name.try_clone()?;
        let place = UniqueArc::<Entry>::new_uninit(GFP_KERNEL)?;
        let nodes = IndexNodes::new()?;
        if let Some(borrowed) = &mut self.borrowed {
            borrowed.reserve()?;
        }

        let mut progress = core::mem::take(&mut self.slots[at].progress);
        let mut cx = TakeCx {
            slots: &self.slots,
            at,
            substitutes: &mut self.substitutes,
            given_out: &mut self.given_out,
            fd,
            is_away,
        };
        let made = match &old.content {
            Content::Live(live) => kind.take(&mut cx, &live.file),
            Content::Incoming(incoming) => {
                let Incoming {
                    compatible, record, ..
                } = incoming;
                match &self.borrowed {
                    Some(_) => kind.borrow(&mut cx, compatible, record),
                    None => kind.restore(&mut cx, compatible, record, &mut progress),
                }
            }
        };
        self.slots[at].progress = progress;
        let file = made?;
        if old
            .live_file()
            .is_some_and(|there| crate::file::same(there, &file))
        {
            return Ok(Successor { file, entry: None });
        }
        if let Some(borrowed) = &mut self.borrowed {
            borrowed.note(&file);
        }
        let content = Content::Live(Live::new(file.clone(), kind));
        let id = old.id;
        let entry = place.write(Entry { id, name, content });
        Ok(Successor {
            file,
            entry: Some((entry.into(), nodes)),
        })
    }

    /// From now on the boat may write to the memory in the box.
    pub(crate) fn lend_memory(&self) {
        for slot in self.slots.iter() {
            if let Content::Live(live) = &slot.content {
                live.kind.lend(&live.file);
            }
        }
    }

    /// Drops the references to files that were taken out, once nothing in the box depends on them.
    pub(crate) fn forget_given(&mut self) {
        if !self.slots.has_waiting() {
            self.given_out.clear();
        }
    }

    /// A descriptor that depends on files which were taken out and not put back.
    pub(crate) fn lacks_given(&self) -> Option<&Entry> {
        // A duplicate that was put back counts as well.
        let is_back = |given: &GivenOut| {
            let at = self.slots.named(given.name());
            at.is_some_and(|at| given.is_in(&self.slots[at]))
        };
        if self.given_out.iter().all(is_back) {
            return None;
        }
        let waiting = self.slots.iter().find(|slot| slot.waits_for_files())?;
        Some(waiting)
    }

    /// Frees what came from the last kernel. Devices are stopped before memory is freed.
    pub(crate) fn discard(&mut self) {
        if self.borrowed.is_some() {
            // It belongs to the host.
            return;
        }
        for slot in self.slots.iter() {
            if let Some((kind, record)) = incoming_kind(slot) {
                kind.discard(record);
            }
        }
        for at in 0..self.slots.len() {
            let (done, rest) = self.slots.split_at_mut(at + 1);
            let slot: &mut Slot = &mut done[at];
            let Content::Incoming(incoming) = &slot.entry.content else {
                continue;
            };
            let record = &incoming.record;
            // Devices may share page tables; nothing else is shared.
            let waits = slot.entry.waits_for_files();
            if !waits || !rest.iter().any(|other| other.shares_extents(record)) {
                slot.progress.discard(record);
            }
        }
    }
}

/// Kind and record of a descriptor of the last kernel, if its kind is known.
pub(crate) fn incoming_kind(entry: &Entry) -> Option<(Found, &Record)> {
    let Content::Incoming(incoming) = &entry.content else {
        return None;
    };
    let kind = registry::known(&incoming.compatible)?;
    Some((kind, &incoming.record))
}

impl Incoming {
    /// A descriptor that the last kernel saved under this compatible string.
    pub(crate) fn new(compatible: &[u8], record: Record) -> Result<Incoming> {
        let mut copy = KVec::new();
        copy.extend_from_slice(compatible, GFP_KERNEL)?;
        Ok(Incoming {
            compatible: copy,
            record: Arc::new(record, GFP_KERNEL)?,
            waits_for_files: registry::waits_for_files(compatible),
        })
    }
}
