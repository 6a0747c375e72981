//! Writing a saved state into a vCPU.

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::msrs::{self, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE};
use super::{Known, SregsV1, StateShape, VcpuStateV1, nested};
use crate::kvm::{KvmError, named, sys};

/// What could not be restored exactly; the guest runs anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestoreNotes {
    /// MSRs that this host refused and that do not have the saved value either.
    pub(crate) refused_msrs: Vec<u32>,
}

/// A part of the state that one call to KVM writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Cpuid,
    MpState,
    Regs,
    Sregs,
    Xsave,
    Xcrs,
    DebugRegs,
    Lapic,
    /// All but the timer's deadline, and the TSC where its offset is known.
    Msrs,
    TscOffset,
    Nested,
    TscDeadline,
    Events,
}

/// The order in which parts are written.
const ORDER: [Part; 13] = [
    // First: what KVM accepts from here on depends on it.
    Part::Cpuid,
    Part::MpState,
    Part::Regs,
    Part::Sregs,
    Part::Xsave,
    Part::Xcrs,
    Part::DebugRegs,
    // After SREGS, which contain the APIC base; before the MSRs, one of which arms its timer.
    Part::Lapic,
    Part::Msrs,
    Part::TscOffset,
    // After SREGS: EFER.SVME or CR4.VMXE must be set before a nested guest can be. After the
    // MSRs: the state is checked against what the VMX capability MSRs allow and
    // IA32_FEATURE_CONTROL unlocks, those can no longer be written once VMX is on, and a nested
    // exit restores values that are taken from the MSRs at this point.
    Part::Nested,
    // After the offset, or the deadline would be compared with the wrong time. A deadline that has
    // passed fires at once.
    Part::TscDeadline,
    // Last: SET_REGS drops a pending exception.
    Part::Events,
];

/// Restores a saved state into a new vCPU of a VM whose interrupt controller and memory exist, of which something may
/// be known.
pub(crate) fn restore(
    fd: &VcpuFd,
    state: &VcpuStateV1,
    shape: &StateShape,
    known: &Known,
) -> Result<RestoreNotes, KvmError> {
    let mut notes = RestoreNotes::default();
    for part in ORDER {
        notes
            .refused_msrs
            .extend(part.write(fd, state, shape, known)?);
    }
    Ok(notes)
}

impl Part {
    /// Returns the MSRs that KVM refused.
    fn write(
        self,
        fd: &VcpuFd,
        state: &VcpuStateV1,
        shape: &StateShape,
        known: &Known,
    ) -> Result<Vec<u32>, KvmError> {
        match self {
            // KVM looks at all of it again, even if it is the same.
            Self::Cpuid if state.cpuid == known.cpuid => {}
            Self::Cpuid => named("KVM_SET_CPUID2", fd.set_cpuid2(&cpuid_of(&state.cpuid)?))?,
            Self::MpState => named("KVM_SET_MP_STATE", fd.set_mp_state(state.mp_state))?,
            Self::Regs => named("KVM_SET_REGS", fd.set_regs(&state.regs))?,
            Self::Sregs => set_sregs(fd, &state.sregs)?,
            Self::Xsave => {
                let written = sys::set_xsave(fd, &state.xsave, shape.xsave_len);
                named("KVM_SET_XSAVE", written)?;
            }
            Self::Xcrs => named("KVM_SET_XCRS", fd.set_xcrs(&state.xcrs))?,
            Self::DebugRegs => named("KVM_SET_DEBUGREGS", fd.set_debug_regs(&state.debug_regs))?,
            Self::Lapic => named("KVM_SET_LAPIC", fd.set_lapic(&state.lapic))?,
            Self::Msrs | Self::TscDeadline => {
                let has_offset = state.tsc_offset.is_some();
                return msrs::set(fd, &self.msrs(&state.msrs, has_offset), &known.msrs);
            }
            Self::TscOffset => {
                if let Some(offset) = state.tsc_offset {
                    named("KVM_VCPU_TSC_OFFSET", sys::set_tsc_offset(fd, offset))?;
                }
            }
            Self::Nested => {
                if let Some(nested) = &state.nested {
                    set_nested(fd, nested, shape)?;
                }
            }
            Self::Events => named("KVM_SET_VCPU_EVENTS", fd.set_vcpu_events(&state.events))?,
        }
        Ok(Vec::new())
    }

    /// Which of the saved MSRs it is about.
    fn msrs(self, saved: &[kvm_msr_entry], has_offset: bool) -> Vec<&kvm_msr_entry> {
        let is_mine = |msr: &&kvm_msr_entry| match msr.index {
            MSR_IA32_TSC_DEADLINE => self == Self::TscDeadline,
            MSR_IA32_TSC if has_offset => false,
            _ => self == Self::Msrs,
        };
        saved.iter().filter(is_mine).collect()
    }
}

fn set_sregs(fd: &VcpuFd, sregs: &SregsV1) -> Result<(), KvmError> {
    match sregs {
        SregsV1::Sregs(sregs) => named("KVM_SET_SREGS", fd.set_sregs(sregs)),
        SregsV1::Sregs2(bytes) => {
            let bytes = bytes.as_slice().try_into().map_err(|_| KvmError::Lacks {
                what: "the saved form of the control registers",
            })?;
            named("KVM_SET_SREGS2", sys::set_sregs2(fd, bytes))
        }
    }
}

/// A guest without a nested guest, present or imminent, does not need KVM's nested virtualisation.
pub(super) fn set_nested(fd: &VcpuFd, state: &[u8], shape: &StateShape) -> Result<(), KvmError> {
    if shape.has_nested {
        return named("KVM_SET_NESTED_STATE", sys::set_nested(fd, state));
    }
    match nested::is_idle(state) {
        true => Ok(()),
        false => Err(KvmError::Lacks {
            what: "nested virtualisation, which the guest makes use of",
        }),
    }
}

fn cpuid_of(entries: &[kvm_cpuid_entry2]) -> Result<CpuId, KvmError> {
    CpuId::from_entries(entries).map_err(|_| KvmError::Lacks {
        what: "room for the saved CPUID",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part comes behind those that KVM must have before it. No machine of ours has VMX, so that for it this
    /// is all that tells.
    #[test]
    fn parts_are_written_in_the_order_that_kvm_needs() {
        let at = |part| ORDER.iter().position(|other| *other == part).unwrap();
        for (first, then) in [
            (Part::Cpuid, Part::Sregs),
            (Part::Cpuid, Part::Xsave),
            (Part::Cpuid, Part::Msrs),
            (Part::Sregs, Part::Lapic),
            (Part::Lapic, Part::Msrs),
            (Part::Lapic, Part::TscDeadline),
            (Part::Sregs, Part::Nested),
            (Part::Msrs, Part::Nested),
            (Part::TscOffset, Part::TscDeadline),
            (Part::Regs, Part::Events),
            (Part::Nested, Part::Events),
        ] {
            assert!(at(first) < at(then), "{first:?} before {then:?}");
        }
        assert_eq!((at(Part::Cpuid), at(Part::Events)), (0, ORDER.len() - 1));
    }

    #[test]
    fn the_deadline_comes_by_itself_and_the_tsc_by_its_offset() {
        let saved = [0x3a, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE, 0x480].map(|index| kvm_msr_entry {
            index,
            ..Default::default()
        });
        let of = |part: Part, has_offset| -> Vec<u32> {
            let msrs = part.msrs(&saved, has_offset).into_iter();
            msrs.map(|msr| msr.index).collect()
        };
        assert_eq!(of(Part::Msrs, true), [0x3a, 0x480]);
        assert_eq!(of(Part::Msrs, false), [0x3a, MSR_IA32_TSC, 0x480]);
        assert_eq!(of(Part::TscDeadline, true), [MSR_IA32_TSC_DEADLINE]);
    }
}
