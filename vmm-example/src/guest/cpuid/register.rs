//! The registers that a CPUID leaf is in.

use kvm_bindings::kvm_cpuid_entry2;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    /// What it says in a leaf; nothing if there is none.
    pub(super) fn of(self, entry: Option<&kvm_cpuid_entry2>) -> u32 {
        entry.map_or(0, |entry| match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        })
    }
}
