// SPDX-License-Identifier: GPL-2.0

//! A box: named descriptors, and the state that says whether they may change.
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
//! A task that works on a box takes its [`Contents`] out, as a [`Held`] box, and puts them back when
//! that is dropped. Other tasks wait for that or return `EBUSY`. No lock is held while SEAL runs,
//! however long it takes, and listings work as at any other time.
//!
//! The box's mutex protects what listings show and the place where the contents are kept. It is held
//! for short times only. It nests inside the mutex of the list of boxes; no lock is taken under it.

use crate::access::{
    self,
    Label,
    NodeAccess, //
};
use crate::boxes::contents::Contents;
use crate::boxes::entry::{
    Content,
    Entry, //
};
use crate::file::FileRef;
use crate::name::Name;
use crate::seal_cx::SealError;
use crate::unseal_cx::Lost;
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
    /// Never reused: the cursor of listings, and the box's id in the handover.
    pub(crate) id: u64,
    /// 1 while a task has taken the contents out.
    busy: wait::Count,
    #[pin]
    inner: Mutex<Inner>,
}

/// The state of a box.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// `handed_over`: the handover has the box, and KHO its pages. False without KHO, and for a box
    /// that arrived sealed until the next reboot: see [`FdBox::carry`].
    Sealed {
        handed_over: bool,
    },
    /// In the boat: the host's, as long as it was not taken.
    Lent,
    /// Deleted, but still referenced by open files of its node.
    Dead,
}

impl State {
    /// Check for calls that change the descriptors.
    pub(crate) fn must_be_open(self) -> Result {
        match self {
            State::Open => Ok(()),
            State::Sealed { .. } | State::Lent => Err(EBUSY),
            State::Dead => Err(ENODEV),
        }
    }
}

/// Whether the node has the security label that the box arrived with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labelled {
    /// It has, or the box arrived with none.
    Done,
    /// No LSM labels the node, perhaps because it has no policy yet. The box can be opened: such an LSM
    /// refuses nothing, and checks each ioctl once it has a policy. See docs/uapi.md.
    NotYet,
    /// The LSM does not accept the label.
    Refused,
}

/// What the mutex of a box protects.
struct Inner {
    state: State,
    /// The descriptors, in the order of the contents.
    listed: KVVec<Arc<Entry>>,
    /// `None` while a task has taken them out, and in a dead box.
    contents: Option<Contents>,
    seal_error: Option<SealError>,
    /// What the last UNSEAL or SALVAGE found to be lost and is still in the box, in the order of
    /// the ids.
    lost: KVVec<Lost>,
    access: NodeAccess,
    /// Unless this is `Done`, the label of `access` is not that of the node.
    labelled: Labelled,
}

impl Inner {
    /// Whether it is a box of the host's, and no task works on it.
    fn is_borrowed(&self) -> bool {
        let contents = self.contents.as_ref();
        contents.is_some_and(|contents| contents.borrowed.is_some())
    }

    /// Forgets that the descriptor with this id is lost: it was restored, or left the box.
    fn found_again(&mut self, id: u64) {
        if let Ok(at) = self.lost.binary_search_by_key(&id, |lost| lost.id) {
            // The index is in range.
            let _ = self.lost.remove(at);
        }
    }
}

impl FdBox {
    /// An empty box that is open. Its node is not labelled yet.
    pub(crate) fn new(name: Name, id: u64, access: NodeAccess) -> Result<Arc<FdBox>> {
        let labelled = match access.label {
            None => Labelled::Done,
            Some(_) => Labelled::NotYet,
        };
        let inner = Inner {
            state: State::Open,
            listed: KVVec::new(),
            contents: Some(Contents::new()),
            seal_error: None,
            lost: KVVec::new(),
            access,
            labelled,
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

    /// Stores owner, mode and label of the node, and returns what the next kernel gets: a label that the
    /// node could not be given goes on.
    pub(crate) fn set_access(&self, mut access: NodeAccess) -> NodeAccess {
        let mut inner = self.inner.lock();
        if inner.labelled != Labelled::Done {
            access.label = inner.access.label.clone();
        }
        let old = core::mem::replace(&mut inner.access, access.clone());
        drop(inner);
        drop(old);
        access
    }

    /// The label that the box arrived with, if its node does not have it.
    pub(crate) fn missing_label(&self) -> Option<Arc<Label>> {
        let inner = self.inner.lock();
        match inner.labelled {
            Labelled::Done => None,
            _ => inner.access.label.clone(),
        }
    }

    /// Stores whether the node has that label now.
    pub(crate) fn set_labelled(&self, labelled: Labelled) {
        self.inner.lock().labelled = labelled;
    }

    /// Called when the node is opened. Fails with `EACCES` if the LSM does not accept the label that the
    /// box arrived with: the one that the node has instead may allow more.
    pub(crate) fn may_be_opened(&self) -> Result {
        let mut inner = self.inner.lock();
        if inner.labelled != Labelled::Refused {
            return Ok(());
        }
        if !access::labels_are_ignored() {
            return Err(EACCES);
        }
        inner.labelled = Labelled::Done;
        Ok(())
    }

    /// State and number of descriptors. While SEAL or UNSEAL runs, the state before it.
    pub(crate) fn summary(&self) -> (State, usize) {
        let inner = self.inner.lock();
        (inner.state, inner.listed.len())
    }

    /// The first descriptor with this id or a higher one. Also works while a task works on the box.
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

    /// Takes the contents out, once no other task has them, if `may` accepts the state of the box.
    /// Fails with `EINTR` if the task is killed while it waits, with `ENODEV` if the box was deleted.
    ///
    /// Only a [`Change`](crate::leaving::Change) may take the contents of a sealed box: the reboot
    /// notifier waits for changes, and must then find the contents in place. So the state is checked
    /// first, under the mutex.
    pub(crate) fn hold(&self, may: impl Fn(State) -> Result) -> Result<Held<'_>> {
        loop {
            match self.take_contents(&may)? {
                Some(held) => return Ok(held),
                None => self.busy.wait_for_none_killable()?,
            }
        }
    }

    /// Like [`hold`](Self::hold), but fails with `EBUSY` if another task has the contents.
    pub(crate) fn try_hold(&self, may: impl Fn(State) -> Result) -> Result<Held<'_>> {
        self.take_contents(&may)?.ok_or(EBUSY)
    }

    /// `None` while another task has the contents.
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

    /// Deletes the box, unless it is sealed or a task works on it, and returns what was in it.
    pub(crate) fn kill(&self) -> Result<Contents> {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Lent => {}
            // The host would never get it back.
            State::Open if inner.is_borrowed() => return Err(EBUSY),
            state => state.must_be_open()?,
        }
        let contents = inner.contents.take().ok_or(EBUSY)?;
        inner.state = State::Dead;
        let listed = core::mem::take(&mut inner.listed);
        drop(inner);
        // This may drop the last reference to a file, which takes long if it has a guest's memory.
        drop(listed);
        Ok(contents)
    }
}

/// A box whose contents a task has taken out.
pub(crate) struct Held<'a> {
    bx: &'a FdBox,
    contents: Contents,
    /// The state that the box gets when this is dropped.
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
    /// returns that file. On error the descriptor is unchanged. `fd` is the number that the file will
    /// have.
    pub(crate) fn make_own(&mut self, at: usize, fd: u32) -> Result<FileRef> {
        let is_away = matches!(self.state, State::Sealed { .. });
        let successor = self.contents.make_own(at, fd, is_away)?;
        if let Some((entry, nodes)) = successor.entry {
            let mut inner = self.bx.inner.lock();
            let old = core::mem::replace(&mut inner.listed[at], entry.clone());
            inner.found_again(entry.id);
            drop(inner);
            self.contents.replace(at, entry, nodes);
            drop(old);
        }
        Ok(successor.file)
    }

    /// Owner, mode and label of the node, as the next kernel gets them.
    pub(crate) fn access(&self) -> NodeAccess {
        self.bx.inner.lock().access.clone()
    }

    /// Stores what UNSEAL or SALVAGE found.
    pub(crate) fn set_lost(&mut self, lost: KVVec<Lost>) {
        let old = core::mem::replace(&mut self.bx.inner.lock().lost, lost);
        drop(old);
    }

    /// Stores why SEAL failed, or `None`.
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
