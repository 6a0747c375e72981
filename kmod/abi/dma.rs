// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of passthrough: the data of the kinds iommufd and VFIO PCI.
//!
//! Like `mod.rs`, this file only encodes and decodes, and is built on the host by
//! the project's tests. All numbers are little-endian. See docs/handover-abi.md for
//! the tables. A changed layout gets a new compatible string.

use crate::abi::layout::Layout;
use crate::abi::{self, Malformed, Sink};

/// Compatible string of iommufd.
pub(crate) const IOMMUFD: &[u8] = b"fdbox,iommufd-v1";
/// Compatible string of the current layout of a VFIO PCI device.
pub(crate) const VFIO_PCI: &[u8] = b"fdbox,vfio-pci-v2";
/// The previous layout, without registers.
pub(crate) const VFIO_PCI_V1: &[u8] = b"fdbox,vfio-pci-v1";

/// The device may read.
pub(crate) const PROT_READ: u32 = 1 << 0;
/// The device may write.
pub(crate) const PROT_WRITE: u32 = 1 << 1;

const ITEM_IOAS: u32 = 1;
const ITEM_MAPPING: u32 = 2;
/// The HWPT was created by attaching a device to the IOAS, and is destroyed with its last device.
const DEVICE_AUTO_DOMAIN: u32 = 1 << 0;

/// An object or a mapping of an iommufd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// An IOAS. Its mappings follow.
    Ioas(u32),
    Mapping(Mapping<'a>),
}

abi::layout::layout! {
    /// The first fields of each item, and the only ones of an IOAS.
    struct ItemHead {
        /// `ITEM_*`.
        kind: u32,
        ioas: u32,
    }
}

abi::layout::layout! {
    /// The other fields of a mapping. They are followed by the name of the file in the box, padded
    /// with NULs to a multiple of 8.
    struct MappingHead {
        iova: u64,
        length: u64,
        /// Offset in the file.
        start: u64,
        /// `PROT_*`.
        prot: u32,
        name_len: u32,
    }
}

/// A mapping of a file in the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping<'a> {
    pub(crate) ioas: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
    pub(crate) start: u64,
    pub(crate) prot: u32,
    pub(crate) file: &'a [u8],
}

impl Item<'_> {
    /// Encodes it.
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let mapping = match *self {
            Item::Ioas(ioas) => {
                let kind = ITEM_IOAS;
                return ItemHead { kind, ioas }.put(out);
            }
            Item::Mapping(mapping) => mapping,
        };
        let name = mapping.file;
        let head = ItemHead {
            kind: ITEM_MAPPING,
            ioas: mapping.ioas,
        };
        head.put(out)?;
        let head = MappingHead {
            iova: mapping.iova,
            length: mapping.length,
            start: mapping.start,
            prot: mapping.prot,
            name_len: name.len() as u32,
        };
        head.put(out)?;
        out.put(name)?;
        out.put(&[0; 8][..name.len().next_multiple_of(8) - name.len()])
    }
}

/// Iterates over the items of an iommufd. Ends after an error.
pub(crate) fn items(mut bytes: &[u8]) -> impl Iterator<Item = Result<Item<'_>, Malformed>> {
    core::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let decoded = decode_item(bytes);
        bytes = match decoded {
            Some((_, rest)) => rest,
            None => &[],
        };
        Some(decoded.map(|(item, _)| item).ok_or(Malformed::Fd))
    })
}

fn decode_item(mut bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let ItemHead { kind, ioas } = ItemHead::take(&mut bytes)?;
    match kind {
        _ if ioas == 0 => return None,
        ITEM_IOAS => return Some((Item::Ioas(ioas), bytes)),
        ITEM_MAPPING => {}
        _ => return None,
    }
    let head = MappingHead::take(&mut bytes)?;
    let name_len = head.name_len as usize;
    let mapping = Mapping {
        ioas,
        iova: head.iova,
        length: head.length,
        start: head.start,
        prot: head.prot,
        file: bytes.get(..name_len)?,
    };
    let last = mapping.length.checked_sub(1)?;
    mapping.iova.checked_add(last)?;
    mapping.start.checked_add(last)?;
    let known = mapping.prot & !(PROT_READ | PROT_WRITE) == 0;
    let (name, rest) = bytes.split_at_checked(name_len.next_multiple_of(8))?;
    let is_padded = name[name_len..].iter().all(|byte| *byte == 0);
    (known && is_padded && abi::name_is_valid(mapping.file))
        .then_some((Item::Mapping(mapping), rest))
}

abi::layout::layout! {
    /// Memory at a physical address. Without length there is none.
    struct Range {
        start: u64,
        /// In bytes.
        length: u64,
    }
}

/// Number of BARs of a function.
pub(crate) const BARS: usize = 6;

/// The size of configuration space in memory (PCI Express, ECAM).
const CONFIG_LEN: u64 = 4096;

/// Where the registers of a device are, for a boat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The physical address of its configuration space; 0 if that is not in memory.
    pub(crate) config: u64,
    /// Its BARs, each at the place of its first register. Those of ports are empty.
    pub(crate) bars: [Range; BARS],
}

impl Registers {
    const LEN: usize = u64::LEN + BARS * Range::LEN;

    fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        self.config.put(out)?;
        self.bars.iter().try_for_each(|bar| bar.put(out))
    }

    fn take(bytes: &mut &[u8]) -> Option<Registers> {
        let config = u64::take(bytes)?;
        let mut bars = [Range {
            start: 0,
            length: 0,
        }; BARS];
        for bar in &mut bars {
            *bar = Range::take(bytes)?;
        }
        let possible = config % CONFIG_LEN == 0
            && config.checked_add(CONFIG_LEN).is_some()
            && bars.iter().all(|bar| match bar.length {
                0 => bar.start == 0,
                length => length.is_power_of_two() && bar.start != 0 && bar.start % length == 0,
            });
        possible.then_some(Registers { config, bars })
    }
}

abi::layout::layout! {
    /// The fields of a device. They are followed by its registers, and by the name of its iommufd in
    /// the box.
    struct DeviceHead {
        segment: u32,
        /// Bus, device and function: `bus << 8 | device << 3 | function`.
        bdf: u32,
        /// ID of the device in the iommufd.
        device: u32,
        /// ID of the HWPT.
        hwpt: u32,
        /// ID of the IOAS.
        ioas: u32,
        /// `DEVICE_*`.
        flags: u32,
        name_len: u32,
        /// Length of the registers: 0 in version 1.
        registers_len: u32,
    }
}

/// A VFIO PCI device and the HWPT and IOAS that it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device<'a> {
    pub(crate) segment: u32,
    pub(crate) bdf: u32,
    pub(crate) device: u32,
    pub(crate) hwpt: u32,
    pub(crate) ioas: u32,
    pub(crate) auto_domain: bool,
    /// `None` in the layout [`VFIO_PCI_V1`].
    pub(crate) registers: Option<Registers>,
    pub(crate) iommufd: &'a [u8],
}

impl<'a> Device<'a> {
    /// Encodes it in the layout [`VFIO_PCI`], or without registers in [`VFIO_PCI_V1`].
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let flags = match self.auto_domain {
            true => DEVICE_AUTO_DOMAIN,
            false => 0,
        };
        let head = DeviceHead {
            segment: self.segment,
            bdf: self.bdf,
            device: self.device,
            hwpt: self.hwpt,
            ioas: self.ioas,
            flags,
            name_len: self.iommufd.len() as u32,
            registers_len: self.registers.map_or(0, |_| Registers::LEN as u32),
        };
        head.put(out)?;
        if let Some(registers) = &self.registers {
            registers.put(out)?;
        }
        out.put(self.iommufd)
    }

    /// Decodes both layouts.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Device<'a>, Malformed> {
        Self::take(bytes).ok_or(Malformed::Fd)
    }

    fn take(mut bytes: &'a [u8]) -> Option<Device<'a>> {
        let head = DeviceHead::take(&mut bytes)?;
        let registers = match head.registers_len as usize {
            0 => None,
            Registers::LEN => Some(Registers::take(&mut bytes)?),
            _ => return None,
        };
        let device = Device {
            segment: head.segment,
            bdf: head.bdf,
            device: head.device,
            hwpt: head.hwpt,
            ioas: head.ioas,
            auto_domain: head.flags & DEVICE_AUTO_DOMAIN != 0,
            registers,
            iommufd: bytes,
        };
        let possible = device.segment <= 0xffff
            && device.bdf <= 0xffff
            && head.flags & !DEVICE_AUTO_DOMAIN == 0
            && head.name_len as usize == device.iommufd.len()
            && abi::name_is_valid(device.iommufd);
        possible.then_some(device)
    }
}
