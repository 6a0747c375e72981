// SPDX-License-Identifier: GPL-2.0

//! The two steps of SEAL and their inverse. First every file is frozen and checks its dependencies.
//! Then every file writes its record, whose memory is registered with KHO.
//!
//! Files whose kind requests it, such as devices, are sealed after all others and undone before
//! them: a device must not continue DMA into the next kernel if its memory is not preserved.

use crate::boxes::contents::{
    incoming_kind,
    Contents, //
};
use crate::boxes::entry::{
    Content,
    Live,
    Slot,
    Stage, //
};
use crate::file::InodeLock;
use crate::kexec::kho;
use crate::kexec::record::Record;
use crate::name::Name;
use crate::seal_cx::{
    Reason,
    SealCx,
    SealError, //
};
use core::cell::Cell;
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        Arc,
        UniqueArc, //
    },
};

/// Result of a step of SEAL.
type Sealed = Result<(), SealError>;

/// The order in which descriptors are sealed: see the top of this file.
const NOT_LATE_THEN_LATE: [bool; 2] = [false, true];

fn is_late(slot: &Slot) -> bool {
    slot.seals_last() || slot.waits_for_files()
}

impl Contents {
    /// Calls [`crate::kind::Kind::seal`] for each file. `go_on` is called before each. After an error
    /// the caller calls [`undo`](Self::undo).
    pub(crate) fn freeze_all(&mut self, go_on: impl Fn() -> Sealed) -> Sealed {
        self.for_each_in_order(go_on, Stage::Frozen, Contents::freeze_one)
    }

    /// Freezes a file that was made of a descriptor of a sealed box.
    pub(crate) fn freeze_made(&mut self, at: usize) -> Result {
        if self.slots[at].stage == Stage::Open {
            // UNSEAL, while the guest waits, need not look for holes that were filled: there were none.
            let nothing_filled = Arc::new(Record::default(), GFP_KERNEL)?;
            self.freeze_one(at).map_err(|failure| failure.error)?;
            self.slots[at].stage = Stage::Frozen;
            self.slots[at].written = Some(nothing_filled);
        }
        Ok(())
    }

    /// Makes each file write its record, and registers the memory. Otherwise like
    /// [`freeze_all`](Self::freeze_all).
    pub(crate) fn write_all(&mut self, go_on: impl Fn() -> Sealed) -> Sealed {
        self.for_each_in_order(go_on, Stage::Kept, Contents::write_one)
    }

    /// Brings each descriptor to `stage` with `step`, in the order in which they are sealed.
    fn for_each_in_order(
        &mut self,
        go_on: impl Fn() -> Sealed,
        stage: Stage,
        step: impl Fn(&mut Contents, usize) -> Sealed,
    ) -> Sealed {
        for late in NOT_LATE_THEN_LATE {
            for at in 0..self.slots.len() {
                if is_late(&self.slots[at]) == late {
                    go_on()?;
                    // If SEAL is to stop, report that rather than a refusal of the file.
                    step(self, at).map_err(|err| go_on().err().unwrap_or(err))?;
                    self.slots[at].stage = stage;
                }
            }
        }
        Ok(())
    }

    /// The context for the kind of a file.
    fn seal_cx<'a>(&'a self, at: usize, live: &'a Live) -> SealCx<'a> {
        SealCx {
            slots: &self.slots,
            substitutes: &self.substitutes,
            at,
            file: &live.file,
            refusal: Cell::new(None),
        }
    }

    fn freeze_one(&mut self, at: usize) -> Sealed {
        let entry = &self.slots[at].entry;
        let Content::Live(live) = &entry.content else {
            return Ok(());
        };
        let mut cx = self.seal_cx(at, live);
        let sealed = live.kind.seal(&mut cx);
        sealed.map_err(|err| failure(&entry.name, err, cx.refusal.take()))
    }

    /// Makes a file write its record, if it is one of this kernel, and registers the memory.
    fn write_one(&mut self, at: usize) -> Sealed {
        let mut refusal = None;
        let written = self.record_of(at, &mut refusal).and_then(|record| {
            // Stored even if registering fails: undoing needs it.
            self.slots[at].written = record;
            preserve(&self.slots[at])
        });
        written.map_err(|err| failure(&self.slots[at].name, err, refusal))
    }

    /// The record of a file of this kernel; `None` for any other content. After an error, `refusal` is
    /// what the kind reported.
    fn record_of(
        &self,
        at: usize,
        refusal: &mut Option<(Reason, CString)>,
    ) -> Result<Option<Arc<Record>>> {
        let Content::Live(live) = &self.slots[at].content else {
            return Ok(None);
        };
        let cx = self.seal_cx(at, live);
        // Allocated first: what the file has written must not be lost.
        let mut record = UniqueArc::new(Record::default(), GFP_KERNEL)?;
        let _locked = InodeLock::new(&live.file)?;
        if let Err(err) = live.kind.write(&cx, &mut record) {
            *refusal = cx.refusal.take();
            return Err(err);
        }
        record.coalesce();
        Ok(Some(record.into()))
    }

    /// Undoes what [`freeze_all`](Self::freeze_all) and [`write_all`](Self::write_all) have done, in
    /// the reverse order.
    pub(crate) fn undo(&mut self) {
        for late in NOT_LATE_THEN_LATE.into_iter().rev() {
            for slot in self.slots.iter_mut().rev() {
                if is_late(slot) == late {
                    undo_one(slot);
                }
            }
        }
    }
}

fn undo_one(slot: &mut Slot) {
    let stage = core::mem::replace(&mut slot.stage, Stage::Open);
    if stage == Stage::Kept {
        if let Some((kind, record)) = incoming_kind(slot) {
            kind.uncarry(record);
        }
        if let Some(Ok(kept)) = slot.record().map(|record| record.kept()) {
            kho::unpreserve(kept);
        }
    }
    let record = slot.written.take();
    if let (Content::Live(live), true) = (&slot.entry.content, stage != Stage::Open) {
        live.kind.unseal(&live.file, record.as_deref());
    }
}

/// Registers the memory of a record with KHO, and makes the kind carry what goes on besides it.
fn preserve(slot: &Slot) -> Result {
    let kept = slot.record().ok_or(EIO)?.kept()?;
    if let Content::Incoming(_) = slot.content {
        // Otherwise memory that this kernel uses, or that does not exist, could be handed over.
        kho::check_kept(kept)?;
    }
    kho::preserve(kept)?;
    let carried = match incoming_kind(slot) {
        Some((kind, record)) => kind.carry(record),
        None => Ok(()),
    };
    if carried.is_err() {
        kho::unpreserve(kept);
    }
    carried
}

/// Why SEAL failed, at the descriptor called `name`.
pub(crate) fn failure(name: &Name, error: Error, refusal: Option<(Reason, CString)>) -> SealError {
    let (reason, message) = match refusal {
        Some((reason, message)) => (reason, Some(message)),
        None => (Reason::of(error), None),
    };
    let copy = name.try_clone();
    SealError {
        error,
        reason,
        // If there is no memory for the name, only the errno is reported.
        name: copy.unwrap_or_else(|_| Name::empty()),
        message,
    }
}
