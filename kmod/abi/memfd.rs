// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of memfds: everything that is saved except the pages.
//!
//! Like `mod.rs`, this file only encodes and decodes, and is built on the host by
//! the project's tests. All numbers are little-endian. See docs/handover-abi.md for
//! the tables. A changed layout gets a new compatible string.

use crate::abi::layout::Layout;
use crate::abi::{Malformed, Sink};

/// Compatible string of the current layout.
pub(crate) const MEMFD: &[u8] = b"fdbox,memfd-v2";
/// The previous layout, without flags: the file is open for reading and writing.
pub(crate) const MEMFD_V1: &[u8] = b"fdbox,memfd-v1";

/// The file is open for reading.
pub(crate) const READ: u32 = 1 << 0;
/// The file is open for writing.
pub(crate) const WRITE: u32 = 1 << 1;
/// `O_APPEND`.
pub(crate) const APPEND: u32 = 1 << 2;
/// `O_NONBLOCK`.
pub(crate) const NONBLOCK: u32 = 1 << 3;
const KNOWN: u32 = READ | WRITE | APPEND | NONBLOCK;

/// Maximum length of the name. tmpfs has the same limit.
pub(crate) const NAME_MAX: usize = 255;

crate::abi::layout::layout! {
    /// The first fields of both layouts.
    struct MemfdHead {
        size: u64,
        pos: u64,
        seals: u32,
        /// The lower 12 bits of the mode.
        mode: u32,
        uid: u32,
        gid: u32,
    }
}

/// A memfd without its pages: the head, the flags (not in version 1), the length of the name, and
/// the name without a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memfd<'a> {
    pub(crate) head: MemfdHead,
    /// How the file is opened.
    pub(crate) flags: u32,
    /// The name in `/proc`.
    pub(crate) name: &'a [u8],
}

impl<'a> Memfd<'a> {
    /// Encodes it in the layout [`MEMFD`].
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        self.head.put(out)?;
        self.flags.put(out)?;
        (self.name.len() as u32).put(out)?;
        out.put(self.name)
    }

    /// Decodes the layout that `compatible` stands for.
    pub(crate) fn decode(compatible: &[u8], bytes: &'a [u8]) -> Result<Memfd<'a>, Malformed> {
        Self::take(compatible, bytes).ok_or(Malformed::Fd)
    }

    fn take(compatible: &[u8], mut bytes: &'a [u8]) -> Option<Memfd<'a>> {
        let head = MemfdHead::take(&mut bytes)?;
        let flags = match compatible == MEMFD_V1 {
            true => READ | WRITE,
            false => u32::take(&mut bytes)?,
        };
        let name_len = u32::take(&mut bytes)? as usize;
        let possible = head.size <= i64::MAX as u64
            && flags & !KNOWN == 0
            && name_len <= NAME_MAX
            && name_len == bytes.len();
        possible.then_some(Memfd {
            head,
            flags,
            name: bytes,
        })
    }
}
