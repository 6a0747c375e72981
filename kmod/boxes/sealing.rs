// SPDX-License-Identifier: GPL-2.0

//! SEAL, and the carry-over of boxes that were not unsealed, at reboot.

use crate::access::NodeAccess;
use crate::boxes::contents::Contents;
use crate::boxes::entry::Content;
use crate::boxes::fd_box::{
    FdBox,
    Held,
    State, //
};
use crate::boxes::freezing::failure;
use crate::file::BoxFile;
use crate::kexec::handover::{
    self,
    Refusal, //
};
use crate::kexec::kho;
use crate::leaving::{
    self,
    Change, //
};
use crate::name::Name;
use crate::seal_cx::{
    Reason,
    SealError, //
};
use kernel::{
    prelude::*,
    str::CString, //
};

impl FdBox {
    /// FDBOX_SEAL, through the node opened as `node`.
    pub(crate) fn seal(&self, node: &BoxFile<'_>) -> Result {
        let mut held = self.hold(State::must_be_open)?;
        if held.borrowed.is_some() {
            return held.return_to_host();
        }
        held.set_seal_error(None);
        match try_seal(&mut held, node) {
            Ok(handed_over) => {
                held.set_lost(KVVec::new());
                held.state = State::Sealed { handed_over };
                Ok(())
            }
            Err(failure) => {
                let err = failure.error;
                held.set_seal_error(Some(failure));
                Err(err)
            }
        }
    }

    /// Adds a box that arrived sealed and was not unsealed to the handover: its pages go from the
    /// last kernel to the next one untouched. Called at reboot, so that the usual case, a box that
    /// is unsealed, costs nothing.
    ///
    /// Fails with `EBUSY` if a change of the box has exceeded the limit.
    pub(crate) fn carry(&self) -> Result {
        const ARRIVED: State = State::Sealed { handed_over: false };
        if self.summary().0 != ARRIVED || !kho::enabled() {
            return Ok(());
        }
        let mut held = self.try_hold(|state| match state {
            ARRIVED => Ok(()),
            _ => Err(EBUSY),
        })?;
        // The notifier itself calls this, so there is no reason to give up.
        let written = held.write_all(|| Ok(()));
        let added = written.map_err(|failure| failure.error).and_then(|()| {
            handover::add(self.id, &self.name, held.access(), &held.slots)
                .map_err(|refusal| refusal.error)
        });
        if let Err(err) = added {
            held.undo();
            return Err(err);
        }
        held.state = State::Sealed { handed_over: true };
        Ok(())
    }
}

/// Seals all descriptors or none; returns whether the next kernel gets the box.
fn try_seal(held: &mut Held<'_>, node: &BoxFile<'_>) -> Result<bool, SealError> {
    // The reboot notifier waits until this SEAL has ended.
    let _change = Change::begin().map_err(stopped)?;
    if let Some(access) = NodeAccess::of_opened(node).map_err(stopped)? {
        held.bx().set_access(access);
    }
    all_or_none_given(held)?;
    finish_started(held)?;
    let sealed = freeze_and_write(held);
    if sealed.is_err() {
        held.undo();
    }
    sealed
}

fn freeze_and_write(held: &mut Held<'_>) -> Result<bool, SealError> {
    held.freeze_all(go_on)?;
    if !kho::enabled() {
        return Ok(false);
    }
    held.write_all(go_on)?;
    let (bx, access) = (held.bx(), held.access());
    handover::add(bx.id, &bx.name, access, &held.slots).map_err(not_handed_over)?;
    Ok(true)
}

/// [`leaving::go_on`] with the error of SEAL.
fn go_on() -> Result<(), SealError> {
    leaving::go_on().map_err(stopped)
}

/// The error of a SEAL that was stopped: no descriptor is named.
fn stopped(error: Error) -> SealError {
    match error {
        EAGAIN => not_handed_over(Refusal::LEAVING),
        _ => failure(&Name::empty(), error, None),
    }
}

/// The error of a SEAL whose box cannot be added to the handover: no descriptor is named.
fn not_handed_over(refusal: Refusal) -> SealError {
    let error = refusal.error;
    let message = match refusal.why {
        "" => None,
        why => CString::try_from_fmt(fmt!("{}", why)).ok(),
    };
    let refusal = message.map(|message| (Reason::of(error), message));
    failure(&Name::empty(), error, refusal)
}

/// Refuses a box in which a device still waits while memory that it does DMA to was taken out: the
/// next kernel would not preserve that memory.
fn all_or_none_given(contents: &Contents) -> Result<(), SealError> {
    let Some(entry) = contents.lacks_given() else {
        return Ok(());
    };
    let message = CString::try_from_fmt(fmt!(
        "files that it depends on were taken out of the box; put them in again, or take it out, too"
    ));
    Err(failure(
        &entry.name,
        EOPNOTSUPP,
        message
            .ok()
            .map(|message| (Reason::UnsupportedState, message)),
    ))
}

/// Finishes restores that stopped half-way: such a descriptor belongs partly to this kernel, and is
/// sealed as a file of it.
fn finish_started(held: &mut Held<'_>) -> Result<(), SealError> {
    for at in 0..held.slots.len() {
        let slot = &held.slots[at];
        if !matches!(slot.content, Content::Incoming(_)) || !slot.progress.started() {
            continue;
        }
        go_on()?;
        if let Err(err) = held.make_own(at, 0) {
            // A restore that stopped half-way has not refused anything.
            let stopped = go_on().err();
            return Err(stopped.unwrap_or_else(|| failure(&held.slots[at].name, err, None)));
        }
    }
    Ok(())
}
