// SPDX-License-Identifier: GPL-2.0

//! UNSEAL and SALVAGE.
//!
//! Before a box is opened every descriptor is checked: whether what came from the last kernel can be
//! restored, and whether drivers agree. If one is lost, UNSEAL leaves the box sealed, and SALVAGE opens
//! it anyway. Both store the list for FDBOX_NEXT_LOST.

use crate::boxes::contents::Contents;
use crate::boxes::entry::{
    Content,
    Incoming,
    Slot, //
};
use crate::boxes::fd_box::{
    FdBox,
    State, //
};
use crate::kexec::handover;
use crate::kexec::kho;
use crate::leaving::{
    self,
    Change, //
};
use crate::lending;
use crate::registry;
use crate::unseal_cx::{
    Lost,
    LostReason,
    UnsealCx, //
};
use kernel::{
    prelude::*,
    str::BStr, //
};

impl FdBox {
    /// FDBOX_UNSEAL.
    pub(crate) fn unseal(&self) -> Result {
        self.open_up(|lost| if lost == 0 { Ok(()) } else { Err(ENODATA) })
            .map(drop)
    }

    /// FDBOX_SALVAGE; returns how many descriptors are lost.
    pub(crate) fn salvage(&self) -> Result<usize> {
        self.open_up(|_| Ok(()))
    }

    /// Opens the box if `may` accepts the number of lost descriptors.
    fn open_up(&self, may: impl FnOnce(usize) -> Result) -> Result<usize> {
        // Dropped after `held`: the reboot notifier waits for it, and then needs the contents in place.
        let _change = Change::begin()?;
        let mut held = self.hold(|state| match state {
            State::Sealed { .. } | State::Lent => Ok(()),
            _ => Err(EINVAL),
        })?;
        if held.state == State::Lent {
            return held.take_from_host().map(|()| 0);
        }
        let lost = losses(&held)?;
        let count = lost.len();
        if let Err(err) = may(count) {
            held.set_lost(lost);
            return Err(err);
        }
        // If anything after this fails, the box is sealed and can be lent again.
        lending::keep(&self.name)?;
        if held.state == (State::Sealed { handed_over: true }) {
            handover::remove(self.id)?;
        }
        held.set_lost(lost);
        held.undo();
        held.required = None;
        held.state = State::Open;
        Ok(count)
    }
}

/// All descriptors that cannot be given out, in the order of their ids.
fn losses(contents: &Contents) -> Result<KVVec<Lost>> {
    let mut losses = KVVec::new();
    let has = |name: &[u8]| {
        // A VM that was taken out can still be made again.
        let mut substitutes = contents.substitutes.iter();
        substitutes.any(|vm| vm.from_last_kernel && vm.name.as_bytes() == name)
            || contents.slots.has(name)
    };
    for slot in contents.slots.iter() {
        leaving::go_on()?;
        let mut cx = UnsealCx {
            has: &has,
            refusal: None,
        };
        let Err(error) = check(&mut cx, slot) else {
            continue;
        };
        if error == ENOMEM {
            return Err(ENOMEM);
        }
        let (reason, message) = match cx.refusal {
            Some((reason, message)) => (reason, Some(message)),
            None => (LostReason::Other, None),
        };
        let lost = Lost {
            id: slot.id,
            error,
            reason,
            message,
        };
        losses.push(lost, GFP_KERNEL)?;
    }
    Ok(losses)
}

fn check(cx: &mut UnsealCx<'_>, slot: &Slot) -> Result {
    match &slot.content {
        Content::Live(live) => {
            let asked = live.kind.may_unseal(cx, &live.file);
            asked.map_err(|err| {
                with_message(
                    cx,
                    err,
                    LostReason::Refused,
                    "its driver does not give it back",
                )
            })
        }
        // Its data was read and its memory taken over already.
        Content::Incoming(_) if slot.progress.started() => Ok(()),
        Content::Incoming(incoming) => is_restorable(cx, incoming),
    }
}

/// Whether the descriptor can be restored, as far as this can be determined without restoring it.
fn is_restorable(cx: &mut UnsealCx<'_>, incoming: &Incoming) -> Result {
    let Ok(kind) = registry::restorable(&incoming.compatible) else {
        return Err(unknown_kind(cx, &incoming.compatible));
    };
    let checked = kind.check(cx, &incoming.compatible, &incoming.record);
    checked.map_err(|err| {
        with_message(
            cx,
            err,
            LostReason::Data,
            "what was saved of it cannot be read",
        )
    })?;
    let kept = incoming.record.kept().and_then(kho::check_kept);
    kept.map_err(|err| {
        with_message(
            cx,
            err,
            LostReason::Memory,
            "the last kernel did not keep its memory, or somebody else has it",
        )
    })
}

fn unknown_kind(cx: &mut UnsealCx<'_>, compatible: &[u8]) -> Error {
    let name = BStr::from_bytes(compatible);
    let reason = LostReason::UnknownKind;
    let lack = registry::known(compatible).and_then(|kind| kind.supported().err());
    match lack {
        Some(lack) => cx.lost(
            EOPNOTSUPP,
            reason,
            fmt!("{} is not restored here: it needs {}", name, lack),
        ),
        None => cx.lost(
            EOPNOTSUPP,
            reason,
            fmt!("nothing here restores {}; load the module that does", name),
        ),
    }
}

/// Returns `err`; sets `words` as its message unless `cx` has one.
fn with_message(cx: &mut UnsealCx<'_>, err: Error, reason: LostReason, words: &str) -> Error {
    match (err, &cx.refusal) {
        (ENOMEM, _) | (_, Some(_)) => err,
        _ => cx.lost(err, reason, fmt!("{}", words)),
    }
}
