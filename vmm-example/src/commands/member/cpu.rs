//! Checks whether this host's CPU and KVM have what a guest was given on the last one.

use vmm_fdbox::update::PartyError;

use crate::error::warn;
use crate::guest::cpuid::host::{ARCH_CAPABILITIES, lacking, lacking_immunities};
use crate::guest::state::GuestState;
use crate::kvm::Host;
use crate::kvm::vcpu::VcpuStateV1;
use crate::update::party_error;

/// Whether what [`check`] looks at is the same in both.
pub(super) fn is_same(one: &GuestState, other: &GuestState) -> bool {
    let (Some(one), Some(other)) = (one.vcpus.first(), other.vcpus.first()) else {
        return false;
    };
    let immunities = |vcpu: &VcpuStateV1| {
        let msr = vcpu.msrs.iter().find(|msr| msr.index == ARCH_CAPABILITIES);
        msr.map(|msr| msr.data)
    };
    one.cpuid == other.cpuid && immunities(one) == immunities(other)
}

/// Reports what is missing: as an error, or only as a warning if the guest is to run anyway.
pub(super) fn check(host: &Host, state: &GuestState, force: bool) -> Result<(), PartyError> {
    let Some(vcpu) = state.vcpus.first() else {
        return Ok(());
    };
    let supported = host.supported_cpuid().map_err(party_error)?;
    let immunities = host.feature_msr(ARCH_CAPABILITIES).map_err(party_error)?;
    let mut missing = lacking(&vcpu.cpuid, supported.as_slice());
    missing.extend(lacking_immunities(&vcpu.msrs, immunities));
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let problem = format!("This host's CPU and KVM lack what the guest was given: {missing}");
    if force {
        warn(&problem);
        return Ok(());
    }
    let remedy = "boot a host that has it, or resume with --force-cpu, and the guest may crash";
    Err(format!("{problem}: {remedy}").into())
}
