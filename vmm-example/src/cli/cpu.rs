//! The options for the guest's CPU.

use clap::Args;

use crate::guest::cpuid::HiddenCpuid;

/// CPU features that are hidden from a guest.
#[derive(Clone, Debug, Args)]
pub(crate) struct CpuidArgs {
    /// Bits of a CPUID leaf that the guest reads as 0; may be repeated.
    ///
    /// Use it to boot a guest with fewer features than this host has: for another host that it will
    /// move to, or because a feature is broken here. The guest keeps the CPU it was booted with.
    #[arg(long, value_name = "leaf=0xN[,index=0xN][,REGISTER=0xBITS]")]
    pub(crate) hide_cpuid: Vec<HiddenCpuid>,
}

/// Whether a guest may run on a host whose CPU has fewer features.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ForceCpuArgs {
    /// Run the guest even if this host's CPU or KVM lacks features that it was given, or refuses
    /// some of its MSRs. The guest may crash when it uses them.
    #[arg(long)]
    pub(crate) force_cpu: bool,
}

impl ForceCpuArgs {
    /// The same option, for the command line of another VMM.
    pub(crate) fn argument(self) -> Option<&'static str> {
        self.force_cpu.then_some("--force-cpu")
    }
}
