// SPDX-License-Identifier: GPL-2.0

//! The ioctls of the control node, `/dev/fdbox/fdbox`, and of the boxes.

use crate::abi;
use crate::access::NodeAccess;
use crate::argument::{
    self,
    padded,
    Borrow,
    CreateBox,
    DeleteBox,
    GetFd,
    Growable,
    Info,
    Lend,
    NextBox,
    NextFd,
    NextLost,
    PutFd,
    Salvage,
    SealErrorArg, //
};
use crate::boxes::borrowing;
use crate::boxes::box_list;
use crate::boxes::entry::{
    Content,
    Entry, //
};
use crate::boxes::fd_box::{
    FdBox,
    State, //
};
use crate::file::{
    self,
    BoxFile, //
};
use crate::kexec::handover;
use crate::kexec::kho;
use crate::lending;
use crate::name::Name;
use crate::registry;
use crate::uapi;
use kernel::{
    bindings,
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::Arc,
    types::ForeignOwnable, //
};

/// The control node. Its open files have no state.
pub(crate) struct Control;

#[vtable]
impl MiscDevice for Control {
    type Ptr = ();

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result {
        box_list::wait_until_loaded()
    }

    fn ioctl(_device: (), _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::CREATE_BOX => {
                allowed()?;
                let create: CreateBox = argument::read(arg)?;
                let name = name_of(create.flags, 0, &create.name)?;
                box_list::create(name, NodeAccess::NEW)?;
            }
            uapi::DELETE_BOX => {
                allowed()?;
                let delete: DeleteBox = argument::read(arg)?;
                box_list::delete(&name_of(delete.flags, 0, &delete.name)?)?;
            }
            uapi::INFO => info(arg)?,
            uapi::NEXT_BOX => next_box(arg)?,
            uapi::BORROW => {
                allowed()?;
                let borrow = Growable::<Borrow>::read(arg)?;
                borrowing::borrow(Name::from_array(&borrow.value.name)?)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

fn allowed() -> Result {
    match file::capable() {
        true => Ok(()),
        false => Err(EPERM),
    }
}

/// The name in an argument; fails if it has flags other than `known`.
fn name_of(flags: u64, known: u64, name: &[u8]) -> Result<Name> {
    match flags & !known {
        0 => Name::from_array(name),
        _ => Err(EINVAL),
    }
}

fn info(arg: usize) -> Result {
    allowed()?;
    let mut info = Growable::<Info>::read(arg)?;
    let stats = handover::stats();
    let mut features = 0;
    for (bit, set) in [
        (uapi::FEATURE_KHO, kho::enabled()),
        (uapi::FEATURE_KHO_BOOT, kho::booted()),
        (uapi::FEATURE_REFUSED, stats.refused),
    ] {
        features |= if set { bit } else { 0 };
    }
    for (kind, bit) in uapi::FEATURE_KINDS.into_iter().enumerate() {
        features |= if registry::serves(kind) { bit } else { 0 };
    }
    info.value = Info {
        uapi_version: uapi::UAPI_VERSION,
        handover_version: abi::VERSION,
        features,
        boxes: box_list::count(),
        handover_bytes: stats.bytes,
        handover_extents: stats.extents,
        handover_pages: stats.pages,
        ..info.value
    };
    info.write()
}

fn next_box(arg: usize) -> Result {
    allowed()?;
    let mut next = Growable::<NextBox>::read(arg)?;
    let bx = box_list::next(next.value.cursor).ok_or(ENOENT)?;
    let (state, fds) = bx.summary();
    let state = match state {
        State::Sealed { .. } | State::Lent => uapi::STATE_SEALED,
        State::Open | State::Dead => uapi::STATE_OPEN,
    };
    next.value = NextBox {
        cursor: bx.id + 1,
        state,
        fds: fds as u32,
        name: bx.name.to_array(),
        ..next.value
    };
    next.write()
}

/// The ioctls of a box. They are checked against the rights of the task that opened the node, which
/// may have passed the descriptor on.
fn box_ioctl(bx: &FdBox, node: &BoxFile<'_>, cmd: u32, arg: usize) -> Result<isize> {
    let known = [
        uapi::PUT_FD,
        uapi::GET_FD,
        uapi::SEAL,
        uapi::UNSEAL,
        uapi::NEXT_FD,
        uapi::SEAL_ERROR,
        uapi::NEXT_LOST,
        uapi::SALVAGE,
        uapi::LEND,
    ];
    if !known.contains(&cmd) {
        return Err(ENOTTY);
    }
    if !node.allowed() {
        return Err(EPERM);
    }
    match cmd {
        uapi::PUT_FD => put(bx, arg)?,
        uapi::GET_FD => return get(bx, arg),
        uapi::SEAL => bx.seal(node)?,
        uapi::UNSEAL => bx.unseal()?,
        uapi::NEXT_FD => next_fd(bx, arg)?,
        uapi::NEXT_LOST => next_lost(bx, arg)?,
        uapi::SALVAGE => salvage(bx, arg)?,
        uapi::LEND => lend(bx, arg)?,
        _ => seal_error(bx, arg)?,
    }
    Ok(0)
}

fn put(bx: &FdBox, arg: usize) -> Result {
    let put: PutFd = argument::read(arg)?;
    if put.pad != 0 {
        return Err(EINVAL);
    }
    bx.put(name_of(put.flags, 0, &put.name)?, put.fd)
}

fn get(bx: &FdBox, arg: usize) -> Result<isize> {
    let get: GetFd = argument::read(arg)?;
    let name = name_of(get.flags, uapi::GET_KEEP, &get.name)?;
    let fd = bx.get(&name, get.flags & uapi::GET_KEEP != 0)?;
    Ok(fd as isize)
}

fn next_fd(bx: &FdBox, arg: usize) -> Result {
    let mut next = Growable::<NextFd>::read(arg)?;
    if next.value.pad != 0 {
        return Err(EINVAL);
    }
    let entry = bx.next(next.value.cursor)?.ok_or(ENOENT)?;
    next.value = NextFd {
        cursor: entry.id + 1,
        state: fd_state(&entry),
        bytes: entry.bytes(),
        name: entry.name.to_array(),
        compatible: padded(entry.compatible()),
        ..next.value
    };
    next.write()
}

fn fd_state(entry: &Entry) -> u32 {
    match &entry.content {
        Content::Incoming(incoming) => match registry::known(&incoming.compatible) {
            Some(kind) if kind.supported().is_ok() => uapi::FD_INCOMING,
            _ => uapi::FD_UNKNOWN,
        },
        _ => uapi::FD_LIVE,
    }
}

fn seal_error(bx: &FdBox, arg: usize) -> Result {
    let mut out = Growable::<SealErrorArg>::read(arg)?;
    let known = out.value;
    out.value = bx.with_seal_error(|failure| {
        let message = failure.message.as_ref();
        SealErrorArg {
            error: -failure.error.to_errno(),
            reason: failure.reason as u32,
            name: failure.name.to_array(),
            message: padded(message.map_or(&[], |message| message.to_bytes())),
            ..known
        }
    })?;
    out.write()
}

fn next_lost(bx: &FdBox, arg: usize) -> Result {
    let mut next = Growable::<NextLost>::read(arg)?;
    let known = next.value;
    next.value = bx.with_lost(known.cursor, |lost, entry| {
        let message = lost.message.as_ref();
        NextLost {
            cursor: lost.id + 1,
            error: -lost.error.to_errno(),
            reason: lost.reason as u32,
            name: entry.name.to_array(),
            compatible: padded(entry.compatible()),
            message: padded(message.map_or(&[], |message| message.to_bytes())),
            ..known
        }
    })?;
    next.write()
}

fn salvage(bx: &FdBox, arg: usize) -> Result {
    let mut salvage = Growable::<Salvage>::read(arg)?;
    // Checks that the result can be written before anything is changed.
    salvage.value.lost = 0;
    salvage.write()?;
    salvage.value.lost = bx.salvage()? as u64;
    salvage.write()
}

fn lend(bx: &FdBox, arg: usize) -> Result {
    let mut lend = Growable::<Lend>::read(arg)?;
    // Checks that the result can be written before anything is changed.
    lend.write()?;
    match lend.value.act {
        uapi::LEND_LOOK => {}
        uapi::LEND_SHOW => bx.lend(lending::show)?,
        uapi::LEND_OFFER => bx.lend(lending::offer)?,
        uapi::LEND_RECALL => lending::recall(&bx.name)?,
        uapi::LEND_READY => bx.ready()?,
        _ => return Err(EINVAL),
    }
    let lease = bx.lease()?;
    lend.value = Lend {
        holder: lease.holder() as u32,
        wanted: lease.is_wanted().into(),
        ready: lease.is_ready().into(),
        generation: lease.generation(),
        lost: lease.is_of_lost_boat().into(),
        ..lend.value
    };
    lend.write()
}

/// An ioctl on the node of a box.
///
/// # Safety
///
/// `bx` is what the node was created with, and the node holds it; `filp` is the node's open file,
/// held by the caller.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_box_ioctl(
    bx: *mut c_void,
    filp: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: By the safety requirements of this function; the reference stays with the node.
    let bx = unsafe { <Arc<FdBox> as ForeignOwnable>::borrow(bx) };
    // SAFETY: By the safety requirements of this function; an ioctl uses `fdget()`, not `fdget_pos()`.
    let file = unsafe { File::from_raw_file(filp) };
    // SAFETY: By the safety requirements of this function.
    let node = unsafe { BoxFile::new(file) };
    match box_ioctl(&bx, &node, cmd, arg) {
        Ok(value) => value as c_long,
        Err(err) => err.to_errno() as c_long,
    }
}

crate::ffi::check_export!(fdbox_rs_box_ioctl);
