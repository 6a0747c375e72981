// SPDX-License-Identifier: GPL-2.0

//! What the last kernel handed over.
//!
//! # Concept
//!
//! When the module loads, `receive()` looks for a blob of the last kernel and creates sealed boxes
//! from it. The blob is consumed only after everything else that can fail during loading, so that a
//! module that failed to load can be loaded again. A damaged blob is refused with a message, and
//! its memory stays reserved. One that is intact, but of another version, or whose boxes cannot be
//! created, is passed on to the next kernel. It is not consumed either: a module that is loaded
//! instead of this one may be able to read it.

use crate::abi::{
    self,
    box_record::BoxRecord,
    FdRecord, //
};
use crate::access::NodeAccess;
use crate::boxes::box_list;
use crate::boxes::entry::Incoming;
use crate::boxes::fd_box::FdBox;
use crate::kexec::blob::{
    self,
    Left, //
};
use crate::kexec::handover;
use crate::kexec::kho;
use crate::kexec::poison;
use crate::kexec::record::Record;
use crate::leaving::Change;
use crate::name::Name;
use kernel::prelude::*;

/// A blob of the last kernel from which boxes were created, but which is not consumed yet.
pub(crate) struct Arrival(Option<Left>);

impl Arrival {
    /// Consumes it. Called when nothing can fail any more.
    pub(crate) fn taken(&mut self) {
        if let Some(left) = self.0.take() {
            // Before it is freed: a boat may be reading it.
            handover::tell_boat();
            left.taken();
        }
    }
}

/// Creates boxes from what the last kernel left. What cannot be used stays reserved, with a
/// message. After `ENOMEM` the next attempt finds it unchanged. Fails with `EAGAIN` once the reboot
/// has begun; a reboot that begins later waits, so that it carries over all boxes or none.
pub(crate) fn receive() -> Result<Arrival> {
    let _change = Change::begin()?;
    match poison::receive(kho::crc32) {
        Ok(()) => {}
        Err(ENOMEM) => return Err(ENOMEM),
        Err(err) => pr_err!(
            "what the last kernel tells of broken memory cannot be read: {:?}; such pages may come into use\n",
            err
        ),
    }
    let left = match blob::incoming() {
        None => None,
        Some(Err(why)) => refuse(why),
        Some(Ok(left)) => accept(left)?,
    };
    Ok(Arrival(left))
}

fn refuse(why: abi::Malformed) -> Option<Left> {
    pr_err!(
        "handover from the last kernel refused: {}; its memory stays reserved until reboot\n",
        why.as_str()
    );
    handover::mark_refused();
    None
}

/// Creates boxes from a blob; returns the blob if it is to be consumed.
fn accept(left: Left) -> Result<Option<Left>> {
    let root = left.root();
    let producer = abi::until_nul(&root.producer).unwrap_or(b"?");
    let producer = kernel::str::BStr::from_bytes(producer);
    let body = match left.body() {
        Ok(body) => body,
        Err(ENOMEM) => return Err(no_memory(producer)),
        Err(_) => return Ok(refuse(abi::Malformed::Truncated)),
    };
    let checked = match abi::Body::check(root, body.bytes(), kho::crc32) {
        Ok(checked) => checked,
        Err(why) => return Ok(refuse(why)),
    };
    if !root.is_known() {
        pr_err!("handover of version {} from kernel {}, this module reads versions up to {}: it is kept, load a module that reads it, or kexec back\n", root.version, producer, abi::VERSION);
    } else {
        match boxes_from(&checked) {
            Ok(()) => {
                pr_info!("{} boxes from kernel {}\n", root.nr_boxes, producer);
                return Ok(Some(left));
            }
            Err(EEXIST) => {
                box_list::forget_all();
                return Ok(refuse(abi::Malformed::Name));
            }
            Err(ENOMEM) => {
                box_list::forget_all();
                return Err(no_memory(producer));
            }
            Err(err) => {
                pr_err!(
                    "no room for the boxes from kernel {}: {:?}; they are kept, load the module again, or kexec\n",
                    producer,
                    err
                );
                box_list::forget_all();
            }
        }
    }
    handover::mark_refused();
    handover::pass_through(root, body);
    Ok(None)
}

fn no_memory(producer: &kernel::str::BStr) -> Error {
    pr_err!(
        "no memory for the boxes from kernel {}: they are as before, free some and load the module again\n",
        producer
    );
    ENOMEM
}

fn boxes_from(body: &abi::Body<'_>) -> Result {
    for record in body.boxes() {
        let record = record.map_err(|_| EIO)?;
        let access = NodeAccess::of_record(&record.access)?;
        box_list::create_with(Name::new(record.name)?, access, |bx| {
            fill(bx, body, &record)?;
            bx.arrived()
        })?;
    }
    Ok(())
}

/// Puts the descriptors of a record into `bx`.
pub(crate) fn fill(bx: &FdBox, body: &abi::Body<'_>, record: &BoxRecord<'_>) -> Result {
    for fd in record.fds() {
        let fd = fd.map_err(|_| EIO)?;
        bx.put_incoming(Name::new(fd.name)?, incoming_from(body, &fd)?)?;
    }
    Ok(())
}

fn incoming_from(body: &abi::Body<'_>, fd: &FdRecord<'_>) -> Result<Incoming> {
    let extents = handover::copied_extents(body, fd.first_extent, fd.nr_extents)?;
    Incoming::new(fd.compatible, Record::new(fd.data, extents)?)
}
