// SPDX-License-Identifier: GPL-2.0

//! The numbers of `include/uapi/linux/fdbox.h`: those of the ioctls and those in their arguments,
//! whose structs are in `argument.rs`. `vmm-fdbox/tests/module.rs` builds this file on the host and
//! compares each number with the library's, which are compared with the header.

/// `_IO()` of the header.
const fn io(nr: u32) -> u32 {
    ('.' as u32) << 8 | nr
}

pub(crate) const CREATE_BOX: u32 = io(0);
pub(crate) const DELETE_BOX: u32 = io(1);
pub(crate) const PUT_FD: u32 = io(2);
pub(crate) const GET_FD: u32 = io(3);
pub(crate) const SEAL: u32 = io(4);
pub(crate) const UNSEAL: u32 = io(5);
pub(crate) const INFO: u32 = io(6);
pub(crate) const NEXT_BOX: u32 = io(7);
pub(crate) const NEXT_FD: u32 = io(8);
pub(crate) const SEAL_ERROR: u32 = io(9);
pub(crate) const NEXT_LOST: u32 = io(10);
pub(crate) const SALVAGE: u32 = io(11);
pub(crate) const BORROW: u32 = io(12);
pub(crate) const LEND: u32 = io(13);

/// A flag of GET_FD.
pub(crate) const GET_KEEP: u64 = 1 << 0;

/// What LEND does.
pub(crate) const LEND_LOOK: u32 = 0;
pub(crate) const LEND_SHOW: u32 = 1;
pub(crate) const LEND_OFFER: u32 = 2;
pub(crate) const LEND_RECALL: u32 = 3;
pub(crate) const LEND_READY: u32 = 4;

pub(crate) const UAPI_VERSION: u32 = 1;
pub(crate) const FEATURE_KHO: u64 = 1 << 0;
pub(crate) const FEATURE_KHO_BOOT: u64 = 1 << 1;
/// One per built-in kind.
pub(crate) const FEATURE_KINDS: [u64; 6] = [1 << 2, 1 << 3, 1 << 4, 1 << 6, 1 << 7, 1 << 8];
pub(crate) const FEATURE_REFUSED: u64 = 1 << 5;

pub(crate) const STATE_OPEN: u32 = 0;
pub(crate) const STATE_SEALED: u32 = 1;

pub(crate) const FD_LIVE: u32 = 0;
pub(crate) const FD_INCOMING: u32 = 1;
pub(crate) const FD_UNKNOWN: u32 = 2;

pub(crate) const REASON_OTHER: u32 = 0;
pub(crate) const REASON_MISSING_DEPENDENCY: u32 = 1;
pub(crate) const REASON_SHARED_FILE: u32 = 2;
pub(crate) const REASON_UNSUPPORTED_STATE: u32 = 3;
pub(crate) const REASON_NO_MEMORY: u32 = 4;

pub(crate) const LOST_OTHER: u32 = 0;
pub(crate) const LOST_UNKNOWN_KIND: u32 = 1;
pub(crate) const LOST_MEMORY: u32 = 2;
pub(crate) const LOST_DEPENDENCY: u32 = 3;
pub(crate) const LOST_DATA: u32 = 4;
pub(crate) const LOST_REFUSED: u32 = 5;
