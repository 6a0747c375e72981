// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: the record of a box. It precedes the records of the box's descriptors.

use super::layout::Layout;
use super::{FdRecord, Malformed, Sink};

use super::{decode_fd, name_is_valid, put_padded, records, take_string};

const NAME_LEN: usize = super::NAME_LEN;

/// The security label of a node, in the form of the LSM with this id (`LSM_ID_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LabelRecord<'a> {
    pub(crate) lsm: u64,
    /// Not empty, and without a NUL.
    pub(crate) text: &'a [u8],
}

/// Who may open a box: mode, owner and security label of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccessRecord<'a> {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) label: Option<LabelRecord<'a>>,
}

/// The parts of a box that cross a kexec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoxRecord<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) access: AccessRecord<'a>,
    pub(crate) nr_fds: u32,
    fds: &'a [u8],
}

impl<'a> BoxRecord<'a> {
    /// Its descriptors, in the order in which they were put in.
    pub(crate) fn fds(&self) -> impl Iterator<Item = Result<FdRecord<'a>, Malformed>> + use<'a> {
        records(self.fds, decode_fd)
    }
}

/// Size of a box record without its label and its descriptors.
const BOX_LEN: usize = BoxHead::LEN + NAME_LEN;

/// Size of the record of a box whose label has `label_len` bytes, 0 without one, and whose descriptor
/// records take `fds_len` bytes; `None` if it does not fit into the length field.
pub(crate) fn box_len(label_len: usize, fds_len: usize) -> Option<u32> {
    let label_len = match label_len {
        0 => 0,
        len => len.checked_next_multiple_of(8)?.checked_add(u64::LEN)?,
    };
    u32::try_from(BOX_LEN.checked_add(label_len)?.checked_add(fds_len)?).ok()
}

super::layout::layout! {
    /// The fields of a box record. They are followed by the name ([`super::NAME_LEN`] bytes), the label if
    /// there is one, and the descriptors. A label is the id of the LSM, a `u64`, and the text, padded
    /// to a multiple of 8.
    struct BoxHead {
        /// Size of the record, including its descriptors.
        len: u32,
        nr_fds: u32,
        /// Mode of the node; the owner follows.
        mode: u32,
        uid: u32,
        gid: u32,
        /// Size of the label's text; 0 without a label, and in [`super::VERSION_WITHOUT_LABELS`].
        label_len: u32,
    }
}

/// Writes what precedes the descriptors of a box. `len` is the result of [`box_len`].
pub(crate) fn put_box<S: Sink>(
    out: &mut S,
    name: &[u8],
    access: &AccessRecord<'_>,
    nr_fds: u32,
    len: u32,
) -> Result<(), S::Error> {
    let head = BoxHead {
        len,
        nr_fds,
        mode: access.mode,
        uid: access.uid,
        gid: access.gid,
        label_len: access.label.map_or(0, |label| label.text.len() as u32),
    };
    head.put(out)?;
    put_padded(out, name, NAME_LEN)?;
    let Some(label) = access.label else {
        return Ok(());
    };
    label.lsm.put(out)?;
    put_padded(out, label.text, label.text.len().next_multiple_of(8))
}

/// Decodes the record of a box.
pub(super) fn decode(bytes: &[u8]) -> Result<BoxRecord<'_>, Malformed> {
    let (mut record, label_len) = decode_head(bytes)?;
    if label_len > 0 {
        let label = take_label(&mut record.fds, label_len);
        record.access.label = Some(label.ok_or(Malformed::Box)?);
    }
    Ok(record)
}

/// The same for [`super::VERSION_WITHOUT_LABELS`].
pub(super) fn decode_without_label(bytes: &[u8]) -> Result<BoxRecord<'_>, Malformed> {
    decode_head(bytes).map(|(record, _)| record)
}

/// The record up to its name, with everything else as its descriptors, and the length of the label.
fn decode_head(mut bytes: &[u8]) -> Result<(BoxRecord<'_>, u32), Malformed> {
    let head = BoxHead::take(&mut bytes).ok_or(Malformed::Box)?;
    let name = take_string(&mut bytes, NAME_LEN).ok_or(Malformed::Box)?;
    if !name_is_valid(name) {
        return Err(Malformed::Name);
    }
    let access = AccessRecord {
        mode: head.mode,
        uid: head.uid,
        gid: head.gid,
        label: None,
    };
    let record = BoxRecord {
        name,
        access,
        nr_fds: head.nr_fds,
        fds: bytes,
    };
    Ok((record, head.label_len))
}

fn take_label<'a>(bytes: &mut &'a [u8], len: u32) -> Option<LabelRecord<'a>> {
    let lsm = u64::take(bytes)?;
    let len = usize::try_from(len).ok()?;
    let (padded, rest) = bytes.split_at_checked(len.checked_next_multiple_of(8)?)?;
    *bytes = rest;
    let text = padded.get(..len)?;
    (!text.contains(&0)).then_some(LabelRecord { lsm, text })
}
