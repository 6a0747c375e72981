// SPDX-License-Identifier: GPL-2.0

//! The trait through which boxes use kinds of files. The contexts that its methods are given have
//! files of their own, one for SEAL, UNSEAL and GET_FD each.

use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::seal_cx::SealCx;
use crate::take_cx::TakeCx;
use crate::unseal_cx::UnsealCx;
use kernel::{
    fs::File,
    prelude::*, //
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

    /// From now on another kernel may write to the memory of `file`, which is sealed, and this one does not see
    /// it: all of it counts as used.
    fn lend(&self, _file: &File) {}

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
