// SPDX-License-Identifier: GPL-2.0

//! Names of boxes and descriptors.

use crate::abi;
use core::cmp::Ordering;
use kernel::prelude::*;

/// A name: 1 to 255 bytes, no NUL, no `/`, not `.` or `..`.
#[derive(PartialEq, Eq)]
pub(crate) struct Name(KVec<u8>);

impl Name {
    /// `EINVAL` if `bytes` is not a valid name.
    pub(crate) fn new(bytes: &[u8]) -> Result<Name> {
        if !abi::name_is_valid(bytes) {
            return Err(EINVAL);
        }
        let mut name = KVec::new();
        name.extend_from_slice(bytes, GFP_KERNEL)?;
        Ok(Name(name))
    }

    /// The empty name, for errors that name no descriptor.
    pub(crate) fn empty() -> Name {
        Name(KVec::new())
    }

    /// The name in the array of an ioctl's argument.
    pub(crate) fn from_array(array: &[u8]) -> Result<Name> {
        Name::new(abi::until_nul(array).ok_or(EINVAL)?)
    }

    /// Its bytes, without a NUL.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As in an ioctl's argument: NUL-padded.
    pub(crate) fn to_array(&self) -> [u8; abi::NAME_LEN] {
        let mut array = [0; abi::NAME_LEN];
        array[..self.0.len()].copy_from_slice(&self.0);
        array
    }

    /// A copy.
    pub(crate) fn try_clone(&self) -> Result<Name> {
        Name::new(&self.0)
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl kernel::fmt::Display for Name {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        kernel::fmt::Display::fmt(kernel::str::BStr::from_bytes(&self.0), f)
    }
}
