// SPDX-License-Identifier: GPL-2.0

//! What SEAL does to the descriptors of a box, and how it is undone: each freezes and checks what it
//! depends on, then each writes its record, which is registered with KHO.

use crate::bx::Inner;
use crate::entry::{
    Content,
    Entry, //
};
use crate::file::InodeLock;
use crate::handover::Refusal;
use crate::kho;
use crate::kind::{
    KindRef,
    Reason,
    SealCx,
    SealError, //
};
use crate::name::Name;
use crate::record::Record;
use crate::registry;
use core::cell::Cell;
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        Arc,
        UniqueArc, //
    },
};

impl Inner {
    /// Calls [`crate::kind::Kind::seal`] of each file, last of those that ask for it.
    pub(crate) fn freeze_all(&mut self) -> Result<(), SealError> {
        for last in [false, true] {
            for index in 0..self.entries.len() {
                if self.entries[index].seals_last() != last {
                    continue;
                }
                if let Err(failure) = freeze_one(&self.entries, index) {
                    self.thaw_if(|at, entry| (entry.seals_last(), at) < (last, index));
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Lets each file write its record and registers what the records keep.
    pub(crate) fn write_all(&mut self) -> Result<(), SealError> {
        for index in 0..self.entries.len() {
            let mut said = None;
            if let Err(err) = self.write_one(index, &mut said) {
                self.unwrite(index);
                return Err(failure(&self.entries[index].name, err, said));
            }
        }
        Ok(())
    }

    /// Lets one file write its record, if it is one of this kernel, and registers what it keeps.
    /// After an error `said` is what its kind said of it.
    fn write_one(&mut self, index: usize, said: &mut Option<(Reason, CString)>) -> Result {
        let record = record_of(&self.entries, index, said)?;
        if let Content::Live(live) = &mut self.entries[index].content {
            // Even if registering fails: it is how the file knows what to take back.
            live.record = record;
        }
        let entry = &self.entries[index];
        let record = entry.record().ok_or(EIO)?;
        if let Content::Incoming(_) = entry.content {
            // Else the next kernel would be handed what this one has in use, or what is no memory.
            kho::check_kept(record.kept()?)?;
        }
        let kept = record.kept()?;
        kho::preserve(kept)?;
        let carried = match incoming_kind(entry) {
            Some((kind, record)) => kind.carry(record),
            None => Ok(()),
        };
        if carried.is_err() {
            kho::unpreserve(kept);
        }
        carried
    }

    /// The inverse of [`Inner::write_all`] for the first `count` descriptors. What a file did
    /// beside its record it takes back when it is thawed.
    pub(crate) fn unwrite(&mut self, count: usize) {
        for entry in self.entries[..count].iter().rev() {
            if let Some((kind, record)) = incoming_kind(entry) {
                kind.uncarry(record);
            }
            if let Some(Ok(kept)) = entry.record().map(|record| record.kept()) {
                kho::unpreserve(kept);
            }
        }
    }

    /// The inverse of [`Inner::freeze_all`] for the first `count` descriptors.
    pub(crate) fn thaw(&mut self, count: usize) {
        self.thaw_if(|at, _| at < count);
    }

    fn thaw_if(&mut self, is_frozen: impl Fn(usize, &Entry) -> bool) {
        for (at, entry) in self.entries.iter_mut().enumerate().rev() {
            if !is_frozen(at, entry) {
                continue;
            }
            if let Content::Live(live) = &mut entry.content {
                let record = live.record.take();
                live.kind.unseal(&live.file, record.as_deref());
            }
        }
    }

    pub(crate) fn undo(&mut self, count: usize, handed_over: bool) {
        if handed_over {
            self.unwrite(count);
        }
        self.thaw(count);
    }
}

pub(crate) fn failure(name: &Name, error: Error, said: Option<(Reason, CString)>) -> SealError {
    let (reason, message) = match said {
        Some((reason, message)) => (reason, Some(message)),
        None => (Reason::of(error), None),
    };
    let copy = name.try_clone();
    SealError {
        error,
        reason,
        // Without memory for the name the errno has to do.
        name: copy.unwrap_or_else(|_| Name::empty()),
        message,
    }
}

/// For a box that as a whole has no place in the handover: no descriptor is named.
pub(crate) fn not_handed_over(refusal: Refusal) -> SealError {
    let error = refusal.error;
    let message = match refusal.why {
        "" => None,
        why => CString::try_from_fmt(fmt!("{}", why)).ok(),
    };
    let said = message.map(|message| (Reason::of(error), message));
    failure(&Name::empty(), error, said)
}

/// Kind and record of a descriptor of the last kernel, where its kind is known.
pub(crate) fn incoming_kind(entry: &Entry) -> Option<(KindRef, &Record)> {
    let Content::Incoming(incoming) = &entry.content else {
        return None;
    };
    let kind = registry::known(&incoming.compatible)?;
    Some((kind, &incoming.record))
}

fn freeze_one(entries: &[Entry], index: usize) -> Result<(), SealError> {
    let entry = &entries[index];
    let Content::Live(live) = &entry.content else {
        return Ok(());
    };
    let mut cx = SealCx {
        entries,
        index,
        file: &live.file,
        said: Cell::new(None),
    };
    let sealed = live.kind.seal(&mut cx);
    sealed.map_err(|err| failure(&entry.name, err, cx.said.take()))
}

/// What a file of this kernel writes for the next one; `None` for any other content.
fn record_of(
    entries: &[Entry],
    index: usize,
    said: &mut Option<(Reason, CString)>,
) -> Result<Option<Arc<Record>>> {
    let Content::Live(live) = &entries[index].content else {
        return Ok(None);
    };
    let cx = SealCx {
        entries,
        index,
        file: &live.file,
        said: Cell::new(None),
    };
    // Allocated first: once the file has written, nothing may get lost.
    let mut record = UniqueArc::new(Record::default(), GFP_KERNEL)?;
    let _locked = InodeLock::new(&live.file);
    if let Err(err) = live.kind.write(&cx, &mut record) {
        *said = cx.said.take();
        return Err(err);
    }
    record.coalesce();
    Ok(Some(record.into()))
}
