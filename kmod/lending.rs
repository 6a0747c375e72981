// SPDX-License-Identifier: GPL-2.0

//! Leases of boxes that a host lends to its boat, which `fdbox-boat.ko` keeps in memory that both
//! share. See docs/lifeboat.md.

use crate::ffi;
use crate::kexec::left_boat;
use crate::name::Name;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Who may use a box. The numbers are those of the UAPI and of `boat/abi.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Holder {
    /// The host alone.
    Host = 0,
    /// The host, and the boat may map it.
    Shown = 1,
    /// Whoever takes it first.
    Offered = 2,
    /// The boat.
    Boat = 3,
}

/// The word of a lease.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lease(u64);

impl Lease {
    const HOLDER: u64 = 3;
    const WANTED: u64 = 4;
    const READY: u64 = 8;
    /// `FDBOX_LEASE_LOST`.
    const LOST: u64 = 16;
    const GENERATION: u32 = 8;

    pub(crate) fn holder(self) -> Holder {
        match self.0 & Self::HOLDER {
            0 => Holder::Host,
            1 => Holder::Shown,
            2 => Holder::Offered,
            _ => Holder::Boat,
        }
    }

    /// Whether the host asks the boat to return the box.
    pub(crate) fn is_wanted(self) -> bool {
        self.0 & Self::WANTED != 0
    }

    /// Whether somebody in the boat waits for the box.
    pub(crate) fn is_ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    /// In the host: whether the boat is lost.
    pub(crate) fn is_of_lost_boat(self) -> bool {
        self.0 & Self::LOST != 0
    }

    /// Changes whenever the host may have changed what is in the box.
    pub(crate) fn generation(self) -> u64 {
        self.0 >> Self::GENERATION
    }
}

/// The lease of a box, and the result of an act of this kernel on it.
fn act(name: &Name, what: ffi::LeaseAct, known: Lease) -> (Lease, Result) {
    let name = name.to_array();
    let mut word = known.0;
    // SAFETY: The name has a NUL, `word` is valid for reading and writing.
    let result = unsafe { ffi::fdbox_shim_lease(name.as_ptr().cast(), what, &mut word) };
    (Lease(word), to_result(result))
}

/// The lease; `ENXIO` if there is no boat.
pub(crate) fn look(name: &Name) -> Result<Lease> {
    let (lease, result) = act(name, ffi::LEASE_LOOK, Lease::default());
    result.map(|()| lease)
}

/// In the host: lets the boat map the box, or takes an offer back.
pub(crate) fn show(name: &Name) -> Result {
    act(name, ffi::LEASE_SHOW, Lease::default()).1
}

/// In the host: lets the boat have the box.
pub(crate) fn offer(name: &Name) -> Result {
    act(name, ffi::LEASE_OFFER, Lease::default()).1
}

/// In the host: ends the lease, or fails with `EBUSY` and asks the boat for the box.
pub(crate) fn recall(name: &Name) -> Result {
    act(name, ffi::LEASE_RECALL, Lease::default()).1
}

/// In the host, before the box is opened: ends the lease. Fails with `EBUSY` if the boat has the box,
/// with `EAGAIN` if that cannot be known because `fdbox-boat.ko` is not loaded.
pub(crate) fn keep(name: &Name) -> Result {
    // SAFETY: No precondition.
    if unsafe { !ffi::fdbox_shim_lease_is_known() } && left_boat::is_left() {
        pr_err!(
            "a boat of the last kernel may have box {}: load fdbox-boat.ko first\n",
            name
        );
        return Err(EAGAIN);
    }
    match act(name, ffi::LEASE_KEEP, Lease::default()).1 {
        Err(ENXIO) => Ok(()),
        result => result,
    }
}

/// In the host: whether the boat has the box, or can take it.
pub(crate) fn is_away(name: &Name) -> bool {
    look(name).is_ok_and(|lease| matches!(lease.holder(), Holder::Offered | Holder::Boat))
}

/// In the boat: tells the host that somebody waits for the box. Fails with `ESTALE` unless the lease is
/// still the one that is `known`.
pub(crate) fn ready(name: &Name, known: Lease) -> Result {
    act(name, ffi::LEASE_READY, known).1
}

/// In the boat: takes a box that is offered. Fails with `EAGAIN` if it is only shown, with `ESTALE`
/// unless the lease is still the one that is `known`.
pub(crate) fn take(name: &Name, known: Lease) -> Result {
    act(name, ffi::LEASE_TAKE, known).1
}

/// In the boat: the inverse.
pub(crate) fn give_back(name: &Name, known: Lease) -> Result {
    act(name, ffi::LEASE_RETURN, known).1
}

/// Tells the boat, if there is one, where this host's handover is: the physical address of its root,
/// or 0. Called before the last handover is freed.
pub(crate) fn tell_root(root: u64) {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_lease_tell_root(root) };
}

/// Where the host's handover is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostRoot {
    /// The physical address of its root; 0 if there is none.
    pub(crate) at: u64,
    /// Its number: as long as it is the current one, nothing of it was freed.
    pub(crate) number: u64,
}

/// In the boat: the host's current handover.
pub(crate) fn root_of_host() -> HostRoot {
    let mut number = 0;
    // SAFETY: `number` is valid for writing.
    let at = unsafe { ffi::fdbox_shim_lease_root(&mut number) };
    HostRoot { at, number }
}
