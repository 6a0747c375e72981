//! The registers of a CPUID leaf.

use kvm_bindings::kvm_cpuid_entry2;

/// One of these registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    /// Its value in a leaf; 0 if the leaf does not exist.
    pub(super) fn of(self, entry: Option<&kvm_cpuid_entry2>) -> u32 {
        entry.map_or(0, |entry| match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        })
    }
}
