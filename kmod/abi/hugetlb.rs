// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of memfds of huge pages: the size of the pages, and what is saved of any memfd.
//!
//! Like `mod.rs`, this file only encodes and decodes, and is built on the host by
//! the project's tests. A changed layout gets a new compatible string.

use crate::abi::layout::Layout;
use crate::abi::memfd;
use crate::abi::{Malformed, Sink};

/// Compatible string of the layout.
pub(crate) const HUGETLB: &[u8] = b"fdbox,hugetlb-v1";

/// Huge pages have at least two pages of 4 KiB, and at most what an extent can describe.
const SHIFTS: core::ops::RangeInclusive<u32> = 13..=42;

crate::abi::layout::layout! {
    /// The first fields.
    struct Head {
        /// Base-2 logarithm of the size of a page in bytes.
        page_shift: u32,
        zero: u32,
    }
}

/// A memfd of huge pages, without its pages: the head, and the memfd in its layout
/// [`memfd::MEMFD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hugetlb<'a> {
    pub(crate) page_shift: u32,
    pub(crate) memfd: memfd::Memfd<'a>,
}

impl<'a> Hugetlb<'a> {
    /// Encodes it.
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let head = Head {
            page_shift: self.page_shift,
            zero: 0,
        };
        head.put(out)?;
        self.memfd.put(out)
    }

    /// Decodes it.
    pub(crate) fn decode(mut bytes: &'a [u8]) -> Result<Hugetlb<'a>, Malformed> {
        let head = Head::take(&mut bytes).ok_or(Malformed::Fd)?;
        if !SHIFTS.contains(&head.page_shift) || head.zero != 0 {
            return Err(Malformed::Fd);
        }
        Ok(Hugetlb {
            page_shift: head.page_shift,
            memfd: memfd::Memfd::decode(memfd::MEMFD, bytes)?,
        })
    }
}
