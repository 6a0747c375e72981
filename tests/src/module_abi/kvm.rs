//! The saved state of a VM, and of a guest_memfd.

use super::{Out, golden};
use crate::abi::kvm::{self as abi_kvm, GuestMemfd, Vm};
use crate::abi::{Malformed, layout::Layout};

const VM: Vm = Vm {
    kind: 1,
    machine: 62,
};
const GUEST_MEMFD: GuestMemfd<'_> = GuestMemfd {
    size: 0x1_0020_0000,
    flags: 3,
    vm: b"vm",
};

#[test]
fn version_1_is_what_it_was() {
    let mut out = Out::default();
    VM.put(&mut out).unwrap();
    assert_eq!(out.0, golden::VM);
    let mut out = Out::default();
    GUEST_MEMFD.put(&mut out).unwrap();
    assert_eq!(out.0, golden::GUEST_MEMFD);

    assert_eq!(Vm::decode(golden::VM), Ok(VM));
    assert_eq!(GuestMemfd::decode(golden::GUEST_MEMFD), Ok(GUEST_MEMFD));
    assert_eq!(abi_kvm::KVM_VM, b"fdbox,kvm-vm-v1");
    assert_eq!(abi_kvm::GUEST_MEMFD, b"fdbox,guest-memfd-v1");
}

#[test]
fn what_is_shorter_or_longer_is_refused() {
    for len in 0..golden::VM.len() {
        assert_eq!(Vm::decode(&golden::VM[..len]), Err(Malformed::Fd));
    }
    for len in 0..golden::GUEST_MEMFD.len() {
        let refused = GuestMemfd::decode(&golden::GUEST_MEMFD[..len]);
        assert_eq!(refused, Err(Malformed::Fd));
    }
    let longer = |golden: &[u8]| [golden, &[0]].concat();
    assert_eq!(Vm::decode(&longer(golden::VM)), Err(Malformed::Fd));
    let longer = longer(golden::GUEST_MEMFD);
    assert_eq!(GuestMemfd::decode(&longer), Err(Malformed::Fd));
}
