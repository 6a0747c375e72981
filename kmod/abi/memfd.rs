// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of memfds: what the kind saves beside the pages.
//!
//! Like `mod.rs`, this file holds no logic but encoding and is built on the host
//! by the project's tests. All numbers are little-endian. docs/handover-abi.md
//! has the tables. A change of the layout is a new compatible string.

use crate::abi::layout::Layout;
use crate::abi::{Malformed, Sink};

/// Compatible string of the layout that is written.
pub(crate) const MEMFD: &[u8] = b"fdbox,memfd-v2";
/// The layout before: without flags, for files that can be read and written.
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

/// Longest name that is kept; tmpfs allows no longer one.
pub(crate) const NAME_MAX: usize = 255;

crate::abi::layout::layout! {
    /// What both layouts begin with.
    struct MemfdHead {
        size: u64,
        pos: u64,
        seals: u32,
        /// The lower 12 bits.
        mode: u32,
        uid: u32,
        gid: u32,
    }
}

/// A memfd without its pages: the head; the flags, but for version 1; the length of the name, and
/// the name without a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memfd<'a> {
    pub(crate) head: MemfdHead,
    /// How the file is open.
    pub(crate) flags: u32,
    /// As `/proc` shows it.
    pub(crate) name: &'a [u8],
}

impl<'a> Memfd<'a> {
    /// Writes it, in the layout [`MEMFD`].
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        self.head.put(out)?;
        self.flags.put(out)?;
        (self.name.len() as u32).put(out)?;
        out.put(self.name)
    }

    /// Reads it, in the layout that `compatible` names.
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
