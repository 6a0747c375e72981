//! The options of the CPU that a guest is given.

use clap::Args;

use crate::guest::cpuid::HiddenCpuid;

/// What of the host's CPU a guest is not shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct CpuidArgs {
    /// Bits of a CPUID leaf that the guest finds 0; may be repeated.
    ///
    /// To boot a guest with less than this host has: for another host that it will go to, or because a
    /// feature is broken here. The guest keeps what it was booted with.
    #[arg(long, value_name = "leaf=0xN[,index=0xN][,REGISTER=0xBITS]")]
    pub(crate) hide_cpuid: Vec<HiddenCpuid>,
}

/// Whether a guest may come to a host that has less of a CPU.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ForceCpuArgs {
    /// Have the guest run though this host's CPU or KVM lacks what it was given, or refuses some of
    /// its MSRs. It may crash when it makes use of that.
    #[arg(long)]
    pub(crate) force_cpu: bool,
}

impl ForceCpuArgs {
    /// The same, for the command line of another VMM.
    pub(crate) fn argument(self) -> Option<&'static str> {
        self.force_cpu.then_some("--force-cpu")
    }
}
