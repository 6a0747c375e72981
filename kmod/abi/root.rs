// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: the root. It is the same in every version.

use super::layout::Layout;
use super::{Crc, Malformed, Sink};

const ROOT_LEN: usize = super::ROOT_LEN;

super::layout::layout! {
    /// The fields of the root. They are followed by its checksum, a `u32`.
    struct RootLayout {
        magic: [u8; 8],
        version: u32,
        /// Size of the root: [`super::ROOT_LEN`].
        len: u32,
        body_len: u64,
        body_crc: u32,
        nr_boxes: u32,
        nr_extents: u64,
        /// The `struct kho_vmalloc` of the body.
        body_vmalloc: [u8; 16],
        /// Release of the kernel that wrote the handover.
        producer: [u8; super::PRODUCER_LEN],
        zero: [u8; 132],
    }
}

const _: () = assert!(RootLayout::LEN + 4 == ROOT_LEN);

/// The contents of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) version: u32,
    pub(crate) body_len: u64,
    pub(crate) body_crc: u32,
    pub(crate) nr_boxes: u32,
    pub(crate) nr_extents: u64,
    pub(crate) body_vmalloc: [u8; 16],
    pub(crate) producer: [u8; super::PRODUCER_LEN],
}

/// Destination of a root that is being encoded.
struct RootBytes {
    bytes: [u8; ROOT_LEN],
    len: usize,
}

impl Sink for RootBytes {
    type Error = core::convert::Infallible;

    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

impl Root {
    pub(crate) fn encode(&self, crc: Crc) -> [u8; ROOT_LEN] {
        let mut out = RootBytes {
            bytes: [0; ROOT_LEN],
            len: 0,
        };
        let layout = RootLayout {
            magic: super::MAGIC,
            version: self.version,
            len: ROOT_LEN as u32,
            body_len: self.body_len,
            body_crc: self.body_crc,
            nr_boxes: self.nr_boxes,
            nr_extents: self.nr_extents,
            body_vmalloc: self.body_vmalloc,
            producer: self.producer,
            zero: [0; 132],
        };
        let Ok(()) = layout.put(&mut out);
        let Ok(()) = crc(&out.bytes[..out.len]).put(&mut out);
        out.bytes
    }

    /// Whether this code reads the boxes of its version.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.version, super::VERSION_WITHOUT_LABELS..=super::VERSION)
    }

    /// Checks everything except the version, on which only the boxes depend.
    pub(crate) fn decode(bytes: &[u8], crc: Crc) -> Result<Root, Malformed> {
        let bytes = bytes.get(..ROOT_LEN).ok_or(Malformed::Truncated)?;
        let mut rest = bytes;
        let root = RootLayout::take(&mut rest).ok_or(Malformed::Truncated)?;
        if root.magic != super::MAGIC {
            return Err(Malformed::Magic);
        }
        if root.len as usize != ROOT_LEN {
            return Err(Malformed::Truncated);
        }
        if u32::take(&mut rest) != Some(crc(&bytes[..RootLayout::LEN])) {
            return Err(Malformed::RootChecksum);
        }
        match root.nr_extents.checked_mul(8) {
            Some(len) if len <= root.body_len => {}
            _ => return Err(Malformed::Extents),
        }
        Ok(Root {
            version: root.version,
            body_len: root.body_len,
            body_crc: root.body_crc,
            nr_boxes: root.nr_boxes,
            nr_extents: root.nr_extents,
            body_vmalloc: root.body_vmalloc,
            producer: root.producer,
        })
    }
}
