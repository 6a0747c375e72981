//! The guest's CPUID: the host's features, with the topology of this guest.

mod hide;
pub(crate) mod host;
mod names;
mod register;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use thiserror::Error;

pub(crate) use hide::HiddenCpuid;

/// More leaves than KVM accepts.
#[derive(Debug, Error)]
#[error("KVM's CPUID has no room for the topology leaves")]
pub(crate) struct CpuidError;

const LEAF_FEATURES: u32 = 0x1;
const LEAF_EXTENDED: u32 = 0x7;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_IDS: u32 = 0x8000_001e;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_0026;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
/// Leaf 7, subleaf 0: shadow stacks, and indirect branch tracking.
const ECX_SHSTK: u32 = 1 << 7;
const EDX_IBT: u32 = 1 << 20;

const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// CPUID of vCPU `id` of `cpus`: one socket, one thread per core.
pub(crate) fn for_vcpu(
    supported: &CpuId,
    hidden: &[HiddenCpuid],
    id: u8,
    cpus: u8,
) -> Result<CpuId, CpuidError> {
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|entry| {
            !matches!(
                entry.function,
                LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 | LEAF_AMD_TOPOLOGY
            )
        })
        .copied()
        .collect();
    for entry in &mut entries {
        match entry.function {
            LEAF_FEATURES => features(entry, id, cpus),
            LEAF_EXTENDED if entry.index == 0 => hide_shadow_stacks(entry),
            LEAF_AMD_SIZES => {
                entry.ecx = u32::from(cpus - 1) | (core_bits(cpus) << 12);
            }
            LEAF_AMD_IDS => {
                (entry.eax, entry.ebx, entry.ecx) = (u32::from(id), u32::from(id), 0);
            }
            _ => {}
        }
        hidden.iter().for_each(|bits| bits.hide(entry));
    }
    let highest = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0);
    if highest.is_some_and(|entry| entry.eax >= LEAF_TOPOLOGY) {
        entries.extend(topology(id, cpus));
    }
    CpuId::from_entries(&entries).map_err(|_| CpuidError)
}

fn features(entry: &mut kvm_cpuid_entry2, id: u8, cpus: u8) {
    // The APIC ID, the number of APIC IDs, and the cache line size for CLFLUSH.
    entry.ebx = (u32::from(id) << 24) | (u32::from(cpus) << 16) | (entry.ebx & 0xffff);
    // KVM offers the deadline timer with every in-kernel APIC.
    entry.ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR;
    if cpus > 1 {
        entry.edx |= EDX_HTT;
    } else {
        entry.edx &= !EDX_HTT;
    }
}

/// A shadow stack pointer is in none of the structs and MSRs that are saved, but in a register of
/// its own (`KVM_REG_GUEST_SSP`): a guest that uses it would not survive an update. IBT is hidden
/// as well, because both are one feature (CET) with shared MSRs.
fn hide_shadow_stacks(entry: &mut kvm_cpuid_entry2) {
    entry.ecx &= !ECX_SHSTK;
    entry.edx &= !EDX_IBT;
}

/// The number of bits of an APIC ID that identify a core.
fn core_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

fn topology(id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count, kind| kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | (kind << 8),
        edx: u32::from(id),
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, core_bits(cpus), u32::from(cpus), LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx: 0x1234_0800,
            ..Default::default()
        }
    }

    fn cpuid(id: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
        let host = [
            leaf(0, 0x10),
            leaf(1, 0),
            leaf(0xb, 9),
            leaf(0x1f, 9),
            leaf(0x8000_001e, 9),
        ];
        let host = CpuId::from_entries(&host).unwrap();
        for_vcpu(&host, &[], id, cpus).unwrap().as_slice().to_vec()
    }

    #[test]
    fn every_leaf_agrees_on_the_apic_id() {
        let cpuid = cpuid(3, 4);
        let find = |function| cpuid.iter().find(move |e| e.function == function).unwrap();
        assert_eq!(find(1).ebx >> 24, 3);
        assert_eq!(find(0x8000_001e).eax, 3);
        assert!(
            cpuid
                .iter()
                .filter(|e| e.function == 0xb)
                .all(|e| e.edx == 3)
        );
    }

    #[test]
    fn leaf_1_keeps_what_is_not_topology() {
        let cpuid = cpuid(0, 2);
        assert_eq!(cpuid[1].ebx, 0x0002_0800);
        assert_eq!(cpuid[1].edx & EDX_HTT, EDX_HTT);
        assert_eq!(cpuid[1].ecx & ECX_HYPERVISOR, ECX_HYPERVISOR);
    }

    #[test]
    fn the_host_s_own_topology_does_not_show() {
        let cpuid = cpuid(0, 1);
        assert!(cpuid.iter().all(|e| e.function != 0x1f));
        assert_eq!(cpuid.iter().filter(|e| e.function == 0xb).count(), 3);
        assert_eq!(cpuid[1].edx & EDX_HTT, 0);
    }

    #[test]
    fn what_no_update_carries_is_not_offered() {
        let features = |index| kvm_cpuid_entry2 {
            function: 7,
            index,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let host = CpuId::from_entries(&[leaf(1, 0), features(0), features(1)]).unwrap();
        let cpuid = for_vcpu(&host, &[], 0, 1).unwrap();
        let found = |index| {
            let mut entries = cpuid.as_slice().iter().filter(|e| e.function == 7);
            let entry = entries.find(|e| e.index == index).unwrap();
            (entry.ecx, entry.edx)
        };
        assert_eq!(found(0), (!(1 << 7), !(1 << 20)));
        assert_eq!(found(1), (u32::MAX, u32::MAX));
    }

    #[test]
    fn what_is_hidden_is_not_shown() {
        let host = CpuId::from_entries(&[leaf(1, 0), leaf(0x4000_0001, u32::MAX)]).unwrap();
        let hidden = ["leaf=0x40000001,eax=0x40".parse().unwrap()];
        let cpuid = for_vcpu(&host, &hidden, 0, 1).unwrap();
        let mut entries = cpuid.as_slice().iter();
        let features = entries.find(|e| e.function == 0x4000_0001).unwrap();
        assert_eq!(features.eax, !(1 << 6));
    }

    #[test]
    fn cores_get_as_many_bits_as_they_need() {
        assert_eq!([1, 2, 3, 4, 5, 254].map(core_bits), [0, 1, 2, 2, 3, 8]);
    }
}
