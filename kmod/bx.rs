// SPDX-License-Identifier: GPL-2.0

//! A box: named descriptors, and whether they may be touched.
//!
//! # Lifecycle
//!
//! ```text
//! CREATE_BOX -> open <-- UNSEAL -- sealed <- found in the handover
//!                |  \--- SEAL ----^   |
//!            DELETE_BOX             kexec
//! ```
//!
//! A box that came through a kexec is sealed and its descriptors are [`Content::Incoming`]; GET_FD
//! makes files of them one by one.
//!
//! # Locking
//!
//! All state of a box is behind its one mutex, which SEAL holds for as long as it walks memory:
//! other boxes do not wait. Order: list of boxes, box, then either the list of drivers' kinds or
//! the handover. Callbacks of kinds run under the box's mutex.

use crate::entry::{
    Content,
    Entry,
    Incoming,
    Live, //
};
use crate::file::{
    self,
    BoxFile,
    FileRef,
    NodeOwner, //
};
use crate::handover;
use crate::kho;
use crate::kind::{
    Given,
    Link,
    Reason,
    SealError,
    TakeCx, //
};
use crate::name::Name;
use crate::registry;
use crate::sealing::{
    failure,
    incoming_kind,
    not_handed_over, //
};
use kernel::{
    fs::file::{
        flags,
        FileDescriptorReservation, //
    },
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    },
};

/// A box.
#[pin_data]
pub(crate) struct FdBox {
    pub(crate) name: Name,
    /// Never reused: the cursor of a listing, and what the handover knows the box by.
    pub(crate) id: u64,
    #[pin]
    pub(crate) inner: Mutex<Inner>,
}

/// Where a box stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// `handed_over`: the handover has the box, and KHO its pages. Not so without KHO, and not so
    /// for a box that arrived sealed, until the next reboot: see [`FdBox::carry`].
    Sealed {
        handed_over: bool,
    },
    /// Deleted; only files opened before know it.
    Dead,
}

/// What the mutex of a box protects.
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) entries: KVec<Entry>,
    next_id: u64,
    links: KVec<Link>,
    given: KVec<Given>,
    pub(crate) seal_error: Option<SealError>,
    owner: NodeOwner,
    /// While it is as it arrived: it goes on to the next kernel if nobody unseals it.
    required: Option<kho::Required>,
}

impl Inner {
    /// For what changes the descriptors.
    fn open(&self) -> Result {
        match self.state {
            State::Open => Ok(()),
            State::Sealed { .. } => Err(EBUSY),
            State::Dead => Err(ENODEV),
        }
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.name.as_bytes() == name)
    }

    fn push(&mut self, name: Name, content: Content) -> Result {
        let id = self.next_id;
        self.entries.push(Entry { id, name, content }, GFP_KERNEL)?;
        self.next_id += 1;
        Ok(())
    }
}

impl FdBox {
    /// An empty box that is open.
    pub(crate) fn new(name: Name, id: u64, owner: NodeOwner) -> Result<Arc<FdBox>> {
        let inner = Inner {
            state: State::Open,
            entries: KVec::new(),
            next_id: 1,
            links: KVec::new(),
            given: KVec::new(),
            seal_error: None,
            owner,
            required: None,
        };
        Arc::pin_init(
            pin_init!(FdBox {
                name,
                id,
                inner <- new_mutex!(inner, "FdBox::inner"),
            }),
            GFP_KERNEL,
        )
    }

    /// FDBOX_PUT_FD.
    pub(crate) fn put(&self, name: Name, fd: u32) -> Result {
        let file = file::fget(fd)?;
        let kind = registry::of_file(&file)?;
        let mut inner = self.inner.lock();
        inner.open()?;
        if inner.find(name.as_bytes()).is_some() {
            return Err(EEXIST);
        }
        let live = Live {
            file,
            kind,
            record: None,
        };
        inner.push(name, Content::Live(live))?;
        drop(inner);
        file::close(fd);
        Ok(())
    }

    /// Adds what the last kernel left. Only while the module loads.
    pub(crate) fn put_incoming(&self, name: Name, incoming: Incoming) -> Result {
        let mut inner = self.inner.lock();
        if inner.find(name.as_bytes()).is_some() {
            return Err(EEXIST);
        }
        inner.push(name, Content::Incoming(incoming))
    }

    /// Marks a box from the last kernel as what it was there.
    pub(crate) fn arrived(&self) {
        let mut inner = self.inner.lock();
        inner.state = State::Sealed { handed_over: false };
        inner.required = kho::enabled().then(kho::Required::new).and_then(Result::ok);
    }

    /// FDBOX_GET_FD: the new descriptor's number. With `keep` the box has it, too.
    pub(crate) fn get(&self, name: &Name, keep: bool) -> Result<u32> {
        let mut inner = self.inner.lock();
        inner.open()?;
        let at = inner.find(name.as_bytes()).ok_or(ENOENT)?;
        let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        let file = inner.make_own(at, name, fd.reserved_fd())?;
        // It was reserved so that nothing is restored in vain, and to name a VM.
        drop(fd);
        let given = file::receive(&file)?;
        if !keep {
            inner.remove(at);
        }
        inner.forget_unneeded();
        Ok(given)
    }

    /// FDBOX_SEAL, through the node opened as `node`.
    pub(crate) fn seal(&self, node: &BoxFile<'_>) -> Result {
        // Not under the box's lock: it looks the node up.
        let owner = NodeOwner::of_opened(node);
        let mut inner = self.inner.lock();
        inner.open()?;
        inner.seal_error = None;
        inner.owner = owner.unwrap_or(inner.owner);
        match self.try_seal(&mut inner) {
            Ok(handed_over) => {
                inner.links.clear();
                inner.state = State::Sealed { handed_over };
                Ok(())
            }
            Err(failure) => {
                let err = failure.error;
                inner.seal_error = Some(failure);
                Err(err)
            }
        }
    }

    /// Seals every descriptor, or none; true when the next kernel will get the box.
    fn try_seal(&self, inner: &mut Inner) -> Result<bool, SealError> {
        inner.all_or_none_given()?;
        inner.finish_started()?;
        inner.freeze_all()?;
        if !kho::enabled() {
            return Ok(false);
        }
        let handed_over = inner.write_all().and_then(|()| {
            let added = handover::add(self.id, &self.name, inner.owner, &inner.entries);
            added.map_err(|refusal| {
                let written = inner.entries.len();
                inner.unwrite(written);
                not_handed_over(refusal)
            })
        });
        if let Err(err) = handed_over {
            let frozen = inner.entries.len();
            inner.thaw(frozen);
            return Err(err);
        }
        Ok(true)
    }

    /// FDBOX_UNSEAL.
    pub(crate) fn unseal(&self) -> Result {
        let mut inner = self.inner.lock();
        let handed_over = match inner.state {
            State::Sealed { handed_over } => handed_over,
            State::Open => return Err(EINVAL),
            State::Dead => return Err(ENODEV),
        };
        if handed_over {
            handover::remove(self.id)?;
        }
        let entries = inner.entries.len();
        inner.undo(entries, handed_over);
        inner.required = None;
        inner.state = State::Open;
        Ok(())
    }

    /// Deletes the box, unless it is sealed.
    pub(crate) fn kill(&self) -> Result {
        let mut inner = self.inner.lock();
        inner.open()?;
        inner.state = State::Dead;
        inner.discard();
        inner.entries.clear();
        inner.links.clear();
        inner.given.clear();
        Ok(())
    }

    /// Hands a box on that arrived sealed and that nobody has unsealed: its pages go from the last
    /// kernel to the next one without having been touched in this one. Called when the machine
    /// reboots, so that the usual case, a box that is taken out, does not pay for it.
    pub(crate) fn carry(&self) -> Result {
        let mut inner = self.inner.lock();
        if inner.state != (State::Sealed { handed_over: false }) || !kho::enabled() {
            return Ok(());
        }
        inner.write_all().map_err(|failure| failure.error)?;
        let added = handover::add(self.id, &self.name, inner.owner, &inner.entries);
        added.map_err(|refusal| refusal.error)?;
        inner.state = State::Sealed { handed_over: true };
        Ok(())
    }
}

impl Inner {
    /// Gives up what the last kernel left: devices stop before memory is freed.
    fn discard(&mut self) {
        for entry in self.entries.iter() {
            if let Some((kind, record)) = incoming_kind(entry) {
                kind.discard(record);
            }
        }
        for at in 0..self.entries.len() {
            let (done, rest) = self.entries.split_at_mut(at + 1);
            let Content::Incoming(incoming) = &mut done[at].content else {
                continue;
            };
            let record = &incoming.record;
            if !rest.iter().any(|entry| entry.shares_extents(record)) {
                incoming.progress.discard(record);
            }
        }
    }

    /// Makes the descriptor called `name` an open file of this kernel that the current task can use,
    /// and returns that. On error it is as it was. `fd` is the number that it is going to have.
    fn make_own(&mut self, at: usize, name: &Name, fd: u32) -> Result<FileRef> {
        let content = core::mem::replace(&mut self.entries[at].content, Content::Taken);
        let mut cx = TakeCx {
            entries: &self.entries,
            links: &mut self.links,
            given: &mut self.given,
            name,
            fd,
        };
        let (content, file) = content.made_own(&mut cx);
        self.entries[at].content = content;
        file
    }

    fn remove(&mut self, at: usize) {
        // The index is that of an entry.
        let _ = self.entries.remove(at);
    }

    /// Lets go of what was held for those who are still in the box, once they need it no more.
    fn forget_unneeded(&mut self) {
        if self.entries.is_empty() {
            // No file is left that could belong to one of the VMs.
            self.links.clear();
        }
        if !self.entries.iter().any(Entry::waits_for_files) {
            self.given.clear();
        }
    }

    /// Devices of the last kernel do DMA to memory that was taken out: it is no longer in the box,
    /// so the next kernel would not keep it.
    fn all_or_none_given(&self) -> Result<(), SealError> {
        let Some(entry) = self.entries.iter().find(|entry| entry.waits_for_files()) else {
            return Ok(());
        };
        // A duplicate that was put in again is as good as what was never taken out.
        let is_back = |given: &Given| self.entries.iter().any(|entry| given.is_in(entry));
        if self.given.iter().all(is_back) {
            return Ok(());
        }
        let message = CString::try_from_fmt(fmt!(
            "files that it depends on were taken out of the box; put them in again, or take it out, too"
        ));
        Err(failure(
            &entry.name,
            EOPNOTSUPP,
            message.ok().map(|said| (Reason::UnsupportedState, said)),
        ))
    }

    /// A descriptor whose restore stopped half-way belongs partly to this kernel: finish it, so
    /// that it is sealed as any other file.
    fn finish_started(&mut self) -> Result<(), SealError> {
        for at in 0..self.entries.len() {
            let started = |content: &Content| match content {
                Content::Incoming(incoming) => incoming.progress.started(),
                _ => false,
            };
            if !started(&self.entries[at].content) {
                continue;
            }
            let name = self.entries[at].name.try_clone();
            let name = name.map_err(|err| failure(&Name::empty(), err, None))?;
            self.make_own(at, &name, 0)
                .map_err(|err| failure(&name, err, None))?;
        }
        Ok(())
    }
}
