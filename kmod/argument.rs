// SPDX-License-Identifier: GPL-2.0

//! Arguments of the ioctls, in user memory.
//!
//! bindgen generates their structs from `include/uapi/linux/fdbox.h` when the module is built. zerocopy
//! proves that they have no padding, so that no kernel memory leaks.

use crate::abi;
use kernel::{
    prelude::*,
    uaccess::UserSlice, //
};
use zerocopy::Immutable;

mod generated {
    #![allow(
        clippy::all,
        dead_code,
        missing_docs,
        non_camel_case_types,
        unreachable_pub,
        reason = "written by bindgen from C"
    )]

    use kernel::{
        ffi,
        prelude::{
            FromBytes,
            IntoBytes, //
        }, //
    };
    use zerocopy_derive::Immutable;

    include!(concat!(env!("FDBOX_OBJ"), "/uapi_generated.rs"));
}

pub(crate) use generated::{
    fdbox_borrow as Borrow,
    fdbox_create_box as CreateBox,
    fdbox_delete_box as DeleteBox,
    fdbox_get_fd as GetFd,
    fdbox_info as Info,
    fdbox_lend as Lend,
    fdbox_next_box as NextBox,
    fdbox_next_fd as NextFd,
    fdbox_next_lost as NextLost,
    fdbox_put_fd as PutFd,
    fdbox_salvage as Salvage,
    fdbox_seal_error as SealErrorArg, //
};

// Names and strings have the same length in arguments and in the handover.
const _: fn(NextFd) -> [u8; abi::NAME_LEN] = |fd| fd.name;
const _: fn(NextFd) -> [u8; abi::COMPATIBLE_LEN] = |fd| fd.compatible;

/// The maximum size of a growable struct.
const GROWABLE_MAX: usize = 4096;

/// Reads an argument of fixed size.
pub(crate) fn read<T: FromBytes + IntoBytes>(arg: usize) -> Result<T> {
    let mut value = T::new_zeroed();
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), size_of::<T>()).reader();
    reader.read_slice(value.as_mut_bytes())?;
    Ok(value)
}

/// A struct that begins with the size known to the caller, and with flags.
pub(crate) trait HasSize: FromBytes + IntoBytes + Immutable {
    /// Its size in the first version: the minimum that callers may pass.
    const FIRST_SIZE: usize;

    /// The flags, of which none is defined.
    fn flags(&self) -> u32;
}

macro_rules! growable {
    ($($name:ident: $first:literal),+ $(,)?) => {$(
        const _: () = assert!(core::mem::offset_of!($name, size) == 0);
        const _: () = assert!(size_of::<$name>() >= $first);

        impl HasSize for $name {
            const FIRST_SIZE: usize = $first;

            fn flags(&self) -> u32 {
                self.flags
            }
        }
    )+};
}

growable!(
    Info: 56,
    NextBox: 280,
    NextFd: 336,
    SealErrorArg: 528,
    NextLost: 584,
    Salvage: 16,
    Borrow: 264,
    Lend: 32,
);

/// A growable struct of the caller; this module knows the fields of `T`.
pub(crate) struct Growable<T> {
    arg: usize,
    size: usize,
    pub(crate) value: T,
}

impl<T: HasSize> Growable<T> {
    /// Reads it. Bytes that this module does not know must be 0.
    pub(crate) fn read(arg: usize) -> Result<Self> {
        let size = read::<u32>(arg)? as usize;
        if size < T::FIRST_SIZE || size > GROWABLE_MAX {
            return Err(EINVAL);
        }
        let known = size_of::<T>();
        let mut value = T::new_zeroed();
        let mut reader = UserSlice::new(UserPtr::from_addr(arg), size).reader();
        reader.read_slice(&mut value.as_mut_bytes()[..size.min(known)])?;
        for _ in known..size {
            if reader.read::<u8>()? != 0 {
                return Err(E2BIG);
            }
        }
        if value.flags() != 0 {
            return Err(EINVAL);
        }
        Ok(Growable { arg, size, value })
    }

    /// Writes back the part that the caller knows; `size` stays unchanged.
    pub(crate) fn write(&self) -> Result {
        let len = self.size.min(size_of::<T>());
        let mut writer = UserSlice::new(UserPtr::from_addr(self.arg), len).writer();
        writer.write_slice(&self.value.as_bytes()[..len])
    }
}

/// `bytes` in an array of an argument, NUL-padded, and truncated if necessary.
pub(crate) fn padded<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut array = [0; LEN];
    let len = bytes.len().min(LEN - 1);
    array[..len].copy_from_slice(&bytes[..len]);
    array
}
