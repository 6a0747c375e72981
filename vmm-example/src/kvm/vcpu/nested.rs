//! Interprets the state of nested guests.

use std::mem::offset_of;

use kvm_bindings::{
    KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_GIF_SET, kvm_nested_state,
    kvm_vmx_nested_state_hdr,
};

/// The address of the VMX region if the guest does not use VMX.
const VMX_OFF: u64 = u64::MAX;

/// Whether a saved `struct kvm_nested_state` belongs to a guest that has no nested guest, present
/// or imminent: then nothing is lost without it.
pub(super) fn is_idle(state: &[u8]) -> bool {
    let half = |at: usize| {
        let bytes = state.get(at..at + 2)?.try_into().ok()?;
        Some(u32::from(u16::from_ne_bytes(bytes)))
    };
    let flags = half(offset_of!(kvm_nested_state, flags));
    if half(offset_of!(kvm_nested_state, format)) == Some(KVM_STATE_NESTED_FORMAT_SVM) {
        // Without this flag it takes no interrupts.
        return flags == Some(KVM_STATE_NESTED_GIF_SET);
    }
    let at = offset_of!(kvm_nested_state, hdr) + offset_of!(kvm_vmx_nested_state_hdr, vmxon_pa);
    let vmxon = state.get(at..at + 8);
    flags == Some(0) && vmxon == Some(&VMX_OFF.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(flags: u16, format: u16, first: u64) -> Vec<u8> {
        let mut state = [&flags.to_ne_bytes()[..], &format.to_ne_bytes()].concat();
        state.extend(128u32.to_ne_bytes());
        state.extend(first.to_ne_bytes());
        state.resize(128, 0);
        state
    }

    #[test]
    fn a_guest_without_guests_is_told_from_one_with() {
        // VMX: off, on, with a nested guest. SVM: off or on, without interrupts, with a nested
        // guest.
        assert!(is_idle(&state(0, 0, u64::MAX)));
        assert!(!is_idle(&state(0, 0, 0x1000)));
        assert!(!is_idle(&state(1, 0, u64::MAX)));
        assert!(is_idle(&state(0x100, 1, 0)));
        assert!(!is_idle(&state(0, 1, 0)));
        assert!(!is_idle(&state(0x101, 1, 0x1000)));
        assert!(!is_idle(&[0; 10]));
    }
}
