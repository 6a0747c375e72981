// SPDX-License-Identifier: GPL-2.0

//! The trait through which boxes use kinds of files, and the contexts that its methods are given.

use crate::boxes::entry::Entry;
use crate::boxes::slots::Slots;
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::kho;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::name::Name;
use crate::objects::folios::Held;
use crate::room::{
    self,
    mib, //
};
use crate::uapi;
pub(crate) use crate::unseal_cx::{
    Lost,
    LostReason,
    UnsealCx, //
};
use core::cell::Cell;
use kernel::{
    fs::File,
    prelude::*,
    str::CString, //
};

/// A kind of file that can be in a box. Methods may sleep; no other task works on the box meanwhile.
pub(crate) trait Kind: Send + Sync {
    /// Identifies the layout of what [`Kind::write`] writes.
    fn compatible(&self) -> &[u8];

    /// Whether `file` is of this kind.
    fn matches(&self, file: &File) -> bool;

    /// `Err` names what this kernel lacks to support the kind.
    fn supported(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Number of bytes of memory that `file` holds.
    fn bytes(&self, _file: &File) -> u64 {
        0
    }

    /// Address of the object behind `file`, by which kinds find the files that theirs depend on. It
    /// is constant as long as the file is held, and only used for comparison.
    fn object(&self, file: &File) -> usize {
        file::address(file)
    }

    /// Address of an object of another kind that `file` belongs to and holds a reference to; 0 if
    /// there is none. Only used for comparison.
    fn belongs_to(&self, _file: &File) -> usize {
        0
    }

    /// Whether it is sealed after files of other kinds, because it depends on what they freeze.
    fn seals_last(&self) -> bool {
        false
    }

    /// Whether it needs files that are taken out of the box before it.
    fn waits_for_files(&self) -> bool {
        false
    }

    /// Freezes the shape of the file and checks what it depends on.
    fn seal(&self, cx: &mut SealCx<'_>) -> Result;

    /// Writes what the next kernel needs. Called after [`Kind::seal`], and only with KHO. The rwsem of
    /// the file's inode is held exclusively, unless files share the inode: see
    /// [`crate::file::InodeLock`]. After an error `record` is ignored: the method must undo what it did.
    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result;

    /// The inverse of [`Kind::seal`], and of [`Kind::write`] if it was called.
    fn unseal(&self, file: &File, record: Option<&Record>);

    /// Whether `file`, which is sealed, may be given back. Must not change anything.
    fn may_unseal(&self, _cx: &mut UnsealCx<'_>, _file: &File) -> Result {
        Ok(())
    }

    /// Whether what the last kernel wrote can be restored, judged by its data; the caller checks its
    /// memory. `EIO` without a message means that the data cannot be read.
    fn check(&self, _cx: &mut UnsealCx<'_>, _compatible: &[u8], _record: &Record) -> Result {
        Ok(())
    }

    /// Carries what goes on besides `record`, such as DMA, to the next kernel, for a descriptor of
    /// the last one that was not restored.
    fn carry(&self, _record: &Record) -> Result {
        Ok(())
    }

    /// The inverse of [`Kind::carry`].
    fn uncarry(&self, _record: &Record) {}

    /// Ends what goes on besides `record`, for a descriptor of the last kernel that is discarded.
    /// Called before any memory of the box is freed.
    fn discard(&self, _record: &Record) {}

    /// The file for the task that takes it out, in the kernel in which it was put in.
    fn take(&self, _cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        Ok(file.clone())
    }

    /// Whether [`Kind::restore`] can read the layout of this compatible string: the one that is
    /// written, and older ones.
    fn reads(&self, compatible: &[u8]) -> bool {
        compatible == self.compatible()
    }

    /// Makes a file from what the host wrote, in the boat that has borrowed the box. The memory of
    /// `record` is not part of this kernel's.
    fn borrow(
        &self,
        _cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        _record: &Record,
    ) -> Result<FileRef> {
        Err(EOPNOTSUPP)
    }

    /// Makes a file from what the last kernel wrote in the layout of `compatible`. After an error
    /// it may be called again, with the same `progress`.
    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef>;
}

/// A reference to a kind. A reference to a driver's kind holds the driver's module.
pub(crate) enum KindRef {
    Builtin(&'static dyn Kind),
    Driver(KBox<dyn Kind>),
}

impl core::ops::Deref for KindRef {
    type Target = dyn Kind;

    fn deref(&self) -> &(dyn Kind + 'static) {
        match self {
            KindRef::Builtin(kind) => *kind,
            KindRef::Driver(kind) => &**kind,
        }
    }
}

/// Why a SEAL failed, in addition to the errno.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    Other = uapi::REASON_OTHER,
    MissingDependency = uapi::REASON_MISSING_DEPENDENCY,
    SharedFile = uapi::REASON_SHARED_FILE,
    UnsupportedState = uapi::REASON_UNSUPPORTED_STATE,
    NoMemory = uapi::REASON_NO_MEMORY,
}

impl Reason {
    /// The reason for an errno of a kind that gave no message.
    pub(crate) fn of(err: Error) -> Reason {
        match err {
            ENOMEM => Reason::NoMemory,
            EBUSY => Reason::SharedFile,
            EOPNOTSUPP | EFBIG => Reason::UnsupportedState,
            _ => Reason::Other,
        }
    }
}

/// What FDBOX_SEAL_ERROR returns.
pub(crate) struct SealError {
    pub(crate) error: Error,
    pub(crate) reason: Reason,
    pub(crate) name: Name,
    pub(crate) message: Option<CString>,
}

/// The context of a kind at SEAL.
pub(crate) struct SealCx<'a> {
    pub(crate) slots: &'a Slots,
    pub(crate) substitutes: &'a [Substitute],
    pub(crate) at: usize,
    pub(crate) file: &'a File,
    /// Set by [`SealCx::refuse`].
    pub(crate) said: Cell<Option<(Reason, CString)>>,
}

impl SealCx<'_> {
    /// Name of the first other file in the box that is the open file, or has the object behind it,
    /// with this address: see [`Kind::object`].
    pub(crate) fn name_of(&self, address: usize) -> Option<&'_ Name> {
        let at = self.slots.of_object(address, self.at)?;
        Some(&self.slots[at].name)
    }

    /// Reserves the memory that SEAL needs for the file, or refuses it with the figures. The kind
    /// releases the reservation. `pinned`: whether the file's pages will be pinned.
    pub(crate) fn needs_room(&mut self, pinned: bool) -> Result {
        let Some(short) = room::reserve(self.file, pinned)? else {
            return Ok(());
        };
        Err(self.refuse(
            ENOMEM,
            Reason::NoMemory,
            fmt!(
                "SEAL takes {} MiB for its holes and {} MiB for pages of it that must move, and the host can give {} MiB, {} MiB of it promised to other files; make the files smaller, or free memory",
                mib(short.holes),
                mib(short.moves),
                mib(short.room),
                mib(short.reserved)
            ),
        ))
    }

    /// Refuses a file that is not open for both reading and writing, for a kind whose restored
    /// files always are: nobody must get more access than they put in.
    pub(crate) fn needs_read_and_write(&mut self) -> Result {
        if !kho::enabled() || file::is_read_and_write(self.file) {
            return Ok(());
        }
        Err(self.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!("the file is not open for both reading and writing, and would be in the next kernel; open it with O_RDWR"),
        ))
    }

    /// Refuses the SEAL because page `at` could not be allocated, with `left` pages of the
    /// reservation remaining.
    pub(crate) fn ran_out(&self, at: u64, left: u64) -> Error {
        self.refuse(
            ENOMEM,
            Reason::NoMemory,
            fmt!(
                "no memory for page {}: SEAL takes {} MiB more, and the host can give {} MiB; free memory, or raise the limit of the memory cgroup that SEAL is called in",
                at,
                mib(left),
                mib(room::room())
            ),
        )
    }

    /// Refuses the SEAL because of a poisoned page.
    pub(crate) fn is_poisoned(&self, page: u64) -> Error {
        self.refuse(
            EHWPOISON,
            Reason::UnsupportedState,
            fmt!(
                "the memory of page {} is broken (hwpoison): what was in it is lost; punch a hole there (fallocate) and seal again",
                page
            ),
        )
    }

    /// Refuses the SEAL with a reason and a message.
    pub(crate) fn refuse(
        &self,
        error: Error,
        reason: Reason,
        message: kernel::fmt::Arguments<'_>,
    ) -> Error {
        match CString::try_from_fmt(message) {
            Ok(message) => {
                self.said.set(Some((reason, message)));
                error
            }
            Err(err) => err,
        }
    }
}

/// An object that was given out in place of one of another process or kernel, or the object that it
/// replaced. VMs are such objects: KVM serves one process only.
pub(crate) struct Substitute {
    /// The name of the descriptor in the box.
    pub(crate) name: Name,
    /// Its id. All objects that were given out for one descriptor have the same id.
    pub(crate) line: u64,
    /// Whether the first one with this id came from the last kernel.
    pub(crate) from_last_kernel: bool,
    /// What the kind needs to make another one.
    pub(crate) tag: u64,
    /// Its address, as long as something in the box belongs to it or the file is held, else 0. Only
    /// used for comparison.
    pub(crate) object: usize,
    /// The file, as long as the process that got it is alive; that process gets the same file
    /// again.
    pub(crate) file: Option<FileRef>,
}

/// A restored file that was taken out of a box in which something still depends on it.
pub(crate) struct GivenOut {
    name: Name,
    file: FileRef,
    /// Its folios, if it is memory.
    _held: Option<Held>,
}

impl GivenOut {
    /// Its name in the box.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether `entry` is the same file under the same name.
    pub(crate) fn is_in(&self, entry: &Entry) -> bool {
        let same = |file: &File| file::same(file, &self.file);
        entry.name == self.name && entry.live_file().is_some_and(same)
    }
}

/// The context of a kind at GET_FD.
pub(crate) struct TakeCx<'a> {
    pub(crate) slots: &'a Slots,
    /// The index of the descriptor that is taken out.
    pub(crate) at: usize,
    pub(crate) substitutes: &'a mut KVec<Substitute>,
    pub(crate) given_out: &'a mut KVVec<GivenOut>,
    /// The number that the file will have.
    pub(crate) fd: u32,
}

impl<'a> TakeCx<'a> {
    /// Name of the descriptor that is taken out.
    pub(crate) fn name(&self) -> &'a Name {
        &self.slots[self.at].name
    }

    /// Its id in the box.
    pub(crate) fn id(&self) -> u64 {
        self.slots[self.at].id
    }

    /// Another descriptor, by its name.
    pub(crate) fn named(&self, name: &[u8]) -> Result<Option<&'a Entry>> {
        // The saved bytes may not be a valid name.
        let name = Name::new(name).map_err(|err| if err == ENOMEM { err } else { EIO })?;
        let at = self.slots.named(&name);
        Ok(at.and_then(|at| self.other(at)))
    }

    /// Another descriptor, by its id.
    pub(crate) fn with_id(&self, id: u64) -> Option<&'a Entry> {
        self.other(self.slots.with_id(id)?)
    }

    /// The first other file whose object has this address: see [`Kind::object`].
    pub(crate) fn of_object(&self, address: usize) -> Option<&'a Entry> {
        self.other(self.slots.of_object(address, self.at)?)
    }

    fn other(&self, at: usize) -> Option<&'a Entry> {
        let slots = self.slots;
        (at != self.at).then(|| &*slots[at].entry)
    }

    /// Whether devices of the last kernel may do DMA to the memory in the box.
    pub(crate) fn devices_wait(&self) -> bool {
        self.slots.waiting(self.at) > 0
    }

    /// Keeps a reference to `file`, which is taken out, as long as such devices are in the box: the
    /// memory that they do DMA to must stay, whatever the new owner does with the file.
    pub(crate) fn remember(&mut self, file: &FileRef, progress: &mut Progress) -> Result {
        if !self.devices_wait() {
            return Ok(());
        }
        let name = self.name().try_clone()?;
        self.given_out.reserve(1, GFP_KERNEL)?;
        let given = GivenOut {
            name,
            file: file.clone(),
            _held: progress.held.take(),
        };
        Ok(self.given_out.push(given, GFP_KERNEL)?)
    }

    /// The file called `name` that was restored before; fails with `EAGAIN` if it is still in the box.
    pub(crate) fn restored_file(&self, name: &[u8]) -> Result<&FileRef> {
        let given = self
            .given_out
            .iter()
            .find(|given| given.name.as_bytes() == name);
        match given {
            Some(given) => Ok(&given.file),
            None => match self.named(name)? {
                Some(entry) if entry.is_incoming() => Err(EAGAIN),
                _ => Err(EIO),
            },
        }
    }

    /// Whether another descriptor has the same extents as `record`.
    pub(crate) fn shared_extents(&self, record: &Record) -> bool {
        let mut slots = self.slots.iter().enumerate();
        slots.any(|(at, slot)| at != self.at && slot.shares_extents(record))
    }
}
