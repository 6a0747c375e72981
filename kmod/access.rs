// SPDX-License-Identifier: GPL-2.0

//! Who may open the device node of a box: its mode, owner and security label. They cross a kexec.

use crate::abi::box_record::{
    AccessRecord,
    LabelRecord, //
};
use crate::ffi;
use crate::file::BoxFile;
use kernel::{
    error::to_result,
    prelude::*,
    str::BStr,
    sync::Arc, //
};

/// A security label.
pub(crate) struct Label {
    lsm: u64,
    text: KVVec<u8>,
}

impl Label {
    fn new(lsm: u64, text: &[u8]) -> Result<Arc<Label>> {
        let mut copy = KVVec::with_capacity(text.len(), GFP_KERNEL)?;
        copy.extend_from_slice(text, GFP_KERNEL)?;
        Ok(Arc::new(Label { lsm, text: copy }, GFP_KERNEL)?)
    }

    /// The label of `node`; `None` if no LSM labels it, or if it does not exist.
    ///
    /// # Safety
    ///
    /// As for [`NodeAccess::of_node`].
    unsafe fn of_node(node: *mut ffi::Node) -> Result<Option<Arc<Label>>> {
        let mut found = ffi::Label::default();
        // SAFETY: By the safety requirements of this function; `found` is valid for writing.
        match to_result(unsafe { ffi::fdbox_shim_node_label(node, &mut found) }) {
            Ok(()) => {}
            Err(EOPNOTSUPP | ENOENT) => return Ok(None),
            Err(err) => return Err(err),
        }
        // SAFETY: The function has set text and length, and the text is not released yet.
        let text = unsafe { core::slice::from_raw_parts(found.text.cast::<u8>(), found.len) };
        let label = Label::new(found.lsm, text);
        // SAFETY: Set by the function, and released only here.
        unsafe { ffi::fdbox_shim_label_release(&mut found) };
        label.map(Some)
    }

    /// Gives it to `node`. Fails with `EOPNOTSUPP` if no LSM labels the node, with `ENOENT` if the node does
    /// not exist, with another error if the LSM does not accept the label.
    ///
    /// # Safety
    ///
    /// As for [`NodeAccess::of_node`].
    pub(crate) unsafe fn set(&self, node: *mut ffi::Node) -> Result {
        let label = ffi::Label {
            text: self.text.as_ptr().cast_mut().cast(),
            len: self.text.len(),
            lsm: self.lsm,
        };
        // SAFETY: By the safety requirements of this function; the text is only read.
        to_result(unsafe { ffi::fdbox_shim_node_set_label(node, &label) })
    }
}

impl kernel::fmt::Display for Label {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        kernel::fmt::Display::fmt(BStr::from_bytes(&self.text), f)
    }
}

/// Mode, owner and security label of a device node.
#[derive(Clone)]
pub(crate) struct NodeAccess {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `None` if no LSM labels nodes.
    pub(crate) label: Option<Arc<Label>>,
}

impl NodeAccess {
    /// Those of a new box. The LSM chooses its label.
    pub(crate) const NEW: NodeAccess = NodeAccess {
        mode: 0o600,
        uid: 0,
        gid: 0,
        label: None,
    };

    /// Those that came from the last kernel.
    pub(crate) fn of_record(record: &AccessRecord<'_>) -> Result<NodeAccess> {
        let label = record.label.map(|label| Label::new(label.lsm, label.text));
        Ok(NodeAccess {
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            label: label.transpose()?,
        })
    }

    /// For the next kernel.
    pub(crate) fn record(&self) -> AccessRecord<'_> {
        let label = self.label.as_ref().map(|label| LabelRecord {
            lsm: label.lsm,
            text: &label.text,
        });
        AccessRecord {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            label,
        }
    }

    /// Those of the node of the box that `file` was opened through, whatever its path was; `None` if the
    /// node does not exist.
    pub(crate) fn of_opened(file: &BoxFile<'_>) -> Result<Option<NodeAccess>> {
        // SAFETY: The file holds the node.
        unsafe { NodeAccess::of_node(file.node()) }
    }

    /// The current ones of `node`; `None` if it does not exist.
    ///
    /// # Safety
    ///
    /// `node` was created by `fdbox_shim_node_create()`, and somebody holds it.
    pub(crate) unsafe fn of_node(node: *mut ffi::Node) -> Result<Option<NodeAccess>> {
        let mut access = NodeAccess::NEW;
        let (mode, uid, gid) = (&mut access.mode, &mut access.uid, &mut access.gid);
        // SAFETY: By the safety requirements of this function, and all three pointers are valid for
        // writing.
        if !unsafe { ffi::fdbox_shim_node_owner(node, mode, uid, gid) } {
            return Ok(None);
        }
        // SAFETY: By the safety requirements of this function.
        access.label = unsafe { Label::of_node(node)? };
        Ok(Some(access))
    }
}

/// Whether a box that arrived with a security label may be opened without it.
pub(crate) fn labels_are_ignored() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_ignore_labels() }
}
