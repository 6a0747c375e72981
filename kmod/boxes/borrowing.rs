// SPDX-License-Identifier: GPL-2.0

//! Boxes that a host lends to its boat.
//!
//! In the host the box stays sealed: the handover has it, and its memory stays where it is. In the
//! boat a box with the same name is created from the host's handover, whose memory is read where it
//! lies. Its files are mapped before the boat may have the box, so that only the exchange of one word
//! remains for the moment at which the guest moves: UNSEAL in the boat takes the box, SEAL gives it
//! back.

use crate::abi;
use crate::access::NodeAccess;
use crate::boxes::borrowed::Borrowed;
use crate::boxes::box_list;
use crate::boxes::fd_box::{
    FdBox,
    Held,
    State, //
};
use crate::kexec::{
    arrival,
    blob,
    handover,
    kho, //
};
use crate::lending::{
    self,
    Holder,
    Lease, //
};
use crate::name::Name;
use kernel::prelude::*;

/// FDBOX_BORROW: creates a box that the host lends, with the host's name for it.
///
/// Fails with `ENXIO` if this kernel is not a boat's, with `ENOENT` if no such box is lent, with
/// `EAGAIN` if the host's handover has just changed.
pub(crate) fn borrow(name: Name) -> Result {
    let lease = lending::look(&name)?;
    if !matches!(lease.holder(), Holder::Shown | Holder::Offered) {
        return Err(ENOENT);
    }
    let host = lending::root_of_host();
    let (root, copy) = blob::of_host(host)?;
    let body = abi::Body::check(root, copy.bytes(), kho::crc32).map_err(|_| EAGAIN)?;
    if !root.is_known() {
        return Err(EPROTO);
    }
    // What was copied is the handover that has the box only if neither has changed meanwhile.
    if lending::root_of_host() != host || lending::look(&name)? != lease {
        return Err(EAGAIN);
    }
    let found = body.boxes().flatten().find(|it| it.name == name.as_bytes());
    let record = found.ok_or(EAGAIN)?;
    let access = NodeAccess::of_record(&record.access)?;
    box_list::create_with(name, access, |bx| {
        arrival::fill(bx, &body, &record)?;
        let mut held = bx.hold(State::must_be_open)?;
        held.borrowed = Some(Borrowed::new(lease));
        held.state = State::Lent;
        Ok(())
    })
}

impl Held<'_> {
    /// UNSEAL in the boat.
    pub(crate) fn take_from_host(&mut self) -> Result {
        let borrowed = self.borrowed.as_ref().ok_or(EINVAL)?;
        lending::take(&self.bx().name, borrowed.lease())?;
        self.state = State::Open;
        Ok(())
    }

    /// SEAL in the boat: revokes all files, and gives the box back. It is empty and open then.
    pub(crate) fn return_to_host(&mut self) -> Result {
        let borrowed = self.borrowed.take().ok_or(EINVAL)?;
        let lease = borrowed.lease();
        while !self.slots.is_empty() {
            self.remove(0);
        }
        // From here on nothing here can access the memory.
        drop(borrowed);
        lending::give_back(&self.bx().name, lease)
    }
}

impl FdBox {
    /// FDBOX_LEND with FDBOX_LEND_READY, in the boat.
    pub(crate) fn ready(&self) -> Result {
        let held = self.hold(|state| match state {
            State::Lent => Ok(()),
            _ => Err(EINVAL),
        })?;
        let borrowed = held.borrowed.as_ref().ok_or(EINVAL)?;
        lending::ready(&self.name, borrowed.lease())
    }

    /// FDBOX_LEND without an act: the lease.
    pub(crate) fn lease(&self) -> Result<Lease> {
        lending::look(&self.name)
    }

    /// FDBOX_LEND with FDBOX_LEND_SHOW or FDBOX_LEND_OFFER.
    pub(crate) fn lend(&self, lend: impl FnOnce(&Name) -> Result) -> Result {
        let held = self.hold(|state| match state {
            State::Sealed { .. } => Ok(()),
            _ => Err(EINVAL),
        })?;
        if held.state != (State::Sealed { handed_over: true }) {
            // The next kernel would not get it, or it came from the last one and was not unsealed.
            return Err(EOPNOTSUPP);
        }
        // For a boat that was started after the box was sealed.
        handover::tell_boat();
        if lending::look(&self.name)?.holder() == Holder::Host {
            held.lend_memory();
        }
        lend(&self.name)
    }
}
