// SPDX-License-Identifier: GPL-2.0

//! Structs of fixed size in the handover ABI. Fields are not padded, and numbers are little-endian.
//!
//! Like `mod.rs`, this file has no dependencies and is built on the host by the project's tests.

use super::Sink;

/// A number, an array of bytes, or a struct of these.
pub(crate) trait Layout: Sized {
    /// Size in bytes.
    const LEN: usize;
    /// Appends it to `out`.
    fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error>;
    /// Removes it from the front of `bytes`; `None` if `bytes` is too short.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

impl<const LEN: usize> Layout for [u8; LEN] {
    const LEN: usize = LEN;

    fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        out.put(self)
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (field, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*field)
    }
}

macro_rules! number {
    ($($type:ty),+) => {$(
        impl Layout for $type {
            const LEN: usize = size_of::<$type>();

            fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
                out.put(&self.to_le_bytes())
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Layout::take(bytes).map(<$type>::from_le_bytes)
            }
        }
    )+};
}

number!(u32, u64);

/// Defines a struct of the ABI.
macro_rules! layout {
    ($(#[$meta:meta])* struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)+
        }

        impl crate::abi::layout::Layout for $name {
            const LEN: usize = 0 $(+ <$type as crate::abi::layout::Layout>::LEN)+;

            fn put<S: crate::abi::Sink>(&self, out: &mut S) -> Result<(), S::Error> {
                $(self.$field.put(out)?;)+
                Ok(())
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some($name {
                    $($field: crate::abi::layout::Layout::take(bytes)?,)+
                })
            }
        }
    };
}
pub(crate) use layout;
