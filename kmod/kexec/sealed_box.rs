// SPDX-License-Identifier: GPL-2.0

//! A sealed box as the next kernel gets it, and the blob in which all of them are written.

use crate::abi::box_record::{
    box_len,
    put_box, //
};
use crate::abi::{
    self,
    FdRecord,
    Sink, //
};
use crate::access::NodeAccess;
use crate::boxes::entry::Slot;
use crate::kexec::blob::{
    Blob,
    Filler, //
};
use crate::kexec::kho;
use crate::kexec::record::Record;
use crate::name::Name;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A descriptor of a sealed box.
pub(crate) struct SealedFd {
    name: Name,
    compatible: KVec<u8>,
    pub(crate) record: Arc<Record>,
}

/// A sealed box.
pub(crate) struct SealedBox {
    pub(crate) id: u64,
    name: Name,
    pub(crate) access: NodeAccess,
    pub(crate) fds: KVVec<SealedFd>,
    /// Refuses a kexec to a kernel that would not get the box.
    _required: kho::Required,
}

impl SealedBox {
    /// A box whose descriptors are sealed, and have their records.
    pub(crate) fn new(
        id: u64,
        name: &Name,
        access: NodeAccess,
        slots: &[KBox<Slot>],
        required: kho::Required,
    ) -> Result<SealedBox> {
        let mut fds = KVVec::with_capacity(slots.len(), GFP_KERNEL)?;
        for slot in slots {
            let mut compatible = KVec::new();
            compatible.extend_from_slice(slot.compatible(), GFP_KERNEL)?;
            let fd = SealedFd {
                name: slot.name.try_clone()?,
                compatible,
                record: slot.record().ok_or(EIO)?.clone(),
            };
            fds.push(fd, GFP_KERNEL)?;
        }
        Ok(SealedBox {
            id,
            name: name.try_clone()?,
            access,
            fds,
            _required: required,
        })
    }

    /// Length of its record; `None` if that exceeds the length field.
    pub(crate) fn encoded_len(&self) -> Option<u32> {
        let fd_len = |fd: &SealedFd| FdRecord::encoded_len(fd.record.data().len());
        let fds_len = self.fds.iter().map(fd_len).fold(0, usize::saturating_add);
        box_len(self.label_len(), fds_len)
    }

    /// Length of its label; 0 if it has none.
    fn label_len(&self) -> usize {
        let label = self.access.record().label;
        label.map_or(0, |label| label.text.len())
    }
}

/// A blob of these boxes, not published yet.
pub(crate) fn encode(boxes: &[SealedBox]) -> Result<Blob> {
    let extents = boxes.iter().flat_map(|sealed| sealed.fds.iter());
    let nr_extents: usize = extents.map(|fd| fd.record.extents().len()).sum();
    let mut len = nr_extents * 8;
    for sealed in boxes {
        len += sealed.encoded_len().ok_or(EFBIG)? as usize;
    }

    let fill = |out: &mut Filler<'_>| {
        for fd in boxes.iter().flat_map(|sealed| sealed.fds.iter()) {
            for extent in fd.record.extents() {
                out.put(&extent.to_le_bytes())?;
            }
        }
        let mut first_extent = 0;
        for sealed in boxes {
            let access = sealed.access.record();
            let nr_fds = sealed.fds.len() as u32;
            let len = sealed.encoded_len().ok_or(EFBIG)?;
            put_box(out, sealed.name.as_bytes(), &access, nr_fds, len)?;
            for fd in sealed.fds.iter() {
                put_fd(out, fd, &mut first_extent)?;
            }
        }
        Ok(())
    };
    let version = match boxes.iter().all(|sealed| sealed.label_len() == 0) {
        true => abi::VERSION_WITHOUT_LABELS,
        false => abi::VERSION,
    };
    Blob::new(len, fill, |body| abi::Root {
        version,
        body_len: body.len() as u64,
        body_crc: kho::crc32(body),
        nr_boxes: boxes.len() as u32,
        nr_extents: nr_extents as u64,
        body_vmalloc: [0; 16],
        producer: kho::release(),
    })
}

fn put_fd(out: &mut Filler<'_>, fd: &SealedFd, first_extent: &mut u64) -> Result {
    let nr_extents = fd.record.extents().len() as u64;
    let record = FdRecord {
        name: fd.name.as_bytes(),
        compatible: &fd.compatible,
        first_extent: *first_extent,
        nr_extents,
        data: fd.record.data(),
    };
    *first_extent += nr_extents;
    record.put(out)
}
