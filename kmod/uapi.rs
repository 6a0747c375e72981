// SPDX-License-Identifier: GPL-2.0

//! `include/uapi/linux/fdbox.h`, as Rust sees it: numbers of the ioctls, and where the fields of
//! their arguments are. docs and tests compare the two.

use crate::abi::{
    COMPATIBLE_LEN,
    NAME_LEN, //
};
use kernel::{
    ioctl::_IO,
    prelude::*,
    uaccess::UserSlice, //
};

const TYPE: u32 = '.' as u32;

pub(crate) const CREATE_BOX: u32 = _IO(TYPE, 0);
pub(crate) const DELETE_BOX: u32 = _IO(TYPE, 1);
pub(crate) const PUT_FD: u32 = _IO(TYPE, 2);
pub(crate) const GET_FD: u32 = _IO(TYPE, 3);
pub(crate) const SEAL: u32 = _IO(TYPE, 4);
pub(crate) const UNSEAL: u32 = _IO(TYPE, 5);
pub(crate) const INFO: u32 = _IO(TYPE, 6);
pub(crate) const NEXT_BOX: u32 = _IO(TYPE, 7);
pub(crate) const NEXT_FD: u32 = _IO(TYPE, 8);
pub(crate) const SEAL_ERROR: u32 = _IO(TYPE, 9);

pub(crate) const UAPI_VERSION: u32 = 1;
pub(crate) const FEATURE_KHO: u64 = 1 << 0;
pub(crate) const FEATURE_KHO_BOOT: u64 = 1 << 1;
/// One for each built-in kind.
pub(crate) const FEATURE_KINDS: [u64; 5] = [1 << 2, 1 << 3, 1 << 4, 1 << 6, 1 << 7];
pub(crate) const FEATURE_REFUSED: u64 = 1 << 5;

pub(crate) const FD_LIVE: u32 = 0;
pub(crate) const FD_INCOMING: u32 = 1;
pub(crate) const FD_UNKNOWN: u32 = 2;

/// `struct fdbox_create_box`, `_delete_box` and `_get_fd`: flags, name.
pub(crate) const NAMED_LEN: usize = 8 + NAME_LEN;
/// `struct fdbox_put_fd`: flags, fd, pad, name.
pub(crate) const PUT_LEN: usize = 16 + NAME_LEN;
/// `struct fdbox_info`.
pub(crate) const INFO_LEN: usize = 56;
/// `struct fdbox_next_box`.
pub(crate) const NEXT_BOX_LEN: usize = 24 + NAME_LEN;
/// `struct fdbox_next_fd`.
pub(crate) const NEXT_FD_LEN: usize = 32 + NAME_LEN + COMPATIBLE_LEN;
/// Bytes of the message in `struct fdbox_seal_error`.
pub(crate) const MESSAGE_LEN: usize = 256;
/// `struct fdbox_seal_error`.
pub(crate) const SEAL_ERROR_LEN: usize = 16 + NAME_LEN + MESSAGE_LEN;

/// The largest size a growable struct may have.
const GROWABLE_MAX: usize = 4096;

/// An argument of fixed size.
pub(crate) fn read<const LEN: usize>(arg: usize) -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), LEN).reader();
    reader.read_slice(&mut bytes)?;
    Ok(bytes)
}

/// A growable struct of the caller, of which this module knows the first `LEN` bytes.
pub(crate) struct Growable<const LEN: usize> {
    arg: usize,
    size: usize,
    pub(crate) bytes: [u8; LEN],
}

impl<const LEN: usize> Growable<LEN> {
    /// Reads it. The caller knows `min` bytes or more, and sets nothing that we do not know.
    pub(crate) fn read(arg: usize, min: usize) -> Result<Self> {
        let size = u32::from_le_bytes(read::<4>(arg)?) as usize;
        if size < min || size > GROWABLE_MAX {
            return Err(EINVAL);
        }
        let mut bytes = [0; LEN];
        let mut reader = UserSlice::new(UserPtr::from_addr(arg), size).reader();
        reader.read_slice(&mut bytes[..size.min(LEN)])?;
        for _ in LEN..size {
            if reader.read::<u8>()? != 0 {
                return Err(E2BIG);
            }
        }
        if word(&bytes, 4) != 0 {
            return Err(EINVAL);
        }
        Ok(Growable { arg, size, bytes })
    }

    /// Writes back what the caller has room for; its size stays what it was.
    pub(crate) fn write(&self) -> Result {
        let len = self.size.min(LEN);
        let mut writer = UserSlice::new(UserPtr::from_addr(self.arg), len).writer();
        writer.write_slice(&self.bytes[..len])
    }

    /// Sets 4 bytes.
    pub(crate) fn set_word(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_le_bytes());
    }

    /// Sets 8 bytes.
    pub(crate) fn set_long(&mut self, at: usize, value: u64) {
        self.set(at, &value.to_le_bytes());
    }

    /// Sets bytes.
    pub(crate) fn set(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }
}

/// 4 bytes of an argument.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// 8 bytes of an argument.
pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
