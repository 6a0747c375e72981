//! The complete state of a vCPU, out of KVM and into KVM.
//!
//! The order on both ways matters; each rule is beside the call it is about.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Host, KvmError, NestedLen, Vm, XsaveLen, named, sys};

/// The TSC: kept by its offset from the host's.
const MSR_IA32_TSC: u32 = 0x10;
/// The local APIC timer's deadline: compared with the guest's TSC.
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
/// A vCPU's state, version 1. KVM's structs are opaque bytes on the wire.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VcpuStateV1 {
    pub(crate) id: u8,
    pub(crate) mp_state: kvm_mp_state,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: SregsV1,
    pub(crate) xsave: ByteBuf,
    pub(crate) xcrs: kvm_xcrs,
    pub(crate) debug_regs: kvm_debugregs,
    pub(crate) lapic: kvm_lapic_state,
    pub(crate) nested: Option<ByteBuf>,
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    /// What the host took its TSC's frequency for. Never set on a new vCPU: each kernel
    /// measures it anew, but the counter is the same, and so must be the guest's.
    pub(crate) tsc_khz: Option<u32>,
    pub(crate) tsc_offset: Option<u64>,
    pub(crate) msrs: Vec<kvm_msr_entry>,
    pub(crate) events: kvm_vcpu_events,
}

impl std::fmt::Debug for VcpuStateV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuStateV1")
            .field("id", &self.id)
            .field("rip", &format_args!("{:#x}", self.regs.rip))
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

/// Segments and control registers: with the PDPTRs where KVM offers them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SregsV1 {
    /// `struct kvm_sregs`
    Sregs(Box<kvm_sregs>),
    /// `struct kvm_sregs2`
    Sregs2(ByteBuf),
}

/// What saving and restoring needs to know beforehand, so as not to ask while a guest waits.
#[derive(Clone, Debug)]
pub(crate) struct StateShape {
    xsave_len: XsaveLen,
    msr_indices: Vec<u32>,
    nested_len: NestedLen,
}

impl StateShape {
    pub(crate) fn of(host: &Host, vm: &Vm) -> Result<Self, KvmError> {
        Ok(Self {
            xsave_len: vm.xsave_len(),
            msr_indices: host.msr_indices()?,
            nested_len: host.nested_len(),
        })
    }
}

/// Reads the state of a vCPU that does not run and has no access pending.
pub(crate) fn save(fd: &VcpuFd, id: u8, shape: &StateShape) -> Result<VcpuStateV1, KvmError> {
    // First: reading it can process a pending INIT or SIPI, which changes the rest.
    let mp_state = named("KVM_GET_MP_STATE", fd.get_mp_state())?;
    let regs = named("KVM_GET_REGS", fd.get_regs())?;
    let sregs = get_sregs(fd)?;
    let xsave = named("KVM_GET_XSAVE2", sys::get_xsave(fd, shape.xsave_len))?;
    let xcrs = named("KVM_GET_XCRS", fd.get_xcrs())?;
    let debug_regs = named("KVM_GET_DEBUGREGS", fd.get_debug_regs())?;
    let lapic = named("KVM_GET_LAPIC", fd.get_lapic())?;
    // Also without a nested guest: its header holds the global interrupt flag.
    let nested = named(
        "KVM_GET_NESTED_STATE",
        sys::get_nested(fd, shape.nested_len),
    )?;
    let cpuid = named("KVM_GET_CPUID2", fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES))?;
    Ok(VcpuStateV1 {
        id,
        mp_state,
        regs,
        sregs,
        xsave: ByteBuf::from(xsave),
        xcrs,
        debug_regs,
        lapic,
        nested: nested.map(ByteBuf::from),
        cpuid: cpuid.as_slice().to_vec(),
        // A host with an unstable TSC has neither.
        tsc_khz: fd.get_tsc_khz().ok(),
        tsc_offset: sys::get_tsc_offset(fd).ok(),
        msrs: get_msrs(fd, &shape.msr_indices)?,
        // Last: what the calls above may have queued is in it.
        events: named("KVM_GET_VCPU_EVENTS", fd.get_vcpu_events())?,
    })
}

/// What could not be put back exactly; the guest runs nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestoreNotes {
    /// MSRs that this host refused and that do not hold the saved value either.
    pub(crate) refused_msrs: Vec<u32>,
}

/// Writes a saved state into a new vCPU of a VM whose interrupt controller and memory exist.
pub(crate) fn restore(
    fd: &VcpuFd,
    state: &VcpuStateV1,
    shape: &StateShape,
) -> Result<RestoreNotes, KvmError> {
    // First: what KVM accepts from here on depends on it.
    named("KVM_SET_CPUID2", fd.set_cpuid2(&cpuid_of(&state.cpuid)?))?;
    named("KVM_SET_MP_STATE", fd.set_mp_state(state.mp_state))?;
    named("KVM_SET_REGS", fd.set_regs(&state.regs))?;
    set_sregs(fd, &state.sregs)?;
    named(
        "KVM_SET_XSAVE",
        sys::set_xsave(fd, &state.xsave, shape.xsave_len),
    )?;
    named("KVM_SET_XCRS", fd.set_xcrs(&state.xcrs))?;
    named("KVM_SET_DEBUGREGS", fd.set_debug_regs(&state.debug_regs))?;
    // After SREGS, which hold the APIC's base; before the MSRs, one of which arms its timer.
    named("KVM_SET_LAPIC", fd.set_lapic(&state.lapic))?;
    if let Some(nested) = &state.nested {
        // After SREGS: EFER.SVME must be set before a guest's guest can be.
        named("KVM_SET_NESTED_STATE", sys::set_nested(fd, nested))?;
    }
    let (deadline, others): (Vec<_>, Vec<_>) = state
        .msrs
        .iter()
        .filter(|msr| msr.index != MSR_IA32_TSC || state.tsc_offset.is_none())
        .partition(|msr| msr.index == MSR_IA32_TSC_DEADLINE);
    let mut refused_msrs = set_msrs(fd, &others)?;
    if let Some(offset) = state.tsc_offset {
        named("KVM_VCPU_TSC_OFFSET", sys::set_tsc_offset(fd, offset))?;
    }
    // After the offset, or the deadline would be compared with another time. One that
    // has passed fires at once.
    refused_msrs.extend(set_msrs(fd, &deadline)?);
    // Last: SET_REGS drops a pending exception.
    named("KVM_SET_VCPU_EVENTS", fd.set_vcpu_events(&state.events))?;
    Ok(RestoreNotes { refused_msrs })
}

/// Writes the state of a new vCPU into one that has run.
pub(crate) fn reset(fd: &VcpuFd, state: &VcpuStateV1, shape: &StateShape) -> Result<(), KvmError> {
    if let Some(nested) = &state.nested {
        // First: as long as it is a host of guests itself, it cannot get the control registers of
        // one that is not.
        named("KVM_SET_NESTED_STATE", sys::set_nested(fd, nested))?;
    }
    // An MSR that cannot be set back is one that the guest could not change either.
    restore(fd, state, shape).map(drop)
}

/// Tells the guest that it was stopped, so that its watchdogs forgive the gap.
pub(crate) fn notify_stopped(fd: &VcpuFd) {
    // EINVAL: the guest has no kvmclock, and so nobody to tell.
    let _ = fd.kvmclock_ctrl();
}

fn get_sregs(fd: &VcpuFd) -> Result<SregsV1, KvmError> {
    match sys::get_sregs2(fd) {
        Ok(bytes) => Ok(SregsV1::Sregs2(ByteBuf::from(bytes))),
        // A KVM before 5.14.
        Err(_) => Ok(SregsV1::Sregs(Box::new(named(
            "KVM_GET_SREGS",
            fd.get_sregs(),
        )?))),
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

fn cpuid_of(entries: &[kvm_cpuid_entry2]) -> Result<CpuId, KvmError> {
    CpuId::from_entries(entries).map_err(|_| KvmError::Lacks {
        what: "room for the saved CPUID",
    })
}

fn msrs_of(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Lacks {
        what: "room for the saved MSRs",
    })
}

/// Reads all that can be read; KVM stops at one that cannot.
fn get_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let wanted: Vec<_> = rest
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = msrs_of(&wanted)?;
        let read = named("KVM_GET_MSRS", fd.get_msrs(&mut msrs))?;
        found.extend_from_slice(&msrs.as_slice()[..read]);
        rest = rest.get(read + 1..).unwrap_or(&[]);
    }
    Ok(found)
}

/// Writes what is not as it was saved, as far as it can be written, and returns the MSRs
/// that stay different.
///
/// One that is at its saved value already is left alone: KVM lists MSRs that it lets
/// nobody write, and logs each try.
fn set_msrs(fd: &VcpuFd, saved: &[&kvm_msr_entry]) -> Result<Vec<u32>, KvmError> {
    let indices: Vec<u32> = saved.iter().map(|msr| msr.index).collect();
    let now = get_msrs(fd, &indices)?;
    let differing: Vec<kvm_msr_entry> = saved
        .iter()
        .filter(|msr| !holds(&now, msr))
        .map(|&&msr| msr)
        .collect();
    let mut refused = Vec::new();
    let mut rest = differing.as_slice();
    while !rest.is_empty() {
        let written = named("KVM_SET_MSRS", fd.set_msrs(&msrs_of(rest)?))?;
        refused.extend(rest.get(written).map(|msr| msr.index));
        rest = rest.get(written + 1..).unwrap_or(&[]);
    }
    Ok(refused)
}

/// Whether an MSR has the saved value.
fn holds(now: &[kvm_msr_entry], saved: &kvm_msr_entry) -> bool {
    now.iter()
        .any(|msr| msr.index == saved.index && msr.data == saved.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msr_holds_its_value_or_not() {
        let msr = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let now = [msr(0x10, 1), msr(0x1d9, 0)];
        assert!(holds(&now, &msr(0x1d9, 0)));
        assert!(!holds(&now, &msr(0x1d9, 1)));
        assert!(!holds(&now, &msr(0x11, 0)));
    }
}
