// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of passthrough: what the kinds iommufd and VFIO PCI save.
//!
//! Like `abi.rs`, this file holds no logic but encoding and is built on the host
//! by the project's tests. All numbers are little-endian. docs/handover-abi.md
//! has the tables. A change of the layout is a new compatible string.

use crate::abi::{Malformed, Sink, name_is_valid};

/// Compatible string of iommufd.
pub(crate) const IOMMUFD: &[u8] = b"fdbox,iommufd-v1";
/// Compatible string of a VFIO PCI device.
pub(crate) const VFIO_PCI: &[u8] = b"fdbox,vfio-pci-v1";

/// The device may read.
pub(crate) const PROT_READ: u32 = 1 << 0;
/// The device may write.
pub(crate) const PROT_WRITE: u32 = 1 << 1;

const ITEM_IOAS: u32 = 1;
const ITEM_MAPPING: u32 = 2;
/// Bytes of a mapping before the name.
const MAPPING_LEN: usize = 40;
/// Bytes of a device before the name.
const DEVICE_LEN: usize = 32;
/// The HWPT was made by attaching to the IOAS, and goes with its last device.
const DEVICE_AUTO_DOMAIN: u32 = 1 << 0;

/// One thing in an iommufd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// An IOAS; its mappings follow it.
    Ioas(u32),
    Mapping(Mapping<'a>),
}

/// A mapping of a file of the box.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 4 | 2 |
/// | 4 | 4 | id of the IOAS |
/// | 8 | 8 | IOVA |
/// | 16 | 8 | length in bytes |
/// | 24 | 8 | where it starts in the file |
/// | 32 | 4 | `PROT_*` |
/// | 36 | 4 | length of the name |
/// | 40 | | name of the file in the box, NUL-padded to a multiple of 8 |
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
    /// Writes it. An IOAS is the number 1 and its id, 4 bytes each.
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let mapping = match self {
            Item::Ioas(id) => {
                out.put(&ITEM_IOAS.to_le_bytes())?;
                return out.put(&id.to_le_bytes());
            }
            Item::Mapping(mapping) => mapping,
        };
        out.put(&ITEM_MAPPING.to_le_bytes())?;
        out.put(&mapping.ioas.to_le_bytes())?;
        for long in [mapping.iova, mapping.length, mapping.start] {
            out.put(&long.to_le_bytes())?;
        }
        out.put(&mapping.prot.to_le_bytes())?;
        out.put(&(mapping.file.len() as u32).to_le_bytes())?;
        out.put(mapping.file)?;
        out.put(&[0; 8][..mapping.file.len().next_multiple_of(8) - mapping.file.len()])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// What an iommufd saved; ends after an error.
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

fn decode_item(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let ioas = u32_at(bytes, 4).filter(|&id| id != 0)?;
    match u32_at(bytes, 0)? {
        ITEM_IOAS => return Some((Item::Ioas(ioas), &bytes[8..])),
        ITEM_MAPPING => {}
        _ => return None,
    }
    let name_len = u32_at(bytes, 36)? as usize;
    let rest = bytes.get(MAPPING_LEN..)?;
    let mapping = Mapping {
        ioas,
        iova: u64_at(bytes, 8)?,
        length: u64_at(bytes, 16)?,
        start: u64_at(bytes, 24)?,
        prot: u32_at(bytes, 32)?,
        file: rest.get(..name_len)?,
    };
    let last = mapping.length.checked_sub(1)?;
    mapping.iova.checked_add(last)?;
    mapping.start.checked_add(last)?;
    let known = mapping.prot & !(PROT_READ | PROT_WRITE) == 0;
    let rest = rest.get(name_len.next_multiple_of(8)..)?;
    (known && name_is_valid(mapping.file)).then_some((Item::Mapping(mapping), rest))
}

/// A VFIO PCI device and what it is attached to.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 4 | PCI segment |
/// | 4 | 4 | bus, device and function: `bus << 8 \| device << 3 \| function` |
/// | 8 | 4 | id of the device in the iommufd |
/// | 12 | 4 | id of the HWPT |
/// | 16 | 4 | id of the IOAS |
/// | 20 | 4 | 1: the HWPT was made by attaching to the IOAS |
/// | 24 | 4 | length of the name |
/// | 28 | 4 | zero |
/// | 32 | | name of the iommufd in the box |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device<'a> {
    pub(crate) segment: u32,
    pub(crate) bdf: u32,
    pub(crate) device: u32,
    pub(crate) hwpt: u32,
    pub(crate) ioas: u32,
    pub(crate) auto_domain: bool,
    pub(crate) iommufd: &'a [u8],
}

impl<'a> Device<'a> {
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let flags = match self.auto_domain {
            true => DEVICE_AUTO_DOMAIN,
            false => 0,
        };
        for word in [
            self.segment,
            self.bdf,
            self.device,
            self.hwpt,
            self.ioas,
            flags,
            self.iommufd.len() as u32,
            0,
        ] {
            out.put(&word.to_le_bytes())?;
        }
        out.put(self.iommufd)
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Device<'a>, Malformed> {
        let word = |at| u32_at(bytes, at).ok_or(Malformed::Fd);
        let device = Device {
            segment: word(0)?,
            bdf: word(4)?,
            device: word(8)?,
            hwpt: word(12)?,
            ioas: word(16)?,
            auto_domain: word(20)? & DEVICE_AUTO_DOMAIN != 0,
            iommufd: bytes.get(DEVICE_LEN..).ok_or(Malformed::Fd)?,
        };
        let possible = device.segment <= 0xffff
            && device.bdf <= 0xffff
            && word(20)? & !DEVICE_AUTO_DOMAIN == 0
            && word(24)? as usize == device.iommufd.len()
            && name_is_valid(device.iommufd);
        possible.then_some(device).ok_or(Malformed::Fd)
    }
}
