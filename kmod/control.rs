// SPDX-License-Identifier: GPL-2.0

//! The ioctls: of the control node, `/dev/fdbox/fdbox`, and of the boxes.

use crate::abi;
use crate::argument::{
    self,
    Growable, //
};
use crate::boxes;
use crate::bx::{
    FdBox,
    State, //
};
use crate::entry::{
    Content,
    Entry, //
};
use crate::file::{
    self,
    NodeOwner, //
};
use crate::handover;
use crate::kho;
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

/// The control node. An open file of it has no state.
pub(crate) struct Control;

#[vtable]
impl MiscDevice for Control {
    type Ptr = ();

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result {
        Ok(())
    }

    fn ioctl(_device: (), _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::CREATE_BOX => {
                allowed()?;
                boxes::create(read_name(arg, 0)?.0, NodeOwner::ROOT)?;
            }
            uapi::DELETE_BOX => {
                allowed()?;
                boxes::delete(&read_name(arg, 0)?.0)?;
            }
            uapi::INFO => info(arg)?,
            uapi::NEXT_BOX => next_box(arg)?,
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

/// Name and flags in a struct of flags and name; no flags but the `known` ones.
fn read_name(arg: usize, known: u64) -> Result<(Name, u64)> {
    let bytes = argument::read::<{ uapi::NAMED_LEN }>(arg)?;
    let flags = argument::long(&bytes, 0);
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    Ok((Name::from_array(&bytes[8..])?, flags))
}

fn info(arg: usize) -> Result {
    allowed()?;
    let mut info = Growable::<{ uapi::INFO_LEN }>::read(arg, uapi::INFO_LEN)?;
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
    info.set_word(8, uapi::UAPI_VERSION);
    info.set_word(12, abi::VERSION);
    info.set_long(16, features);
    info.set_long(24, boxes::count());
    info.set_long(32, stats.bytes);
    info.set_long(40, stats.extents);
    info.set_long(48, stats.pages);
    info.write()
}

fn next_box(arg: usize) -> Result {
    allowed()?;
    let mut next = Growable::<{ uapi::NEXT_BOX_LEN }>::read(arg, uapi::NEXT_BOX_LEN)?;
    let bx = boxes::next(argument::long(&next.bytes, 8)).ok_or(ENOENT)?;
    let inner = bx.inner.lock();
    let state = match inner.state {
        State::Sealed { .. } => uapi::STATE_SEALED,
        State::Open | State::Dead => uapi::STATE_OPEN,
    };
    next.set_long(8, bx.id + 1);
    next.set_word(16, state);
    next.set_word(20, inner.entries.len() as u32);
    drop(inner);
    next.set(24, &bx.name.to_array());
    next.write()
}

/// The ioctls of a box.
fn box_ioctl(bx: &FdBox, node: &File, cmd: u32, arg: usize) -> Result<isize> {
    let known = [uapi::PUT_FD, uapi::GET_FD, uapi::SEAL, uapi::UNSEAL];
    if !known.contains(&cmd) && cmd != uapi::NEXT_FD && cmd != uapi::SEAL_ERROR {
        return Err(ENOTTY);
    }
    allowed()?;
    match cmd {
        uapi::PUT_FD => put(bx, arg)?,
        uapi::GET_FD => return get(bx, arg),
        uapi::SEAL => bx.seal(node)?,
        uapi::UNSEAL => bx.unseal()?,
        uapi::NEXT_FD => next_fd(bx, arg)?,
        _ => seal_error(bx, arg)?,
    }
    Ok(0)
}

fn put(bx: &FdBox, arg: usize) -> Result {
    let bytes = argument::read::<{ uapi::PUT_LEN }>(arg)?;
    if argument::long(&bytes, 0) != 0 || argument::word(&bytes, 12) != 0 {
        return Err(EINVAL);
    }
    bx.put(Name::from_array(&bytes[16..])?, argument::word(&bytes, 8))
}

fn get(bx: &FdBox, arg: usize) -> Result<isize> {
    let (name, flags) = read_name(arg, uapi::GET_KEEP)?;
    let fd = bx.get(&name, flags & uapi::GET_KEEP != 0)?;
    Ok(fd as isize)
}

fn next_fd(bx: &FdBox, arg: usize) -> Result {
    let mut next = Growable::<{ uapi::NEXT_FD_LEN }>::read(arg, uapi::NEXT_FD_LEN)?;
    if argument::word(&next.bytes, 20) != 0 {
        return Err(EINVAL);
    }
    let cursor = argument::long(&next.bytes, 8);
    let inner = bx.inner.lock();
    if inner.state == State::Dead {
        return Err(ENODEV);
    }
    let entry = inner
        .entries
        .iter()
        .find(|entry| entry.id >= cursor)
        .ok_or(ENOENT)?;
    let compatible = entry.compatible();
    next.set_long(8, entry.id + 1);
    next.set_word(16, fd_state(entry));
    next.set_long(24, entry.bytes());
    next.set(32, &entry.name.to_array());
    next.set(32 + uapi::NAME_LEN, &[0; uapi::COMPATIBLE_LEN]);
    next.set(32 + uapi::NAME_LEN, compatible);
    drop(inner);
    next.write()
}

fn fd_state(entry: &Entry) -> u32 {
    match &entry.content {
        Content::Incoming(incoming) => match registry::of_compatible(&incoming.compatible) {
            Ok(_) => uapi::FD_INCOMING,
            Err(_) => uapi::FD_UNKNOWN,
        },
        _ => uapi::FD_LIVE,
    }
}

fn seal_error(bx: &FdBox, arg: usize) -> Result {
    let mut out = Growable::<{ uapi::SEAL_ERROR_LEN }>::read(arg, uapi::SEAL_ERROR_LEN)?;
    let inner = bx.inner.lock();
    if inner.state == State::Dead {
        return Err(ENODEV);
    }
    let failure = inner.seal_error.as_ref().ok_or(ENOENT)?;
    out.set_word(8, -failure.error.to_errno() as u32);
    out.set_word(12, failure.reason as u32);
    out.set(16, &failure.name.to_array());
    out.set(16 + uapi::NAME_LEN, &[0; uapi::MESSAGE_LEN]);
    if let Some(message) = &failure.message {
        let message = message.to_bytes();
        let len = message.len().min(uapi::MESSAGE_LEN - 1);
        out.set(16 + uapi::NAME_LEN, &message[..len]);
    }
    drop(inner);
    out.write()
}

/// An ioctl on the node of a box.
///
/// # Safety
///
/// `bx` is what the node was made with, and the node holds it; `filp` is the open file, held by
/// the caller.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_box_ioctl(
    bx: *mut c_void,
    filp: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: As promised by the caller; the reference stays with the node.
    let bx = unsafe { <Arc<FdBox> as ForeignOwnable>::borrow(bx) };
    // SAFETY: As promised by the caller; an ioctl uses `fdget()`, not `fdget_pos()`.
    let node = unsafe { File::from_raw_file(filp) };
    match box_ioctl(&bx, node, cmd, arg) {
        Ok(value) => value as c_long,
        Err(err) => err.to_errno() as c_long,
    }
}

crate::ffi::check_export!(fdbox_rs_box_ioctl);
