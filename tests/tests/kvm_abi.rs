//! The state of a VM and a guest_memfd for the next kernel, built on the host from the module's own
//! file: golden bytes, and what is refused.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the files belong to the kernel module, which uses all of them"
)]

#[path = "../../kmod/abi/mod.rs"]
mod abi;

use abi::kvm::{self as abi_kvm, GuestMemfd, Vm};
use abi::{Malformed, Sink, layout::Layout};

/// As version 1 writes them. Never edit these: another layout has another compatible string.
const GOLDEN_VM: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x3e\x00\x00\x00";
const GOLDEN_GUEST_MEMFD: &[u8] =
    b"\x00\x00\x20\x00\x01\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00vm";

const VM: Vm = Vm {
    kind: 1,
    machine: 62,
};
const GUEST_MEMFD: GuestMemfd<'_> = GuestMemfd {
    size: 0x1_0020_0000,
    flags: 3,
    vm: b"vm",
};

struct Out(Vec<u8>);

impl Sink for Out {
    type Error = std::convert::Infallible;

    fn put(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn version_1_is_what_it_was() {
    let mut out = Out(Vec::new());
    VM.put(&mut out).unwrap();
    assert_eq!(out.0, GOLDEN_VM);
    let mut out = Out(Vec::new());
    GUEST_MEMFD.put(&mut out).unwrap();
    assert_eq!(out.0, GOLDEN_GUEST_MEMFD);

    assert_eq!(Vm::decode(GOLDEN_VM), Ok(VM));
    assert_eq!(GuestMemfd::decode(GOLDEN_GUEST_MEMFD), Ok(GUEST_MEMFD));
    assert_eq!(abi_kvm::KVM_VM, b"fdbox,kvm-vm-v1");
    assert_eq!(abi_kvm::GUEST_MEMFD, b"fdbox,guest-memfd-v1");
}

#[test]
fn what_is_shorter_or_longer_is_refused() {
    for len in 0..GOLDEN_VM.len() {
        assert_eq!(Vm::decode(&GOLDEN_VM[..len]), Err(Malformed::Fd));
    }
    for len in 0..GOLDEN_GUEST_MEMFD.len() {
        let refused = GuestMemfd::decode(&GOLDEN_GUEST_MEMFD[..len]);
        assert_eq!(refused, Err(Malformed::Fd));
    }
    let longer = |golden: &[u8]| [golden, &[0]].concat();
    assert_eq!(Vm::decode(&longer(GOLDEN_VM)), Err(Malformed::Fd));
    let longer = longer(GOLDEN_GUEST_MEMFD);
    assert_eq!(GuestMemfd::decode(&longer), Err(Malformed::Fd));
}
