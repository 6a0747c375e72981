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
//! A box that came through a kexec is sealed and its descriptors are `Content::Incoming`; GET_FD
//! makes files of them one by one.
//!
//! # Locking
//!
//! Whoever works on a box has its [`Contents`] in hands, as a [`Held`] box, and gives them back
//! when that is dropped. Others wait for that, or do not, as they like. SEAL may take as long as it
//! wants: no lock is held meanwhile, and listings see what they always see.
//!
//! The box's mutex covers what listings show and the place of the contents. It is held for moments
//! only. It is taken under the list of boxes, and nothing is taken under it.

use crate::contents::Contents;
use crate::entry::{
    Content,
    Entry, //
};
use crate::file::{
    FileRef,
    NodeOwner, //
};
use crate::kind::{
    Lost,
    SealError, //
};
use crate::name::Name;
use crate::wait;
use kernel::{
    new_mutex,
    prelude::*,
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
    /// 1 while somebody has the contents in hands.
    busy: wait::Count,
    #[pin]
    inner: Mutex<Inner>,
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

impl State {
    /// For what changes the descriptors.
    pub(crate) fn must_be_open(self) -> Result {
        match self {
            State::Open => Ok(()),
            State::Sealed { .. } => Err(EBUSY),
            State::Dead => Err(ENODEV),
        }
    }
}

/// What the mutex of a box protects.
struct Inner {
    state: State,
    /// The descriptors, in the order of the contents.
    listed: KVVec<Arc<Entry>>,
    /// `None` while somebody has them in hands, and of a box that is dead.
    contents: Option<Contents>,
    seal_error: Option<SealError>,
    /// What the last UNSEAL or SALVAGE found and is still there, in the order of the ids.
    lost: KVVec<Lost>,
    owner: NodeOwner,
}

impl Inner {
    /// The descriptor with this id is not lost any more, or not in the box.
    fn found_again(&mut self, id: u64) {
        if let Ok(at) = self.lost.binary_search_by_key(&id, |lost| lost.id) {
            // The index is that of one of them.
            let _ = self.lost.remove(at);
        }
    }
}

impl FdBox {
    /// An empty box that is open.
    pub(crate) fn new(name: Name, id: u64, owner: NodeOwner) -> Result<Arc<FdBox>> {
        let inner = Inner {
            state: State::Open,
            listed: KVVec::new(),
            contents: Some(Contents::new()),
            seal_error: None,
            lost: KVVec::new(),
            owner,
        };
        Arc::pin_init(
            pin_init!(FdBox {
                name,
                id,
                busy: wait::Count::new(),
                inner <- new_mutex!(inner, "FdBox::inner"),
            }),
            GFP_KERNEL,
        )
    }

    /// Notes owner and mode of the node.
    pub(crate) fn set_owner(&self, owner: NodeOwner) {
        self.inner.lock().owner = owner;
    }

    /// State and number of descriptors. While SEAL or UNSEAL runs, it is the state before.
    pub(crate) fn summary(&self) -> (State, usize) {
        let inner = self.inner.lock();
        (inner.state, inner.listed.len())
    }

    /// The first descriptor with this id or a higher one, while somebody works on the box, too.
    pub(crate) fn next(&self, cursor: u64) -> Result<Option<Arc<Entry>>> {
        let inner = self.inner.lock();
        if inner.state == State::Dead {
            return Err(ENODEV);
        }
        let at = inner.listed.partition_point(|entry| entry.id < cursor);
        Ok(inner.listed.get(at).cloned())
    }

    /// Why the last SEAL failed.
    pub(crate) fn with_seal_error<T>(&self, show: impl FnOnce(&SealError) -> T) -> Result<T> {
        let inner = self.inner.lock();
        if inner.state == State::Dead {
            return Err(ENODEV);
        }
        inner.seal_error.as_ref().map(show).ok_or(ENOENT)
    }

    /// Shows the first lost descriptor with this id or a higher one.
    pub(crate) fn with_lost<T>(
        &self,
        cursor: u64,
        show: impl FnOnce(&Lost, &Entry) -> T,
    ) -> Result<T> {
        let inner = self.inner.lock();
        if inner.state == State::Dead {
            return Err(ENODEV);
        }
        let at = inner.lost.partition_point(|lost| lost.id < cursor);
        let lost = inner.lost.get(at).ok_or(ENOENT)?;
        let found = inner
            .listed
            .binary_search_by_key(&lost.id, |entry| entry.id);
        let entry = &inner.listed[found.map_err(|_| ENOENT)?];
        Ok(show(lost, entry))
    }

    /// Takes the contents in hands, once nobody else has them and if `may` agrees to the state in which
    /// the box is then; `EINTR` for a task that is killed while it waits, `ENODEV` of a box that was
    /// deleted.
    ///
    /// Only a [`Change`](crate::leaving::Change) has a sealed box in hands: what `may` does not agree to
    /// does not touch it, not for a moment, so that the reboot notifier finds it.
    pub(crate) fn hold(&self, may: impl Fn(State) -> Result) -> Result<Held<'_>> {
        loop {
            match self.take_contents(&may)? {
                Some(held) => return Ok(held),
                None => self.busy.wait_for_none_killable()?,
            }
        }
    }

    /// The same; `EBUSY` if somebody else has them.
    pub(crate) fn try_hold(&self, may: impl Fn(State) -> Result) -> Result<Held<'_>> {
        self.take_contents(&may)?.ok_or(EBUSY)
    }

    /// `None` while somebody else has them.
    fn take_contents(&self, may: &impl Fn(State) -> Result) -> Result<Option<Held<'_>>> {
        let mut inner = self.inner.lock();
        if inner.state == State::Dead {
            return Err(ENODEV);
        }
        if inner.contents.is_none() {
            return Ok(None);
        }
        may(inner.state)?;
        let Some(contents) = inner.contents.take() else {
            return Ok(None);
        };
        self.busy.enter();
        Ok(Some(Held {
            bx: self,
            state: inner.state,
            contents,
        }))
    }

    /// Deletes the box, unless it is sealed or somebody works on it, and returns what was in it.
    pub(crate) fn kill(&self) -> Result<Contents> {
        let mut inner = self.inner.lock();
        inner.state.must_be_open()?;
        let contents = inner.contents.take().ok_or(EBUSY)?;
        inner.state = State::Dead;
        let listed = core::mem::take(&mut inner.listed);
        drop(inner);
        // A file that is closed now may be the last reference to a guest.
        drop(listed);
        Ok(contents)
    }
}

/// A box in the hands of one task.
pub(crate) struct Held<'a> {
    bx: &'a FdBox,
    contents: Contents,
    /// Where the box stands when it is let go.
    pub(crate) state: State,
}

impl Held<'_> {
    /// The box.
    pub(crate) fn bx(&self) -> &FdBox {
        self.bx
    }

    /// Puts a descriptor in, called `name`.
    pub(crate) fn push(&mut self, name: Name, content: Content) -> Result {
        let admission = self.contents.slots.prepare(name, content)?;
        let entry = admission.entry().clone();
        self.bx.inner.lock().listed.push(entry, GFP_KERNEL)?;
        self.contents.slots.admit(admission);
        Ok(())
    }

    /// Takes the descriptor at `at` out.
    pub(crate) fn remove(&mut self, at: usize) {
        let mut inner = self.bx.inner.lock();
        let entry = inner.listed.remove(at);
        inner.found_again(self.contents.slots[at].id);
        drop(inner);
        self.contents.remove(at);
        drop(entry);
    }

    /// Makes the descriptor at `at` an open file of this kernel that the current task can use, and
    /// returns that. On error it is as it was. `fd` is the number that the file is going to have.
    pub(crate) fn make_own(&mut self, at: usize, fd: u32) -> Result<FileRef> {
        let successor = self.contents.make_own(at, fd)?;
        if let Some((entry, room)) = successor.entry {
            let mut inner = self.bx.inner.lock();
            let old = core::mem::replace(&mut inner.listed[at], entry.clone());
            inner.found_again(entry.id);
            drop(inner);
            self.contents.replace(at, entry, room);
            drop(old);
        }
        Ok(successor.file)
    }

    /// Owner and mode of the node, as the next kernel gets them.
    pub(crate) fn owner(&self) -> NodeOwner {
        self.bx.inner.lock().owner
    }

    /// Notes what UNSEAL or SALVAGE found.
    pub(crate) fn set_lost(&mut self, lost: KVVec<Lost>) {
        let old = core::mem::replace(&mut self.bx.inner.lock().lost, lost);
        drop(old);
    }

    /// Notes how SEAL ended.
    pub(crate) fn set_seal_error(&mut self, error: Option<SealError>) {
        let old = core::mem::replace(&mut self.bx.inner.lock().seal_error, error);
        drop(old);
    }
}

impl core::ops::Deref for Held<'_> {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl core::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.contents
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let contents = core::mem::replace(&mut self.contents, Contents::new());
        let mut inner = self.bx.inner.lock();
        inner.contents = Some(contents);
        inner.state = self.state;
        drop(inner);
        self.bx.busy.leave();
    }
}
