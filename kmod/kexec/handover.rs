// SPDX-License-Identifier: GPL-2.0

//! What is handed over to the next kernel. (`arrival` handles what came from the last one.)
//!
//! # Concept
//!
//! All sealed boxes are handed over in one blob. Each SEAL and UNSEAL creates a new blob and
//! replaces the old one. KHO accepts only one subtree of a name, so the old one is withdrawn first,
//! and published again on failure. A kexec always finds a complete blob: the reboot notifier runs
//! before the jump, takes the mutex, and lets nothing change after [`settle`].
//!
//! # Locking
//!
//! One mutex, the innermost of the module: only KHO's own lock is taken under it.

use crate::abi;
use crate::access::NodeAccess;
use crate::boxes::entry::Slot;
use crate::kexec::blob::{
    Blob,
    Body, //
};
use crate::kexec::coalesce::coalesced;
use crate::kexec::kho;
use crate::kexec::poison;
use crate::kexec::sealed_box::{
    self,
    SealedBox, //
};
use crate::lending;
use crate::name::Name;
use crate::ratelimit;
use kernel::prelude::*;

/// Everything that is handed over.
struct Outgoing {
    boxes: KVVec<SealedBox>,
    blob: Option<Blob>,
    /// A handover from which no boxes were created, which is passed on.
    foreign: Option<Foreign>,
    refused: bool,
    /// Set at reboot: nothing may change any more.
    settled: bool,
}

/// Why the handover was not changed.
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// For FDBOX_SEAL_ERROR; may be empty.
    pub(crate) why: &'static str,
}

impl Refusal {
    /// The reboot has begun.
    pub(crate) const LEAVING: Refusal = Refusal {
        error: EAGAIN,
        why: "the host is on its way into the next kernel",
    };
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal { error, why: "" }
    }
}

/// A copy of a handover from which no boxes were created. The original stays with KHO, so that the
/// module can be unloaded, and loaded again or replaced; a kernel that ends without it passes nothing
/// on.
struct Foreign {
    root: abi::Root,
    /// `None` once it was passed on.
    body: Option<Body>,
    _required: Option<kho::Required>,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static OUTGOING: Mutex<Outgoing> = Outgoing {
        boxes: KVVec::new(),
        blob: None,
        foreign: None,
        refused: false,
        settled: false,
    };
}

/// Called once, when the module loads.
pub(crate) fn init() {
    // SAFETY: Called once, before any other use.
    unsafe { OUTGOING.init() };
}

/// Frees what is left when the module is unloaded. There are no boxes, because each holds the
/// module.
pub(crate) fn exit() {
    let mut outgoing = OUTGOING.lock();
    outgoing.blob = None;
    outgoing.boxes = KVVec::new();
    if outgoing.foreign.take().is_some() {
        pr_warn!("what the last kernel handed over is lost unless a module that reads it is loaded before the next kexec\n");
    }
}

/// Figures for FDBOX_INFO.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) bytes: u64,
    pub(crate) extents: u64,
    pub(crate) pages: u64,
    pub(crate) refused: bool,
}

/// Figures of what the next kernel would get now.
pub(crate) fn stats() -> Stats {
    let outgoing = OUTGOING.lock();
    let records = || outgoing.boxes.iter().flat_map(|sealed| sealed.fds.iter());
    Stats {
        bytes: outgoing.blob.as_ref().map_or(0, |blob| blob.len() as u64),
        extents: records().map(|fd| fd.record.extents().len() as u64).sum(),
        pages: records()
            .map(|fd| fd.record.pages())
            .fold(0, u64::saturating_add),
        refused: outgoing.refused,
    }
}

/// Adds a box whose records are written and whose pages are registered.
pub(crate) fn add(
    id: u64,
    name: &Name,
    access: NodeAccess,
    slots: &[KBox<Slot>],
) -> Result<(), Refusal> {
    let required = kho::Required::new().map_err(|_| Refusal::LEAVING)?;
    let sealed = SealedBox::new(id, name, access, slots, required)?;
    if sealed.encoded_len().is_none() {
        return Err(Refusal {
            error: EFBIG,
            why: "what the descriptors of the box save beside their pages exceeds 4 GiB; use more boxes",
        });
    }
    let mut outgoing = OUTGOING.lock();
    outgoing.may_change()?;
    if outgoing.foreign.is_some() {
        if ratelimit::may_log() {
            pr_err!("a handover of another version is on its way through this kernel: no box can be handed over beside it\n");
        }
        return Err(Refusal {
            error: EAGAIN,
            why: "a handover of another version is on its way through this kernel, and there is room for one; kexec to the kernel that reads it",
        });
    }
    outgoing
        .boxes
        .push(sealed, GFP_KERNEL)
        .map_err(Error::from)?;
    let published = outgoing.publish();
    if published.is_err() {
        outgoing.boxes.pop();
    }
    Ok(published?)
}

/// Removes a box, before its pages are unregistered.
pub(crate) fn remove(id: u64) -> Result {
    let mut outgoing = OUTGOING.lock();
    outgoing.may_change().map_err(|refusal| refusal.error)?;
    let Some(at) = outgoing.boxes.iter().position(|sealed| sealed.id == id) else {
        return Ok(());
    };
    let sealed = outgoing.boxes.remove(at).map_err(|_| EIO)?;
    let published = outgoing.publish();
    if published.is_err() {
        // The space that removing it has freed.
        let _ = outgoing.boxes.push_within_capacity(sealed);
    }
    published
}

impl Outgoing {
    /// Fails once the handover is settled.
    fn may_change(&self) -> Result<(), Refusal> {
        match self.settled {
            false => Ok(()),
            true => Err(Refusal::LEAVING),
        }
    }

    /// Creates a blob of the current boxes, which replaces the old one.
    fn publish(&mut self) -> Result {
        let mut new = match self.boxes.is_empty() {
            true => None,
            false => Some(sealed_box::encode(&self.boxes)?),
        };
        if let Some(old) = &mut self.blob {
            old.withdraw();
        }
        if let Some(new) = &mut new {
            if let Err(err) = new.publish() {
                self.put_back();
                return Err(err);
            }
        }
        let old = core::mem::replace(&mut self.blob, new);
        self.tell_boat();
        // Only now: the boat may be reading it.
        drop(old);
        Ok(())
    }

    /// Tells the boat where the handover is.
    fn tell_boat(&self) {
        lending::tell_root(self.blob.as_ref().map_or(0, Blob::root_at));
    }

    /// Publishes the old blob again. That needs no more space than before, so it fails only if
    /// another user of KHO has taken the space meanwhile. The next SEAL or UNSEAL creates a new
    /// blob, and the reboot notifier tries once more.
    fn put_back(&mut self) {
        if let Some(Err(err)) = self.blob.as_mut().map(Blob::publish) {
            pr_err!(
                "no room in KHO for the boxes sealed before: {:?}; until there is, a kexec loses them\n",
                err
            );
        }
    }
}

/// Tells the boat where the handover is, if it was not there when that was made.
pub(crate) fn tell_boat() {
    OUTGOING.lock().tell_boat();
}

/// Records that the last kernel left something from which no boxes could be created.
pub(crate) fn mark_refused() {
    OUTGOING.lock().refused = true;
}

/// Passes a handover from which no boxes were created on to the next kernel. Called while the module loads.
pub(crate) fn pass_through(root: abi::Root, body: Body) {
    OUTGOING.lock().foreign = Some(Foreign {
        root,
        body: Some(body),
        _required: kho::Required::new().ok(),
    });
}

/// Updates owners, modes and labels of boxes; `access` is sorted by id.
pub(crate) fn set_access(mut access: KVVec<(u64, NodeAccess)>) -> Result {
    let mut outgoing = OUTGOING.lock();
    let mut changed = false;
    for sealed in outgoing.boxes.iter_mut() {
        if let Ok(at) = access.binary_search_by_key(&sealed.id, |(id, _)| *id) {
            changed |= sealed.access.record() != access[at].1.record();
            core::mem::swap(&mut sealed.access, &mut access[at].1);
        }
    }
    match changed {
        true => outgoing.publish(),
        false => Ok(()),
    }
}

/// Called at reboot, by kexec or not, after the boxes of the last kernel were carried over. Nothing may
/// change after this.
pub(crate) fn settle(kexec: bool) {
    let mut outgoing = OUTGOING.lock();
    outgoing.settled = true;
    outgoing.put_back();
    if kexec && outgoing.blob.is_some() && !kho::can_refuse() {
        pr_warn!("this kernel cannot tell whether the next one gets the boxes: one that kexec_load(2) loaded does not\n");
    }
    let fds = outgoing.boxes.iter().flat_map(|sealed| sealed.fds.iter());
    let extents = fds.flat_map(|fd| fd.record.extents().iter().copied());
    if let Err(err) = poison::hand_on(extents, kho::crc32) {
        pr_err!("the next kernel is not told of broken pages: {:?}\n", err);
    }
    let Some(foreign) = &mut outgoing.foreign else {
        return;
    };
    let (root, Some(body)) = (foreign.root, foreign.body.take()) else {
        return;
    };
    match carry_foreign(root, body) {
        // Never freed: this kernel is about to end.
        Ok(blob) => outgoing.blob = Some(blob),
        Err(err) => pr_err!("handover of another version lost: {:?}\n", err),
    }
}

/// A copy of `count` extents of `body` from number `first` on.
pub(crate) fn copied_extents(body: &abi::Body<'_>, first: u64, count: u64) -> Result<KVVec<u64>> {
    let raw = body.raw_extents(first, count).map_err(|_| EIO)?;
    let mut extents = KVVec::with_capacity(count as usize, GFP_KERNEL)?;
    for raw in raw {
        extents.push_within_capacity(raw)?;
    }
    Ok(extents)
}

fn carry_foreign(root: abi::Root, body: Body) -> Result<Blob> {
    let checked = abi::Body::check(root, body.bytes(), kho::crc32).map_err(|_| EIO)?;
    let all = copied_extents(&checked, 0, root.nr_extents)?;
    // Descriptors may share extents: page tables of devices do.
    kho::pass_on(&coalesced(&all, true)?)?;
    let mut blob = Blob::from_body(body, root)?;
    blob.publish()?;
    Ok(blob)
}
