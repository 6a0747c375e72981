// SPDX-License-Identifier: GPL-2.0

//! The handover ABI of guests: the data of the kinds KVM VM and guest_memfd.
//!
//! Like `mod.rs`, this file only encodes and decodes, and is built on the host by the project's
//! tests. See docs/handover-abi.md for the tables. A changed layout gets a new compatible string.

use crate::abi::layout::Layout;
use crate::abi::{Malformed, Sink};

/// Compatible string of a KVM VM.
pub(crate) const KVM_VM: &[u8] = b"fdbox,kvm-vm-v1";
/// Compatible string of a guest_memfd.
pub(crate) const GUEST_MEMFD: &[u8] = b"fdbox,guest-memfd-v1";

crate::abi::layout::layout! {
    /// A KVM VM.
    struct Vm {
        /// The argument of KVM_CREATE_VM.
        kind: u64,
        /// ELF machine number of the architecture.
        machine: u32,
    }
}

impl Vm {
    /// Decodes `bytes`, which must have nothing else in it.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Vm, Malformed> {
        let vm = Vm::take(&mut bytes).ok_or(Malformed::Fd)?;
        bytes.is_empty().then_some(vm).ok_or(Malformed::Fd)
    }
}

/// The flags of a guest_memfd that can be mapped: `GUEST_MEMFD_FLAG_MMAP` and `GUEST_MEMFD_FLAG_INIT_SHARED`.
pub(crate) const MAPPABLE: u64 = 3;

crate::abi::layout::layout! {
    /// The fields of a guest_memfd. They are followed by the name of its VM in the box.
    struct GuestMemfdHead {
        size: u64,
        /// The flags that were passed to KVM_CREATE_GUEST_MEMFD.
        flags: u64,
        name_len: u32,
    }
}

/// A guest_memfd without its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestMemfd<'a> {
    pub(crate) size: u64,
    pub(crate) flags: u64,
    /// Name of its VM in the box.
    pub(crate) vm: &'a [u8],
}

impl<'a> GuestMemfd<'a> {
    pub(crate) fn put<S: Sink>(&self, out: &mut S) -> Result<(), S::Error> {
        let head = GuestMemfdHead {
            size: self.size,
            flags: self.flags,
            name_len: self.vm.len() as u32,
        };
        head.put(out)?;
        out.put(self.vm)
    }

    pub(crate) fn decode(mut bytes: &'a [u8]) -> Result<GuestMemfd<'a>, Malformed> {
        let head = GuestMemfdHead::take(&mut bytes).ok_or(Malformed::Fd)?;
        if head.name_len as usize != bytes.len() {
            return Err(Malformed::Fd);
        }
        Ok(GuestMemfd {
            size: head.size,
            flags: head.flags,
            vm: bytes,
        })
    }
}
