//! Compares the CPU that a guest was given with what this host's CPU and KVM support.

use std::fmt;

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};
use serde::{Deserialize, Serialize};

use super::names;
use super::register::Register::{self, Eax, Ebx, Ecx, Edx};

/// The MSR in which a CPU and its microcode declare their immunities.
pub(crate) const ARCH_CAPABILITIES: u32 = 0x10a;

/// Leaves whose bits are features, with the bits that are not: they follow what the guest does
/// (OSXSAVE, OSPKE, the APIC's own), or this VMM sets them for every guest (hypervisor, more than
/// one CPU, and the deadline timer, which comes with KVM's local APIC).
#[rustfmt::skip]
const FEATURES: &[(u32, u32, Register, u32)] = &[
    (0x1, 0, Ecx, 1 << 24 | 1 << 27 | 1 << 31), (0x1, 0, Edx, 1 << 9 | 1 << 28),
    (0x6, 0, Eax, 0),
    (0x7, 0, Ebx, 0), (0x7, 0, Ecx, 1 << 4), (0x7, 0, Edx, 0),
    (0x7, 1, Eax, 0), (0x7, 1, Ecx, 0), (0x7, 1, Edx, 0), (0x7, 2, Edx, 0),
    (0xd, 0, Eax, 0), (0xd, 0, Edx, 0), (0xd, 1, Eax, 0), (0xd, 1, Ecx, 0), (0xd, 1, Edx, 0),
    (0x4000_0001, 0, Eax, 0),
    (0x8000_0001, 0, Ecx, 0), (0x8000_0001, 0, Edx, 1 << 9),
    (0x8000_0007, 0, Edx, 0), (0x8000_0008, 0, Ebx, 0), (0x8000_000a, 0, Edx, 0),
    (0x8000_0021, 0, Eax, 0), (0x8000_0022, 0, Eax, 0), (0xc000_0001, 0, Edx, 0),
];

const LEAF_VENDOR: u32 = 0;
const LEAF_SIGNATURE: u32 = 0x1;
const LEAF_SIZES: u32 = 0x8000_0008;
const LEAF_SVM: u32 = 0x8000_000a;

/// A feature that a kernel's command line can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Optional {
    Svm,
    Vmx,
    Tsx,
}

impl fmt::Display for Optional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Svm => "SVM",
            Self::Vmx => "VMX",
            Self::Tsx => "TSX",
        })
    }
}

impl Optional {
    /// Those that a guest was given.
    pub(crate) fn given(cpuid: &[kvm_cpuid_entry2]) -> Vec<Self> {
        let has = |(function, register, bits): (u32, Register, u32)| {
            register.of(find(cpuid, function, 0)) & bits != 0
        };
        let all = [
            (Self::Svm, (0x8000_0001, Ecx, 1 << 2)),
            (Self::Vmx, (0x1, Ecx, 1 << 5)),
            (Self::Tsx, (0x7, Ebx, 1 << 4 | 1 << 11)),
        ];
        all.into_iter()
            .filter(|(_, bits)| has(*bits))
            .map(|(one, _)| one)
            .collect()
    }
}

/// The features that the guest was given and `supported` lacks, by name.
pub(crate) fn lacking(given: &[kvm_cpuid_entry2], supported: &[kvm_cpuid_entry2]) -> Vec<String> {
    let mut lacking = other_model(given, supported);
    let bits = |leaf: u32| find(given, leaf, 0).map_or(0, |entry| entry.eax & 0xff);
    let (has, can) = (bits(LEAF_SIZES), find(supported, LEAF_SIZES, 0));
    if can.is_some_and(|can| can.eax & 0xff < has) {
        lacking.push(format!("{has} bits of physical addresses"));
    }
    for (function, index, register, ignored) in FEATURES {
        let given = register.of(find(given, *function, *index)) & !ignored;
        let missing = given & !register.of(find(supported, *function, *index));
        // The parts of SVM go with it.
        if *function == LEAF_SVM && find(supported, LEAF_SVM, 0).is_none_or(|leaf| leaf.edx == 0) {
            continue;
        }
        let bits = (0..32).filter(|bit| missing & (1 << bit) != 0);
        lacking.extend(bits.map(|bit| names::of_cpuid(*function, *index, *register, bit)));
    }
    lacking
}

/// The immunities that the guest was told about and this host does not have.
pub(crate) fn lacking_immunities(given: &[kvm_msr_entry], host: Option<u64>) -> Vec<String> {
    let given = given.iter().find(|msr| msr.index == ARCH_CAPABILITIES);
    let missing = given.map_or(0, |msr| msr.data) & !host.unwrap_or(0);
    let bits = (0..64).filter(|bit| missing & (1 << bit) != 0);
    bits.map(names::of_arch_capability).collect()
}

/// A processor of another vendor or model.
fn other_model(given: &[kvm_cpuid_entry2], supported: &[kvm_cpuid_entry2]) -> Vec<String> {
    let vendor = |entries| {
        let leaf: Option<&kvm_cpuid_entry2> = find(entries, LEAF_VENDOR, 0);
        leaf.map(|leaf| (leaf.ebx, leaf.ecx, leaf.edx))
    };
    let signature =
        |entries| find(entries, LEAF_SIGNATURE, 0).map(|leaf: &kvm_cpuid_entry2| leaf.eax);
    if vendor(given) != vendor(supported) {
        return vec!["a processor of the same maker".into()];
    }
    match (signature(given), signature(supported)) {
        (Some(given), Some(host)) if given != host => {
            vec![format!("processor {given:#x} (this one is {host:#x})")]
        }
        _ => Vec::new(),
    }
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    let mut entries = entries.iter();
    entries.find(|entry| (entry.function, entry.index) == (function, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, [0x10, 1, 2, 3]),
            leaf(1, [0x80_0f12, 0, 1 << 25, 0]),
            leaf(7, [0, 1 << 11 | 1 << 4, 0, 1 << 26]),
            leaf(0x8000_0001, [0, 0, 1 << 2, 0]),
            leaf(0x8000_0008, [48, 0, 0, 0]),
            leaf(0x8000_000a, [1, 8, 0, 0b1001]),
        ]
    }

    /// What is missing on a host that differs in one register.
    fn without(function: u32, change: impl Fn(&mut kvm_cpuid_entry2)) -> Vec<String> {
        let mut less = host();
        less.iter_mut()
            .filter(|leaf| leaf.function == function)
            .for_each(change);
        lacking(&host(), &less)
    }

    #[test]
    fn the_same_host_lacks_nothing_nor_does_a_better_one() {
        assert!(lacking(&host(), &host()).is_empty());
        assert!(without(7, |leaf| leaf.ecx = u32::MAX).is_empty());
        assert!(without(0x8000_0008, |leaf| leaf.eax = 52).is_empty());
    }

    #[test]
    fn what_a_host_lacks_has_a_name() {
        // nested=0, as reported by KVM.
        let mut less = host();
        less.retain(|leaf| leaf.function != 0x8000_000a);
        less[3].ecx = 0;
        assert_eq!(lacking(&host(), &less), ["SVM"]);
        // tsx=off
        let tsx = without(7, |leaf| leaf.ebx = 0);
        assert_eq!(tsx, ["HLE (TSX)", "RTM (TSX)"]);
        assert!(without(7, |leaf| leaf.edx = 0)[0].contains("PRED_CMD"));
        assert_eq!(without(1, |leaf| leaf.ecx = 0), ["AES"]);
        let svm = without(0x8000_000a, |leaf| leaf.edx = 1);
        assert_eq!(svm, ["bit 3 of Edx of CPUID leaf 0x8000000a.0"]);
        let width = without(0x8000_0008, |leaf| leaf.eax = 40);
        assert_eq!(width, ["48 bits of physical addresses"]);
    }

    #[test]
    fn what_a_command_line_can_take_away_is_known() {
        assert_eq!(Optional::given(&host()), [Optional::Svm, Optional::Tsx]);
        assert_eq!(Optional::given(&[]), []);
    }

    #[test]
    fn another_processor_is_reported() {
        assert!(without(0, |leaf| leaf.ebx = 9)[0].contains("maker"));
        let other = without(1, |leaf| leaf.eax = 0x80_0f13);
        assert_eq!(other, ["processor 0x800f12 (this one is 0x800f13)"]);
    }

    /// OSXSAVE is set while the guest has enabled it.
    #[test]
    fn what_follows_the_guest_is_no_feature() {
        let mut given = host();
        given[1].ecx |= 1 << 27 | 1 << 31 | 1 << 24;
        given[1].edx |= 1 << 28;
        given[2].ecx |= 1 << 4;
        assert!(lacking(&given, &host()).is_empty());
    }

    #[test]
    fn other_microcode_is_told_by_what_it_is_not_immune_to() {
        let msr = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let given = [
            msr(0x10, u64::MAX),
            msr(ARCH_CAPABILITIES, 1 << 62 | 0b10_0001),
        ];
        assert!(lacking_immunities(&given, Some(u64::MAX)).is_empty());
        let less = lacking_immunities(&given, Some(1));
        assert_eq!(
            less,
            ["MDS_NO (ARCH_CAPABILITIES)", "ITS_NO (ARCH_CAPABILITIES)"]
        );
        assert_eq!(lacking_immunities(&given, None).len(), 3);
        assert!(lacking_immunities(&given[..1], None).is_empty());
    }
}
