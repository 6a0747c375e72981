//! Names of CPU features, as in Intel's and AMD's manuals and the kernel's documentation.

use super::register::Register::{self, Eax, Ebx, Ecx, Edx};

/// A CPUID bit and its feature: leaf, index, register, bit.
type Named = (u32, u32, Register, u32, &'static str);

#[rustfmt::skip]
const CPUID: &[Named] = &[
    (0x1, 0, Ecx, 0, "SSE3"), (0x1, 0, Ecx, 1, "PCLMULQDQ"), (0x1, 0, Ecx, 5, "VMX"),
    (0x1, 0, Ecx, 9, "SSSE3"), (0x1, 0, Ecx, 12, "FMA"), (0x1, 0, Ecx, 13, "CMPXCHG16B"),
    (0x1, 0, Ecx, 17, "PCID"), (0x1, 0, Ecx, 19, "SSE4.1"), (0x1, 0, Ecx, 20, "SSE4.2"),
    (0x1, 0, Ecx, 21, "x2APIC"), (0x1, 0, Ecx, 22, "MOVBE"), (0x1, 0, Ecx, 23, "POPCNT"),
    (0x1, 0, Ecx, 24, "the TSC deadline timer"), (0x1, 0, Ecx, 25, "AES"), (0x1, 0, Ecx, 26, "XSAVE"),
    (0x1, 0, Ecx, 28, "AVX"), (0x1, 0, Ecx, 29, "F16C"), (0x1, 0, Ecx, 30, "RDRAND"),
    (0x7, 0, Ebx, 0, "FSGSBASE"), (0x7, 0, Ebx, 3, "BMI1"), (0x7, 0, Ebx, 4, "HLE (TSX)"),
    (0x7, 0, Ebx, 5, "AVX2"), (0x7, 0, Ebx, 7, "SMEP"), (0x7, 0, Ebx, 8, "BMI2"),
    (0x7, 0, Ebx, 9, "ERMS"), (0x7, 0, Ebx, 10, "INVPCID"), (0x7, 0, Ebx, 11, "RTM (TSX)"),
    (0x7, 0, Ebx, 16, "AVX-512F"), (0x7, 0, Ebx, 18, "RDSEED"), (0x7, 0, Ebx, 19, "ADX"),
    (0x7, 0, Ebx, 20, "SMAP"), (0x7, 0, Ebx, 23, "CLFLUSHOPT"), (0x7, 0, Ebx, 24, "CLWB"),
    (0x7, 0, Ebx, 29, "SHA"), (0x7, 0, Ecx, 2, "UMIP"), (0x7, 0, Ecx, 3, "PKU"),
    (0x7, 0, Ecx, 8, "GFNI"), (0x7, 0, Ecx, 9, "VAES"), (0x7, 0, Ecx, 16, "LA57"),
    (0x7, 0, Ecx, 22, "RDPID"), (0x7, 0, Edx, 4, "FSRM"), (0x7, 0, Edx, 10, "MD_CLEAR"),
    (0x7, 0, Edx, 22, "AMX-BF16"), (0x7, 0, Edx, 24, "AMX-TILE"), (0x7, 0, Edx, 25, "AMX-INT8"),
    (0x7, 0, Edx, 26, "IBRS and IBPB (SPEC_CTRL, PRED_CMD)"), (0x7, 0, Edx, 27, "STIBP"),
    (0x7, 0, Edx, 28, "L1D_FLUSH"), (0x7, 0, Edx, 29, "ARCH_CAPABILITIES"), (0x7, 0, Edx, 31, "SSBD"),
    (0xd, 0, Eax, 2, "AVX state"), (0xd, 0, Eax, 9, "PKRU state"), (0xd, 0, Eax, 18, "AMX state"),
    (0xd, 1, Eax, 1, "XSAVEC"), (0xd, 1, Eax, 3, "XSAVES"),
    (0x4000_0001, 0, Eax, 3, "kvmclock"), (0x4000_0001, 0, Eax, 4, "KVM's async page faults"),
    (0x4000_0001, 0, Eax, 5, "KVM's steal time"), (0x4000_0001, 0, Eax, 6, "KVM's paravirtual EOI"),
    (0x4000_0001, 0, Eax, 7, "KVM's paravirtual spin locks"),
    (0x4000_0001, 0, Eax, 14, "KVM's async page faults by interrupt"),
    (0x8000_0001, 0, Ecx, 2, "SVM"), (0x8000_0001, 0, Ecx, 5, "LZCNT"), (0x8000_0001, 0, Edx, 20, "NX"),
    (0x8000_0001, 0, Edx, 26, "pages of 1 GiB"), (0x8000_0001, 0, Edx, 27, "RDTSCP"),
    (0x8000_0007, 0, Edx, 8, "an invariant TSC"), (0x8000_0008, 0, Ebx, 9, "WBNOINVD"),
    (0x8000_0008, 0, Ebx, 12, "IBPB (PRED_CMD)"), (0x8000_0008, 0, Ebx, 14, "IBRS"),
    (0x8000_0008, 0, Ebx, 15, "STIBP"), (0x8000_0008, 0, Ebx, 24, "SSBD"),
    (0x8000_0008, 0, Ebx, 25, "VIRT_SSBD"), (0x8000_000a, 0, Edx, 0, "nested paging (NPT)"),
    (0x8000_0021, 0, Eax, 27, "SBPB (PRED_CMD)"),
];

/// Bits of IA32_ARCH_CAPABILITIES: the immunities of the processor or its microcode.
const ARCH_CAPABILITIES: &[(u32, &str)] = &[
    (0, "RDCL_NO"),
    (1, "IBRS_ALL"),
    (3, "SKIP_L1DFL_VMENTRY"),
    (4, "SSB_NO"),
    (5, "MDS_NO"),
    (6, "PSCHANGE_MC_NO"),
    (7, "TSX_CTRL"),
    (8, "TAA_NO"),
    (13, "SBDR_SSDP_NO"),
    (14, "FBSDP_NO"),
    (15, "PSDP_NO"),
    (17, "FB_CLEAR"),
    (20, "BHI_NO"),
    (24, "PBRSB_NO"),
    (26, "GDS_NO"),
    (27, "RFDS_NO"),
    (28, "RFDS_CLEAR"),
    (62, "ITS_NO"),
];

/// The name of a feature, or of its bit.
pub(super) fn of_cpuid(function: u32, index: u32, register: Register, bit: u32) -> String {
    let named = CPUID.iter().find(|(leaf, subleaf, of, at, _)| {
        (*leaf, *subleaf, *of, *at) == (function, index, register, bit)
    });
    match named {
        Some((.., name)) => (*name).into(),
        None => format!("bit {bit} of {register:?} of CPUID leaf {function:#x}.{index}"),
    }
}

/// The same for a bit of IA32_ARCH_CAPABILITIES.
pub(super) fn of_arch_capability(bit: u32) -> String {
    let named = ARCH_CAPABILITIES.iter().find(|(at, _)| *at == bit);
    match named {
        Some((_, name)) => format!("{name} (ARCH_CAPABILITIES)"),
        None => format!("bit {bit} of ARCH_CAPABILITIES"),
    }
}
