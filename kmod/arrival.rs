// SPDX-License-Identifier: GPL-2.0

//! What came from the last kernel.
//!
//! # Concept
//!
//! When the module loads, `receive()` looks once for a blob of the last kernel's and makes sealed
//! boxes of it, as they were. A blob that cannot be read is refused and said, and its memory stays
//! as it is; one that is whole, but not of this module's version or too much for its memory, goes on
//! to the kernel after this one.

use crate::abi::{
    self,
    FdRecord, //
};
use crate::boxes;
use crate::entry::Incoming;
use crate::file::NodeOwner;
use crate::handover;
use crate::kho::{
    self,
    Body, //
};
use crate::name::Name;
use crate::poison;
use crate::record::{
    Progress,
    Record, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Makes boxes of what the last kernel left. Never fails: what cannot be used is kept and said.
pub(crate) fn receive() {
    if let Err(err) = poison::receive(kho::crc32) {
        pr_err!(
            "what the last kernel tells of broken memory cannot be read: {:?}; such pages may come into use\n",
            err
        );
    }
    match kho::incoming() {
        None => {}
        Some(Err(why)) => refuse(why),
        Some(Ok((root, body))) => accept(root, body),
    }
}

fn refuse(why: abi::Malformed) {
    pr_err!(
        "handover from the last kernel refused: {}; its memory stays reserved until reboot\n",
        why.as_str()
    );
    handover::mark_refused();
}

fn accept(root: abi::Root, body: Body) {
    let producer = abi::until_nul(&root.producer).unwrap_or(b"?");
    let producer = kernel::str::BStr::from_bytes(producer);
    let checked = match abi::Body::check(root, body.bytes(), kho::crc32) {
        Ok(checked) => checked,
        Err(why) => return refuse(why),
    };
    if root.version != abi::VERSION {
        pr_err!("handover of version {} from kernel {}, this module reads version {}: it is kept, kexec back to the kernel that reads it\n", root.version, producer, abi::VERSION);
    } else {
        match boxes_from(&checked) {
            Ok(()) => {
                pr_info!("{} boxes from kernel {}\n", root.nr_boxes, producer);
                return;
            }
            Err(EEXIST) => {
                boxes::forget_all();
                return refuse(abi::Malformed::Name);
            }
            Err(err) => {
                pr_err!(
                    "no memory for the boxes from kernel {}: {:?}; they are kept, kexec again\n",
                    producer,
                    err
                );
                boxes::forget_all();
            }
        }
    }
    handover::mark_refused();
    handover::pass_through(root, body);
}

fn boxes_from(body: &abi::Body<'_>) -> Result {
    for record in body.boxes() {
        let record = record.map_err(|_| EIO)?;
        let owner = NodeOwner {
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
        };
        boxes::create_with(Name::new(record.name)?, owner, |bx| {
            for fd in record.fds() {
                let fd = fd.map_err(|_| EIO)?;
                bx.put_incoming(Name::new(fd.name)?, incoming_from(body, &fd)?)?;
            }
            bx.arrived();
            Ok(())
        })?;
    }
    Ok(())
}

fn incoming_from(body: &abi::Body<'_>, fd: &FdRecord<'_>) -> Result<Incoming> {
    let extents = handover::copied_extents(body, fd.first_extent, fd.nr_extents)?;
    let mut compatible = KVec::new();
    compatible.extend_from_slice(fd.compatible, GFP_KERNEL)?;
    Ok(Incoming {
        compatible,
        record: Arc::new(Record::new(fd.data, extents)?, GFP_KERNEL)?,
        progress: Progress::default(),
    })
}
