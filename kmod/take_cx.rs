// SPDX-License-Identifier: GPL-2.0

//! The context of a kind at GET_FD, and what a box remembers of files that it has given out.

use crate::boxes::entry::Entry;
use crate::boxes::slots::Slots;
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::name::Name;
use crate::objects::folios::Held;
use kernel::{
    fs::File,
    prelude::*, //
};

/// An object that was given out in place of one of another process or kernel, or the object that it
/// replaced. VMs are such objects: KVM serves one process only.
pub(crate) struct Substitute {
    /// The name of the descriptor in the box.
    pub(crate) name: Name,
    /// Its id. All objects that were given out for one descriptor have the same id.
    pub(crate) line: u64,
    /// Whether the first one with this id came from the last kernel.
    pub(crate) from_last_kernel: bool,
    /// What the kind needs to make another one.
    pub(crate) tag: u64,
    /// Its address, as long as something in the box belongs to it or the file is held, else 0. Only
    /// used for comparison.
    pub(crate) object: usize,
    /// The file, as long as the process that got it is alive; that process gets the same file
    /// again.
    pub(crate) file: Option<FileRef>,
}

/// A restored file that was taken out of a box in which something still depends on it.
pub(crate) struct GivenOut {
    name: Name,
    file: FileRef,
    /// Its folios, if it is memory.
    _held: Option<Held>,
}

impl GivenOut {
    /// Its name in the box.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether `entry` is the same file under the same name.
    pub(crate) fn is_in(&self, entry: &Entry) -> bool {
        let same = |file: &File| file::same(file, &self.file);
        entry.name == self.name && entry.live_file().is_some_and(same)
    }
}

/// The context of a kind at GET_FD.
pub(crate) struct TakeCx<'a> {
    pub(crate) slots: &'a Slots,
    /// The index of the descriptor that is taken out.
    pub(crate) at: usize,
    pub(crate) substitutes: &'a mut KVec<Substitute>,
    pub(crate) given_out: &'a mut KVVec<GivenOut>,
    /// The number that the file will have.
    pub(crate) fd: u32,
    /// Whether the boat uses the memory in the box.
    pub(crate) is_away: bool,
}

impl<'a> TakeCx<'a> {
    /// Name of the descriptor that is taken out.
    pub(crate) fn name(&self) -> &'a Name {
        &self.slots[self.at].name
    }

    /// Its id in the box.
    pub(crate) fn id(&self) -> u64 {
        self.slots[self.at].id
    }

    /// Another descriptor, by its name.
    pub(crate) fn named(&self, name: &[u8]) -> Result<Option<&'a Entry>> {
        // The saved bytes may not be a valid name.
        let name = Name::new(name).map_err(|err| if err == ENOMEM { err } else { EIO })?;
        let at = self.slots.named(&name);
        Ok(at.and_then(|at| self.other(at)))
    }

    /// Another descriptor, by its id.
    pub(crate) fn with_id(&self, id: u64) -> Option<&'a Entry> {
        self.other(self.slots.with_id(id)?)
    }

    /// The first other file whose object has this address: see [`Kind::object`].
    pub(crate) fn of_object(&self, address: usize) -> Option<&'a Entry> {
        self.other(self.slots.of_object(address, self.at)?)
    }

    fn other(&self, at: usize) -> Option<&'a Entry> {
        let slots = self.slots;
        (at != self.at).then(|| &*slots[at].entry)
    }

    /// Whether memory in the box must stay where it is: devices of the last kernel may do DMA to it, or
    /// the boat uses it.
    pub(crate) fn must_stay(&self) -> bool {
        self.is_away || self.slots.waiting(self.at) > 0
    }

    /// Keeps a reference to `file`, which is taken out, as long as that is so, whatever the new owner does
    /// with the file.
    pub(crate) fn remember(&mut self, file: &FileRef, progress: &mut Progress) -> Result {
        if !self.must_stay() {
            return Ok(());
        }
        let name = self.name().try_clone()?;
        self.given_out.reserve(1, GFP_KERNEL)?;
        let given = GivenOut {
            name,
            file: file.clone(),
            _held: progress.held.take(),
        };
        Ok(self.given_out.push(given, GFP_KERNEL)?)
    }

    /// The file called `name` that was restored before; fails with `EAGAIN` if it is still in the box.
    pub(crate) fn restored_file(&self, name: &[u8]) -> Result<&FileRef> {
        let given = self
            .given_out
            .iter()
            .find(|given| given.name.as_bytes() == name);
        match given {
            Some(given) => Ok(&given.file),
            None => match self.named(name)? {
                Some(entry) if entry.is_incoming() => Err(EAGAIN),
                _ => Err(EIO),
            },
        }
    }

    /// Whether another descriptor has the same extents as `record`.
    pub(crate) fn shared_extents(&self, record: &Record) -> bool {
        let mut slots = self.slots.iter().enumerate();
        slots.any(|(at, slot)| at != self.at && slot.shares_extents(record))
    }
}
