// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: page extents. They are the same in every version.

use super::Malformed;

/// A run of physically consecutive folios of one order, encoded in 64 bits: from the
/// most significant bit on, 1 bit for the direction, 5 for the order, 18 for the
/// number of folios minus one, and 40 for the page frame number of the first folio.
///
/// The folios are in file order. The page allocator splits large blocks from either
/// end, so the memory of a file is as often in descending order as in ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) pfn: u64,
    pub(crate) folios: u64,
    pub(crate) order: u32,
    /// Each folio precedes the previous one in physical memory instead of following it.
    pub(crate) down: bool,
}

impl Extent {
    /// Maximum number of folios in one extent.
    pub(crate) const MAX_FOLIOS: u64 = 1 << 18;
    const PFN_BITS: u32 = 40;
    /// Maximum order that KHO preserves.
    const MAX_ORDER: u32 = 30;

    /// Number of 4 KiB pages.
    #[inline]
    pub(crate) fn pages(&self) -> u64 {
        self.folios << self.order
    }

    /// The lowest page frame number.
    #[inline]
    pub(crate) fn lowest_pfn(&self) -> u64 {
        match self.down {
            true => self.pfn.saturating_sub((self.folios - 1) << self.order),
            false => self.pfn,
        }
    }

    #[inline]
    pub(crate) fn encode(&self) -> u64 {
        u64::from(self.down) << 63
            | u64::from(self.order) << 58
            | (self.folios - 1) << Self::PFN_BITS
            | self.pfn
    }

    #[inline]
    pub(crate) fn decode(raw: u64) -> Result<Extent, Malformed> {
        let extent = Extent {
            pfn: raw & ((1 << Self::PFN_BITS) - 1),
            folios: (raw >> Self::PFN_BITS & (Self::MAX_FOLIOS - 1)) + 1,
            order: (raw >> 58) as u32 & 0x1f,
            down: raw >> 63 != 0,
        };
        let aligned =
            extent.order <= Self::MAX_ORDER && extent.pfn & ((1 << extent.order) - 1) == 0;
        if extent.lowest_pfn() == 0 || !aligned {
            return Err(Malformed::Extents);
        }
        Ok(extent)
    }
}
