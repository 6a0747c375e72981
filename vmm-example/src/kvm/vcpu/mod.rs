//! Saving and restoring the complete state of a vCPU.
//!
//! The order matters in both directions; each rule is next to the call it concerns, or in `restore` next to
//! the part.

mod msrs;
mod nested;
mod restore;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use self::msrs::KnownMsrs;
use self::restore::set_nested;
pub(crate) use self::restore::{RestoreNotes, restore};
use super::{Host, KvmError, Vm, XsaveLen, exact, named, sys};
use crate::memory::layout::RamRange;

/// A vCPU's state, version 1. KVM's structs are stored as opaque bytes.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VcpuStateV1 {
    pub(crate) id: u8,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) mp_state: kvm_mp_state,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: SregsV1,
    pub(crate) xsave: ByteBuf,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) xcrs: kvm_xcrs,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) debug_regs: kvm_debugregs,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) lapic: kvm_lapic_state,
    pub(crate) nested: Option<ByteBuf>,
    #[serde(deserialize_with = "exact::list")]
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    /// The TSC frequency as known to the host. Never set on a new vCPU: each kernel measures it
    /// again, but the counter is the same, and so must be the guest's.
    pub(crate) tsc_khz: Option<u32>,
    pub(crate) tsc_offset: Option<u64>,
    #[serde(deserialize_with = "exact::list")]
    pub(crate) msrs: Vec<kvm_msr_entry>,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) events: kvm_vcpu_events,
}

impl VcpuStateV1 {
    /// Whether it is, or is about to be, in a nested guest.
    pub(crate) fn is_nested(&self) -> bool {
        self.nested
            .as_ref()
            .is_some_and(|state| !nested::is_idle(state))
    }
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

/// Segments and control registers: with the PDPTRs if KVM offers them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SregsV1 {
    /// `struct kvm_sregs`
    #[serde(deserialize_with = "exact::boxed")]
    Sregs(Box<kvm_sregs>),
    /// `struct kvm_sregs2`
    #[serde(deserialize_with = "exact::bytes::<_, { sys::SREGS2_LEN }>")]
    Sregs2(ByteBuf),
}

/// What saving and restoring needs to know in advance, so as not to query it while a guest waits.
#[derive(Clone, Debug)]
pub(crate) struct StateShape {
    xsave_len: XsaveLen,
    msr_indices: Vec<u32>,
    /// Those of them that neither CPUID nor control registers nor the APIC have a say in.
    unlisted: Vec<u32>,
    has_nested: bool,
}

impl StateShape {
    pub(crate) fn of(host: &Host, vm: &Vm) -> Result<Self, KvmError> {
        let listed = host.msr_indices()?;
        let unlisted = msrs::unlisted(&listed, host.mce_banks());
        Ok(Self {
            xsave_len: vm.xsave_len(),
            msr_indices: [&listed[..], &unlisted].concat(),
            unlisted,
            has_nested: host.has_nested(),
        })
    }
}

/// Maps a range of guest memory in KVM, so that the guest does not wait for that page by page. Only speed depends on
/// it: a KVM that cannot do it (before Linux 6.11) maps on access.
pub(crate) fn pre_fault(fd: &VcpuFd, range: RamRange) {
    let (mut gpa, mut len) = (range.gpa, range.len);
    while len > 0 {
        match sys::pre_fault(fd, gpa, len) {
            Ok(rest) => (gpa, len) = rest,
            Err(error) if error.errno() == libc::EINTR => {}
            Err(_) => return,
        }
    }
}

/// Reads the state of a vCPU that is not running and has no access pending.
pub(crate) fn save(fd: &VcpuFd, id: u8, shape: &StateShape) -> Result<VcpuStateV1, KvmError> {
    // First: reading it can process a pending INIT or SIPI, which changes the rest.
    let mp_state = named("KVM_GET_MP_STATE", fd.get_mp_state())?;
    let regs = named("KVM_GET_REGS", fd.get_regs())?;
    let sregs = get_sregs(fd)?;
    let xsave = named("KVM_GET_XSAVE2", sys::get_xsave(fd, shape.xsave_len))?;
    let xcrs = named("KVM_GET_XCRS", fd.get_xcrs())?;
    let debug_regs = named("KVM_GET_DEBUGREGS", fd.get_debug_regs())?;
    let lapic = named("KVM_GET_LAPIC", fd.get_lapic())?;
    // Also without a nested guest: its header contains the global interrupt flag.
    let nested = shape.has_nested.then(|| sys::get_nested(fd));
    let nested = named("KVM_GET_NESTED_STATE", nested.transpose())?;
    let cpuid = get_cpuid(fd)?;
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
        cpuid,
        // A host with an unstable TSC has neither.
        tsc_khz: fd.get_tsc_khz().ok(),
        tsc_offset: sys::get_tsc_offset(fd).ok(),
        msrs: msrs::get(fd, &shape.msr_indices)?,
        // Last: it includes events queued by the calls above.
        events: named("KVM_GET_VCPU_EVENTS", fd.get_vcpu_events())?,
    })
}

/// What a vCPU holds that does not run: it is read before a guest waits for it, and what is the same in the guest's
/// state need not be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Empty in a new vCPU.
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: KnownMsrs,
}

impl Known {
    pub(crate) fn of(fd: &VcpuFd, shape: &StateShape) -> Result<Self, KvmError> {
        Ok(Self {
            cpuid: get_cpuid(fd)?,
            msrs: KnownMsrs::of(fd, &shape.unlisted)?,
        })
    }
}

/// Restores the state of a new vCPU into one that has run.
pub(crate) fn reset(fd: &VcpuFd, state: &VcpuStateV1, shape: &StateShape) -> Result<(), KvmError> {
    if let Some(nested) = &state.nested {
        // First: while it is itself a hypervisor, it cannot get the control registers of a vCPU
        // that is not.
        set_nested(fd, nested, shape)?;
    }
    // An MSR that cannot be set back is one that the guest could not change either.
    restore(fd, state, shape, &Known::default()).map(drop)
}

/// Tells the guest that it was stopped, so that its watchdogs ignore the gap.
pub(crate) fn notify_stopped(fd: &VcpuFd) {
    // EINVAL: the guest does not use kvmclock, so there is nobody to tell.
    let _ = fd.kvmclock_ctrl();
}

/// The reason why `KVM_RUN` has just returned an internal error.
pub(crate) fn internal_error(fd: &mut VcpuFd) -> String {
    let suberror = sys::internal_error(fd);
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "it cannot emulate an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions came at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an event could not be delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "the CPU left the guest for an unknown reason",
        _ => "it does not say why",
    };
    format!("KVM cannot go on: {what} (internal error {suberror})")
}

fn get_cpuid(fd: &VcpuFd) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let cpuid = named("KVM_GET_CPUID2", fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES))?;
    Ok(cpuid.as_slice().to_vec())
}

fn get_sregs(fd: &VcpuFd) -> Result<SregsV1, KvmError> {
    match sys::get_sregs2(fd) {
        Ok(bytes) => Ok(SregsV1::Sregs2(ByteBuf::from(bytes))),
        // KVM before 5.14.
        Err(_) => Ok(SregsV1::Sregs(Box::new(named(
            "KVM_GET_SREGS",
            fd.get_sregs(),
        )?))),
    }
}
