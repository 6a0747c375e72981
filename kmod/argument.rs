// SPDX-License-Identifier: GPL-2.0

//! Arguments of the ioctls, in the caller's memory.

use crate::abi;
use crate::uapi;
use kernel::{
    prelude::*,
    uaccess::UserSlice, //
};

// What an argument names and what crosses a kexec have the same room.
const _: () = assert!(uapi::NAME_LEN == abi::NAME_LEN);
const _: () = assert!(uapi::COMPATIBLE_LEN == abi::COMPATIBLE_LEN);

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
