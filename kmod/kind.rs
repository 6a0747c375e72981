// SPDX-License-Identifier: GPL-2.0

//! The one trait by which boxes know kinds of files, and what its methods get.

use crate::entry::Entry;
use crate::file::{
    self,
    FileRef, //
};
use crate::kho;
use crate::name::Name;
use crate::objects::folios::Held;
use crate::record::{
    Progress,
    Record, //
};
use crate::room::{
    self,
    mib, //
};
use crate::slots::Slots;
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

/// A kind of file that can be in a box. Methods may sleep; nobody else works on the box meanwhile.
pub(crate) trait Kind: Send + Sync {
    /// Names the layout of what [`Kind::write`] writes.
    fn compatible(&self) -> &[u8];

    /// Whether `file` is of this kind.
    fn matches(&self, file: &File) -> bool;

    /// `Err` names what this kernel lacks to serve the kind.
    fn supported(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Bytes of memory that `file` holds.
    fn bytes(&self, _file: &File) -> u64 {
        0
    }

    /// Address of the object behind `file` that files of other kinds find it by in their box; the
    /// same as long as the file is held. Only compared.
    fn object(&self, file: &File) -> usize {
        file::address(file)
    }

    /// Address of the object of another kind that `file` belongs to and holds; 0 if there is none.
    /// Only compared.
    fn belongs_to(&self, _file: &File) -> usize {
        0
    }

    /// Whether it is sealed after files of other kinds: it looks at what they freeze.
    fn seals_last(&self) -> bool {
        false
    }

    /// Whether it is restored upon files that are taken out of the box before it.
    fn waits_for_files(&self) -> bool {
        false
    }

    /// Freezes the shape of the file and checks what it depends on.
    fn seal(&self, cx: &mut SealCx<'_>) -> Result;

    /// Says what the next kernel needs. Called after [`Kind::seal`], and only with KHO; the rwsem
    /// of the file's inode is held exclusively, unless files share the inode: see
    /// [`crate::file::InodeLock`]. What is in `record` after an error is ignored:
    /// the method takes back itself what it did.
    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result;

    /// The inverse of [`Kind::seal`], and of [`Kind::write`] where it was called.
    fn unseal(&self, file: &File, record: Option<&Record>);

    /// Whether `file`, which is sealed, may be given back. Changes nothing.
    fn may_unseal(&self, _cx: &mut UnsealCx<'_>, _file: &File) -> Result {
        Ok(())
    }

    /// Whether what the last kernel wrote can be restored, as far as its data tells: that of its memory
    /// is found out by whoever calls. `EIO` without a word says that the data cannot be read.
    fn check(&self, _cx: &mut UnsealCx<'_>, _compatible: &[u8], _record: &Record) -> Result {
        Ok(())
    }

    /// Takes what goes on beside `record` to the next kernel, for a descriptor of the last one that
    /// nobody took.
    fn carry(&self, _record: &Record) -> Result {
        Ok(())
    }

    /// The inverse of [`Kind::carry`].
    fn uncarry(&self, _record: &Record) {}

    /// Ends what goes on beside `record`, for a descriptor of the last kernel that nobody takes any
    /// more. Called before any memory of the box is freed.
    fn discard(&self, _record: &Record) {}

    /// The file for whoever takes it out again in the kernel it was put in.
    fn take(&self, _cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        Ok(file.clone())
    }

    /// Whether [`Kind::restore`] reads what was written under this compatible string: beside the
    /// layout that it writes, those before it.
    fn reads(&self, compatible: &[u8]) -> bool {
        compatible == self.compatible()
    }

    /// The file made from what the last kernel wrote, in the layout that `compatible` names. After an
    /// error it is called again at the next attempt, with `progress` as it left it.
    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef>;
}

/// A kind in use. One that comes from a driver is made for the use, and holds the driver's module.
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

/// Why a SEAL failed, beside its errno.
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
    /// What an errno of a kind means when the kind did not say more.
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

/// A SEAL, at one descriptor.
pub(crate) struct SealCx<'a> {
    pub(crate) slots: &'a Slots,
    pub(crate) substitutes: &'a [Substitute],
    pub(crate) at: usize,
    pub(crate) file: &'a File,
    /// Set by [`SealCx::refuse`].
    pub(crate) said: Cell<Option<(Reason, CString)>>,
}

impl SealCx<'_> {
    /// Name of the first other file in the box that is the open file, or has the object behind it, of
    /// this address: see [`Kind::object`].
    pub(crate) fn name_of(&self, address: usize) -> Option<&'_ Name> {
        let at = self.slots.of_object(address, self.at)?;
        Some(&self.slots[at].name)
    }

    /// Promises the file the memory that SEAL takes for it, which the kind releases when it has it; or
    /// refuses it with the figures. `pinned`: its pages will be.
    pub(crate) fn needs_room(&mut self, pinned: bool) -> Result {
        let Some(short) = room::promise(self.file, pinned)? else {
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
                mib(short.promised)
            ),
        ))
    }

    /// Refuses a file that cannot be both read and written, for a kind whose files always can when
    /// they are restored: nobody gets more out of a box than was put in.
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

    /// Refuses the SEAL for want of memory in the midst of it: `left` pages of what the file was promised
    /// were still to come, when page `at` could not be had.
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

    /// Refuses the SEAL for a page whose memory is broken.
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

    /// Refuses the SEAL and says why.
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

/// An object that a box gave out in place of one that another process or kernel made, or one that it
/// gave another one out for. A VM is such an object: KVM serves it to one process only.
pub(crate) struct Substitute {
    /// The name of the descriptor in the box.
    pub(crate) name: Name,
    /// Its id: whoever takes it out and leaves it there gets one that takes the place of the one
    /// before, under the same id.
    pub(crate) line: u64,
    /// The first of the line was one of the last kernel.
    pub(crate) from_last_kernel: bool,
    /// What the kind makes another one by.
    pub(crate) tag: u64,
    /// Its address, as long as something in the box belongs to it, or the file is held. Only compared.
    pub(crate) object: usize,
    /// The file, as long as the process that it was given to lives: it gets the same one again.
    pub(crate) file: Option<FileRef>,
}

/// A file that was restored and taken out of a box in which something still depends on it.
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

    /// Whether `entry` is the same file, under its name.
    pub(crate) fn is_in(&self, entry: &Entry) -> bool {
        let same = |file: &File| file::same(file, &self.file);
        entry.name == self.name && entry.live_file().is_some_and(same)
    }
}

/// A GET_FD.
pub(crate) struct TakeCx<'a> {
    pub(crate) slots: &'a Slots,
    /// Where the one is that is being taken.
    pub(crate) at: usize,
    pub(crate) substitutes: &'a mut KVec<Substitute>,
    pub(crate) given_out: &'a mut KVVec<GivenOut>,
    /// The number that the descriptor will have.
    pub(crate) fd: u32,
}

impl<'a> TakeCx<'a> {
    /// Name of the one that is being taken.
    pub(crate) fn name(&self) -> &'a Name {
        &self.slots[self.at].name
    }

    /// Its id in the box.
    pub(crate) fn id(&self) -> u64 {
        self.slots[self.at].id
    }

    /// Another descriptor, by its name.
    pub(crate) fn named(&self, name: &[u8]) -> Result<Option<&'a Entry>> {
        // What was saved may be no name.
        let name = Name::new(name).map_err(|err| if err == ENOMEM { err } else { EIO })?;
        let at = self.slots.named(&name);
        Ok(at.and_then(|at| self.other(at)))
    }

    /// Another descriptor, by its id.
    pub(crate) fn with_id(&self, id: u64) -> Option<&'a Entry> {
        self.other(self.slots.with_id(id)?)
    }

    /// The first other file that has the object of this address behind it: see [`Kind::object`].
    pub(crate) fn of_object(&self, address: usize) -> Option<&'a Entry> {
        self.other(self.slots.of_object(address, self.at)?)
    }

    fn other(&self, at: usize) -> Option<&'a Entry> {
        let slots = self.slots;
        (at != self.at).then(|| &*slots[at].entry)
    }

    /// Whether devices of the last kernel go on with DMA to what is in the box.
    pub(crate) fn devices_wait(&self) -> bool {
        self.slots.waiting(self.at) > 0
    }

    /// Lets the box hold `file`, which is being taken out, as long as devices are in it: what they
    /// do DMA to must stay, whatever its taker does.
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

    /// The file called `name` that was restored before; `EAGAIN` when it is still in the box.
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
