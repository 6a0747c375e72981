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
    FileRef,
    InodeLock,
    NodeOwner, //
};
use crate::handover;
use crate::kho;
use crate::kind::{
    Link,
    Reason,
    SealCx,
    SealError,
    TakeCx, //
};
use crate::name::Name;
use crate::record::Record;
use crate::registry;
use kernel::{
    fs::{
        file::{
            flags,
            FileDescriptorReservation, //
        },
        File, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        UniqueArc, //
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
    pub(crate) seal_error: Option<SealError>,
    owner: NodeOwner,
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
            seal_error: None,
            owner,
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
        self.inner.lock().state = State::Sealed { handed_over: false };
    }

    /// FDBOX_GET_FD: the new descriptor's number.
    pub(crate) fn get(&self, name: &Name) -> Result<u32> {
        let mut inner = self.inner.lock();
        inner.open()?;
        let at = inner.find(name.as_bytes()).ok_or(ENOENT)?;
        let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        let number = fd.reserved_fd();

        let mut content = core::mem::replace(&mut inner.entries[at].content, Content::Taken);
        match inner.take(name, &mut content, number) {
            Ok(file) => {
                inner.remove(at);
                drop(inner);
                fd.fd_install(file);
                Ok(number)
            }
            Err(err) => {
                inner.entries[at].content = content;
                Err(err)
            }
        }
    }

    /// FDBOX_SEAL, through the node opened as `node`.
    pub(crate) fn seal(&self, node: &File) -> Result {
        let mut inner = self.inner.lock();
        inner.open()?;
        inner.seal_error = None;
        inner.owner = NodeOwner::of(node);
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
        inner.finish_started()?;
        inner.freeze_all()?;
        if !kho::enabled() {
            return Ok(false);
        }
        let handed_over = inner.write_all().and_then(|()| {
            let added = handover::add(self.id, &self.name, inner.owner, &inner.entries);
            added.map_err(|err| {
                let written = inner.entries.len();
                inner.unwrite(written);
                failure(&Name::empty(), err, None)
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
        inner.state = State::Open;
        Ok(())
    }

    /// Deletes the box, unless it is sealed.
    pub(crate) fn kill(&self) -> Result {
        let mut inner = self.inner.lock();
        inner.open()?;
        inner.state = State::Dead;
        for entry in inner.entries.iter_mut() {
            if let Content::Incoming(incoming) = &mut entry.content {
                incoming.progress.discard(&incoming.record);
            }
        }
        inner.entries.clear();
        inner.links.clear();
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
        handover::add(self.id, &self.name, inner.owner, &inner.entries)?;
        inner.state = State::Sealed { handed_over: true };
        Ok(())
    }
}

impl Inner {
    /// Takes a descriptor out of `content`, which stays usable on error.
    fn take(&mut self, name: &Name, content: &mut Content, fd: u32) -> Result<FileRef> {
        let mut cx = TakeCx {
            entries: &self.entries,
            links: &mut self.links,
            name,
            fd,
        };
        match content {
            Content::Live(live) => live.kind.take(&mut cx, &live.file),
            Content::Incoming(incoming) => {
                let kind = registry::of_compatible(&incoming.compatible)?;
                kind.restore(&mut cx, &incoming.record, &mut incoming.progress)
            }
            Content::Taken => Err(EIO),
        }
    }

    fn remove(&mut self, at: usize) {
        if self.entries.remove(at).is_ok() && self.entries.is_empty() {
            // No file is left that could belong to one of the VMs.
            self.links.clear();
        }
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
            let mut content = core::mem::replace(&mut self.entries[at].content, Content::Taken);
            let live = self.take(&name, &mut content, 0).and_then(|file| {
                let kind = registry::of_file(&file)?;
                Ok(Live {
                    file,
                    kind,
                    record: None,
                })
            });
            self.entries[at].content = match live {
                Ok(live) => Content::Live(live),
                Err(err) => {
                    self.entries[at].content = content;
                    return Err(failure(&name, err, None));
                }
            };
        }
        Ok(())
    }

    /// Calls [`crate::kind::Kind::seal`] of each file.
    fn freeze_all(&mut self) -> Result<(), SealError> {
        for index in 0..self.entries.len() {
            if let Err(failure) = freeze_one(&self.entries, index) {
                self.thaw(index);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Lets each file write its record and registers what the records keep.
    fn write_all(&mut self) -> Result<(), SealError> {
        for index in 0..self.entries.len() {
            if let Err(err) = self.write_one(index) {
                self.unwrite(index);
                return Err(failure(&self.entries[index].name, err, None));
            }
        }
        Ok(())
    }

    /// Lets one file write its record, if it is one of this kernel, and registers what it keeps.
    fn write_one(&mut self, index: usize) -> Result {
        let record = record_of(&self.entries, index)?;
        if let Content::Live(live) = &mut self.entries[index].content {
            // Even if registering fails: it is how the file knows what to take back.
            live.record = record;
        }
        match self.entries[index].record() {
            Some(record) => kho::preserve(record.extents()),
            None => Err(EIO),
        }
    }

    /// The inverse of [`Inner::write_all`] for the first `count` descriptors. What a file did
    /// beside its record it takes back when it is thawed.
    fn unwrite(&mut self, count: usize) {
        for entry in self.entries[..count].iter().rev() {
            if let Some(record) = entry.record() {
                kho::unpreserve(record.extents());
            }
        }
    }

    /// The inverse of [`Inner::freeze_all`] for the first `count` descriptors.
    fn thaw(&mut self, count: usize) {
        for entry in self.entries[..count].iter_mut().rev() {
            if let Content::Live(live) = &mut entry.content {
                let record = live.record.take();
                live.kind.unseal(&live.file, record.as_deref());
            }
        }
    }

    fn undo(&mut self, count: usize, handed_over: bool) {
        if handed_over {
            self.unwrite(count);
        }
        self.thaw(count);
    }
}

fn failure(name: &Name, error: Error, said: Option<(Reason, kernel::str::CString)>) -> SealError {
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

fn freeze_one(entries: &[Entry], index: usize) -> Result<(), SealError> {
    let entry = &entries[index];
    let Content::Live(live) = &entry.content else {
        return Ok(());
    };
    let mut cx = SealCx {
        entries,
        index,
        file: &live.file,
        said: None,
    };
    let sealed = live.kind.seal(&mut cx);
    sealed.map_err(|err| failure(&entry.name, err, cx.said))
}

/// What a file of this kernel writes for the next one; `None` for any other content.
fn record_of(entries: &[Entry], index: usize) -> Result<Option<Arc<Record>>> {
    let Content::Live(live) = &entries[index].content else {
        return Ok(None);
    };
    let cx = SealCx {
        entries,
        index,
        file: &live.file,
        said: None,
    };
    // Allocated first: once the file has written, nothing may get lost.
    let mut record = UniqueArc::new(Record::default(), GFP_KERNEL)?;
    let _locked = InodeLock::new(&live.file);
    live.kind.write(&cx, &mut record)?;
    Ok(Some(record.into()))
}
