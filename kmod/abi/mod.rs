// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: every byte that FDBox carries from one kernel to the next.
//!
//! # Concept
//!
//! The KHO subtree `fdbox` points at one page, the *root*. The root has a
//! checksum of its own and tells where the *body* is: a list of all page extents
//! that the handover keeps, then the boxes with their descriptors and what each
//! descriptor's kind saved.
//!
//! Magic, version, lengths, checksums and the extent list are the same in every
//! version, so a kernel that cannot read the boxes can still carry the memory on
//! through another kexec. Whatever changes the meaning or the place of a byte
//! behind the extents changes [`VERSION`].
//!
//! # Lifecycle
//!
//! Written at SEAL, read once when the module loads. Nothing is trusted before
//! [`Root::decode`] and [`Body::check`] have passed.
//!
//! This file holds no logic but encoding and has no dependency: the project's
//! tests build it on the host. All numbers are little-endian, all records start
//! at a multiple of 8 bytes. docs/handover-abi.md has the tables.

pub(crate) mod dma;
mod extent;
pub(crate) mod kvm;
pub(crate) mod layout;
pub(crate) mod memfd;
pub(crate) mod poison;
mod root;

pub(crate) use extent::Extent;
pub(crate) use root::Root;

use layout::Layout;

/// Name of the KHO subtree.
pub(crate) const SUBTREE: &core::ffi::CStr = c"fdbox";
/// First bytes of the root.
pub(crate) const MAGIC: [u8; 8] = *b"FDBOXKHO";
/// What a reader puts in the place of [`MAGIC`] once the body is its own.
pub(crate) const MAGIC_CONSUMED: [u8; 8] = *b"FDBOXGOT";
/// Layout of what follows the extents.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the root that are in use, its checksum included.
pub(crate) const ROOT_LEN: usize = 256;
/// Bytes of the kernel release in the root.
pub(crate) const PRODUCER_LEN: usize = 64;
/// Bytes of a box or descriptor name, its NUL included.
pub(crate) const NAME_LEN: usize = 256;
/// Bytes of a compatible string, its NUL included.
pub(crate) const COMPATIBLE_LEN: usize = 48;
/// Bytes of a box record before its descriptors.
pub(crate) const BOX_LEN: usize = BoxHead::LEN + NAME_LEN;
/// Bytes of a descriptor record before its data.
pub(crate) const FD_LEN: usize = FdHead::LEN + NAME_LEN + COMPATIBLE_LEN;
/// The largest data one descriptor may carry.
pub(crate) const MAX_DATA_LEN: usize = 1 << 20;

/// CRC-32 (IEEE 802.3) over a byte slice, with the usual initial value and final inversion.
pub(crate) type Crc = fn(&[u8]) -> u32;

/// What is wrong with a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Shorter than its header says.
    Truncated,
    /// Not an FDBox handover.
    Magic,
    /// The root's checksum does not match.
    RootChecksum,
    /// The body's checksum does not match.
    BodyChecksum,
    /// The extent list is longer than the body or has an impossible extent.
    Extents,
    /// A box record is impossible.
    Box,
    /// A descriptor record is impossible.
    Fd,
    /// A name is not one.
    Name,
    /// Bytes that belong to nothing.
    Trailing,
}

impl Malformed {
    /// For the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
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

/// Where encoded bytes go; growing may fail.
pub(crate) trait Sink {
    /// The error of running out of memory.
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

/// Whether `name` can name a box or a descriptor.
pub(crate) fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() < NAME_LEN
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// The string in a NUL-padded array; `None` without a NUL.
pub(crate) fn until_nul(array: &[u8]) -> Option<&[u8]> {
    let end = array.iter().position(|&byte| byte == 0)?;
    array.get(..end)
}

/// A box, as far as it crosses a kexec: its name, and owner and mode of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoxRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nr_fds: u32,
    fds: &'a [u8],
}

/// Bytes of the record of a box whose descriptors take `fds_len`; `None` if they are more than the
/// record can tell.
pub(crate) fn box_len(fds_len: usize) -> Option<u32> {
    u32::try_from(BOX_LEN.checked_add(fds_len)?).ok()
}

layout::layout! {
    /// A box before its name, which has [`NAME_LEN`] bytes. Its descriptors follow.
    struct BoxHead {
        /// Of the record, its descriptors included.
        len: u32,
        nr_fds: u32,
        /// Of the node, as the two that follow.
        mode: u32,
        uid: u32,
        gid: u32,
        zero: u32,
    }
}

/// Writes the head of a box whose record takes `len` bytes, see [`box_len`].
pub(crate) fn put_box<S: Sink>(
    out: &mut S,
    name: &[u8],
    (mode, uid, gid): (u32, u32, u32),
    nr_fds: u32,
    len: u32,
) -> Result<(), S::Error> {
    let head = BoxHead {
        len,
        nr_fds,
        mode,
        uid,
        gid,
        zero: 0,
    };
    head.put(out)?;
    put_padded(out, name, NAME_LEN)
}

layout::layout! {
    /// A descriptor before its name, its compatible string, which has [`COMPATIBLE_LEN`] bytes, and
    /// its data, which is padded to a multiple of 8.
    struct FdHead {
        /// Of the record, data and padding included.
        len: u32,
        data_len: u32,
        first_extent: u64,
        nr_extents: u64,
    }
}

/// A descriptor: its name, its kind, which extents are its own, what its kind saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) compatible: &'a [u8],
    pub(crate) first_extent: u64,
    pub(crate) nr_extents: u64,
    pub(crate) data: &'a [u8],
}

impl FdRecord<'_> {
    /// Bytes it takes in the body.
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

/// The inverse, for a string: takes it and the NULs behind it off the front.
fn take_string<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (array, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    until_nul(array)
}

/// What the root points at: extents, then boxes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    bytes: &'a [u8],
    root: Root,
}

impl<'a> Body<'a> {
    /// Checks length, checksum and extents, and for a [`VERSION`] that this code
    /// knows every record. Only then may anything be taken from it.
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
        if root.version == VERSION {
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

    /// `count` extents from the one at `first` on, as they are written; [`check`](Self::check) made
    /// sure that all can be decoded.
    pub(crate) fn raw_extents(
        &self,
        first: u64,
        count: u64,
    ) -> Result<impl Iterator<Item = u64> + use<'a>, Malformed> {
        let end = first.checked_add(count);
        let in_list = end.filter(|&end| end <= self.root.nr_extents);
        // They lie in the body: so said Root::decode().
        let at = |index: u64| usize::try_from(index).ok()?.checked_mul(8);
        let range = in_list.and_then(|end| Some(at(first)?..at(end)?));
        let bytes = range.and_then(|range| self.bytes.get(range));
        let words = bytes.ok_or(Malformed::Extents)?.chunks_exact(8);
        Ok(words.filter_map(|word| u64_at(word, 0)))
    }

    /// The boxes, in the order they were sealed.
    pub(crate) fn boxes(&self) -> impl Iterator<Item = Result<BoxRecord<'a>, Malformed>> + use<'a> {
        let start = self.root.nr_extents as usize * 8;
        records(self.bytes.get(start..).unwrap_or(&[]), decode_box)
    }
}

impl<'a> BoxRecord<'a> {
    /// Its descriptors, in the order they were put in.
    pub(crate) fn fds(&self) -> impl Iterator<Item = Result<FdRecord<'a>, Malformed>> + use<'a> {
        records(self.fds, decode_fd)
    }
}

/// Splits `bytes` into records that begin with their length; ends after an error.
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

fn decode_box(mut bytes: &[u8]) -> Result<BoxRecord<'_>, Malformed> {
    let head = BoxHead::take(&mut bytes).ok_or(Malformed::Box)?;
    let name = take_string(&mut bytes, NAME_LEN).ok_or(Malformed::Box)?;
    if !name_is_valid(name) {
        return Err(Malformed::Name);
    }
    Ok(BoxRecord {
        name,
        nr_fds: head.nr_fds,
        mode: head.mode,
        uid: head.uid,
        gid: head.gid,
        fds: bytes,
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
