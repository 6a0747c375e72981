// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: every byte that FDBox carries from one kernel to the next.
//!
//! # Concept
//!
//! The KHO subtree `fdbox` points to one page, the *root*. The root has its own
//! checksum and gives the location of the *body*: the list of all preserved page
//! extents, followed by the boxes, their descriptors, and the data that the kind
//! of each descriptor saved.
//!
//! Magic, version, lengths, checksums and the extent list are the same in every
//! version, so a kernel that cannot read the boxes can still pass the memory on at
//! the next kexec. [`VERSION`] changes whenever the meaning or the position of a
//! byte after the extents changes.
//!
//! # Lifecycle
//!
//! Written at SEAL, read once when the module loads. Nothing is trusted until
//! [`Root::decode`] and [`Body::check`] have succeeded.
//!
//! This file only encodes and decodes, and depends on nothing else, so that the
//! project's tests can build it on the host. All numbers are little-endian, and
//! all records are aligned to 8 bytes. See docs/handover-abi.md for the tables.

pub(crate) mod box_record;
pub(crate) mod dma;
mod extent;
pub(crate) mod hugetlb;
pub(crate) mod kvm;
pub(crate) mod layout;
pub(crate) mod memfd;
pub(crate) mod poison;
mod root;

pub(crate) use extent::Extent;
pub(crate) use root::Root;

use box_record::BoxRecord;
use layout::Layout;

/// Name of the KHO subtree.
pub(crate) const SUBTREE: &core::ffi::CStr = c"fdbox";
/// The first bytes of the root.
pub(crate) const MAGIC: [u8; 8] = *b"FDBOXKHO";
/// Overwrites [`MAGIC`] once a kernel has taken over the body.
pub(crate) const MAGIC_CONSUMED: [u8; 8] = *b"FDBOXGOT";
/// The version of the layout of everything after the extents in which boxes have no labels. A
/// handover without any label is written in it, for modules that read no other.
pub(crate) const VERSION_WITHOUT_LABELS: u32 = 1;
/// The latest version of that layout.
pub(crate) const VERSION: u32 = 2;
/// Size of the root in bytes, including its checksum.
pub(crate) const ROOT_LEN: usize = 256;
/// Size of the kernel release string in the root.
pub(crate) const PRODUCER_LEN: usize = 64;
/// Size of the name of a box or a descriptor, including the NUL.
pub(crate) const NAME_LEN: usize = 256;
/// Size of a compatible string, including the NUL.
pub(crate) const COMPATIBLE_LEN: usize = 48;
/// Size of a descriptor record without its data.
pub(crate) const FD_LEN: usize = FdHead::LEN + NAME_LEN + COMPATIBLE_LEN;
/// Maximum size of the data of one descriptor.
pub(crate) const MAX_DATA_LEN: usize = 1 << 20;

/// CRC-32 (IEEE 802.3) over a byte slice, with the usual initial value and final inversion.
pub(crate) type Crc = fn(&[u8]) -> u32;

/// What is wrong with a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// KHO's own entry for it cannot be read.
    Subtree,
    /// Shorter than the length in its header.
    Truncated,
    /// Not an FDBox handover.
    Magic,
    /// The checksum of the root does not match.
    RootChecksum,
    /// The checksum of the body does not match.
    BodyChecksum,
    /// The extent list is longer than the body, or has an invalid extent.
    Extents,
    /// A box record is invalid.
    Box,
    /// A descriptor record is invalid.
    Fd,
    /// A name is invalid.
    Name,
    /// There are bytes or extents that no record refers to.
    Trailing,
}

impl Malformed {
    /// Description for the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Malformed::Subtree => "an entry of KHO's that cannot be read",
            Malformed::Truncated => "truncated",
            Malformed::Magic => "not an fdbox handover",
            Malformed::RootChecksum => "root checksum mismatch",
            Malformed::BodyChecksum => "body checksum mismatch",
            Malformed::Extents => "impossible page extents",
            Malformed::Box => "impossible box record",
            Malformed::Fd => "impossible descriptor record",
            Malformed::Name => "impossible name",
            Malformed::Trailing => "bytes that belong to nothing",
        }
    }
}

/// Destination of encoded bytes. Appending can fail.
pub(crate) trait Sink {
    /// The error of an append that fails.
    type Error;
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// Whether `name` is valid as the name of a box or a descriptor.
pub(crate) fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() < NAME_LEN
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// Returns the string in a NUL-padded array; `None` if there is no NUL.
pub(crate) fn until_nul(array: &[u8]) -> Option<&[u8]> {
    let end = array.iter().position(|&byte| byte == 0)?;
    array.get(..end)
}

layout::layout! {
    /// The fields of a descriptor record. They are followed by the name ([`NAME_LEN`] bytes), the
    /// compatible string ([`COMPATIBLE_LEN`] bytes) and the data, padded to a multiple of 8.
    struct FdHead {
        /// Size of the record, including data and padding.
        len: u32,
        data_len: u32,
        first_extent: u64,
        nr_extents: u64,
    }
}

/// A descriptor: its name, its kind, its extents, and the data that its kind saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) compatible: &'a [u8],
    pub(crate) first_extent: u64,
    pub(crate) nr_extents: u64,
    pub(crate) data: &'a [u8],
}

impl FdRecord<'_> {
    /// Size of its record in the body.
    pub(crate) fn encoded_len(data_len: usize) -> usize {
        FD_LEN + data_len.next_multiple_of(8)
    }

    /// Writes it.
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let len = Self::encoded_len(self.data.len());
        let head = FdHead {
            len: len as u32,
            data_len: self.data.len() as u32,
            first_extent: self.first_extent,
            nr_extents: self.nr_extents,
        };
        head.put(out)?;
        put_padded(out, self.name, NAME_LEN)?;
        put_padded(out, self.compatible, COMPATIBLE_LEN)?;
        put_padded(out, self.data, len - FD_LEN)
    }
}

fn put_padded<S: Sink>(out: &mut S, bytes: &[u8], len: usize) -> Result<(), S::Error> {
    const ZERO: [u8; NAME_LEN] = [0; NAME_LEN];
    out.put(bytes)?;
    out.put(&ZERO[..len - bytes.len()])
}

/// The inverse for a string: removes it, with its padding, from the front of `bytes`.
fn take_string<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (array, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    until_nul(array)
}

/// The body: the extents, followed by the boxes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    bytes: &'a [u8],
    root: Root,
}

impl<'a> Body<'a> {
    /// Checks length, checksum and extents and, if the version is [known](Root::is_known), all
    /// records. Nothing may be read from the body before this.
    pub(crate) fn check(root: Root, bytes: &'a [u8], crc: Crc) -> Result<Self, Malformed> {
        let len = usize::try_from(root.body_len).map_err(|_| Malformed::Truncated)?;
        let bytes = bytes.get(..len).ok_or(Malformed::Truncated)?;
        if crc(bytes) != root.body_crc {
            return Err(Malformed::BodyChecksum);
        }
        let body = Body { bytes, root };
        for raw in body.raw_extents(0, root.nr_extents)? {
            Extent::decode(raw)?;
        }
        if root.is_known() {
            body.check_records()?;
        }
        Ok(body)
    }

    fn check_records(&self) -> Result<(), Malformed> {
        let mut next_extent = 0u64;
        let mut boxes = 0;
        for record in self.boxes() {
            let record = record?;
            boxes += 1;
            let mut fds = 0;
            for fd in record.fds() {
                let fd = fd?;
                fds += 1;
                if fd.first_extent != next_extent {
                    return Err(Malformed::Fd);
                }
                next_extent = next_extent
                    .checked_add(fd.nr_extents)
                    .ok_or(Malformed::Fd)?;
            }
            if fds != record.nr_fds {
                return Err(Malformed::Box);
            }
        }
        if boxes != self.root.nr_boxes || next_extent != self.root.nr_extents {
            return Err(Malformed::Trailing);
        }
        Ok(())
    }

    /// Returns `count` encoded extents, starting with number `first`. All can be decoded: see
    /// [`check`](Self::check).
    pub(crate) fn raw_extents(
        &self,
        first: u64,
        count: u64,
    ) -> Result<impl Iterator<Item = u64> + use<'a>, Malformed> {
        let end = first.checked_add(count);
        let in_list = end.filter(|&end| end <= self.root.nr_extents);
        // Root::decode() checked that the extent list fits into the body.
        let at = |index: u64| usize::try_from(index).ok()?.checked_mul(8);
        let range = in_list.and_then(|end| Some(at(first)?..at(end)?));
        let bytes = range.and_then(|range| self.bytes.get(range));
        let words = bytes.ok_or(Malformed::Extents)?.chunks_exact(8);
        Ok(words.filter_map(|word| u64_at(word, 0)))
    }

    /// The boxes, in the order in which they were sealed.
    pub(crate) fn boxes(&self) -> impl Iterator<Item = Result<BoxRecord<'a>, Malformed>> + use<'a> {
        let start = self.root.nr_extents as usize * 8;
        let decode = match self.root.version {
            VERSION_WITHOUT_LABELS => box_record::decode_without_label,
            _ => box_record::decode,
        };
        records(self.bytes.get(start..).unwrap_or(&[]), decode)
    }
}

/// Splits `bytes` into records, each of which starts with its length. Ends after an error.
fn records<'a, T: 'a>(
    mut bytes: &'a [u8],
    decode: fn(&'a [u8]) -> Result<T, Malformed>,
) -> impl Iterator<Item = Result<T, Malformed>> + use<'a, T> {
    core::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let len = u32_at(bytes, 0).map(|len| len as usize).unwrap_or(0);
        if len == 0 || len & 7 != 0 || len > bytes.len() {
            bytes = &[];
            return Some(Err(Malformed::Truncated));
        }
        let (record, rest) = bytes.split_at(len);
        bytes = rest;
        Some(decode(record))
    })
}

fn decode_fd(mut bytes: &[u8]) -> Result<FdRecord<'_>, Malformed> {
    let len = bytes.len();
    let head = FdHead::take(&mut bytes).ok_or(Malformed::Fd)?;
    let name = take_string(&mut bytes, NAME_LEN).ok_or(Malformed::Fd)?;
    let compatible = take_string(&mut bytes, COMPATIBLE_LEN).ok_or(Malformed::Fd)?;
    if !name_is_valid(name) || compatible.is_empty() {
        return Err(Malformed::Name);
    }
    let data_len = head.data_len as usize;
    if data_len > MAX_DATA_LEN || FdRecord::encoded_len(data_len) != len {
        return Err(Malformed::Fd);
    }
    Ok(FdRecord {
        name,
        compatible,
        first_extent: head.first_extent,
        nr_extents: head.nr_extents,
        data: &bytes[..data_len],
    })
}
