// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: page extents, which are the same in every version.

use super::Malformed;

/// A run of physically consecutive folios of one order, in eight bytes: from the
/// top, 1 bit of direction, 5 bits of order, 18 bits of their number minus one,
/// 40 bits of the first page frame number.
///
/// Folios are in the order of the file. The page allocator splits large blocks
/// from either end, so a file's memory runs down as often as up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) pfn: u64,
    pub(crate) folios: u64,
    pub(crate) order: u32,
    /// Each folio lies before the last one in physical memory, not behind it.
    pub(crate) down: bool,
}

impl Extent {
    /// The most folios one extent holds.
    pub(crate) const MAX_FOLIOS: u64 = 1 << 18;
    const PFN_BITS: u32 = 40;
    /// KHO keeps nothing larger than this order.
    const MAX_ORDER: u32 = 30;

    /// Pages of 4 KiB in it.
    pub(crate) fn pages(&self) -> u64 {
        self.folios << self.order
    }

    /// The lowest page frame number in it.
    pub(crate) fn lowest_pfn(&self) -> u64 {
        match self.down {
            true => self.pfn.saturating_sub((self.folios - 1) << self.order),
            false => self.pfn,
        }
    }

    pub(crate) fn encode(&self) -> u64 {
        u64::from(self.down) << 63
            | u64::from(self.order) << 58
            | (self.folios - 1) << Self::PFN_BITS
            | self.pfn
    }

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
