//! What `cargo lab demo` shows: which guests, which devices, and what the host is.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Memory of the guest, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(128..=16384))]
    pub memory: u64,
    /// CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=8))]
    pub cpus: u64,
    /// Number of guests, all updated by one kexec. With more than one, each has 128 MiB and one
    /// CPU, and one of them has the other kind of memory.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=8),
          conflicts_with_all = ["memory", "cpus", "ram"])]
    pub guests: u64,
    /// Replace the VMM under the guest by a new process, and leave the host as it is.
    #[arg(long, conflicts_with = "guests")]
    pub binary: bool,
    /// Pass a device of the host through to the guest: a card, which receives numbered frames from
    /// outside all the time, or a drive, on which the guest keeps many writes in flight. The
    /// guest's memory is a memfd then.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["guests", "binary", "ram"])]
    pub device: Option<DeviceKind>,
    /// The host's IOMMU; other than vt-d, with a card that is passed through.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = IommuKind::VtD,
          conflicts_with_all = ["guests", "binary", "ram", "home"])]
    pub iommu: IommuKind,
    /// Let the guest run in a lifeboat, a second kernel on a CPU of its own, while the host kexecs. A device that is
    /// passed through works meanwhile, the guest's own disk and network rest. Its memory is a memfd unless --ram says
    /// otherwise.
    #[arg(long, conflicts_with_all = ["guests", "binary", "home", "iommu"])]
    pub lifeboat: bool,
    /// The home of the guest's box. luo and holder use an unpatched kernel without the module, and
    /// the guest's memory is a memfd then; holder requires --binary.
    #[arg(long, value_enum, default_value_t = Home::Fdbox, conflicts_with_all = ["guests", "device", "ram"])]
    pub home: Home,
    /// The kind of the guest's memory. Default: guest_memfd, unless another option says otherwise.
    #[arg(long, value_enum, value_name = "KIND")]
    pub ram: Option<Ram>,
    /// Show the consoles of host and guest as well.
    #[arg(long, short)]
    pub verbose: bool,
    /// Write the results to a file, for programs.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A device that QEMU emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceKind {
    /// An Intel 82574 network card.
    E1000e,
    /// An NVMe drive.
    Nvme,
}

/// An IOMMU that QEMU emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IommuKind {
    /// VT-d in legacy mode.
    #[value(name = "vt-d")]
    VtD,
    /// VT-d in scalable mode.
    Scalable,
    /// AMD-Vi.
    Amd,
}

/// A home of boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Home {
    /// The module.
    Fdbox,
    /// The kernel's Live Update Orchestrator.
    Luo,
    /// A process.
    Holder,
}

/// A kind of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ram {
    /// KVM's own memory for guests.
    #[value(name = "guest_memfd")]
    GuestMemfd,
    /// The kernel's shared memory.
    #[value(name = "memfd")]
    Memfd,
    /// Huge pages of 2 MiB from the host's pool.
    Hugetlb,
}

impl IommuKind {
    /// As the scenario reports it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VtD => "legacy",
            Self::Scalable => "scalable",
            Self::Amd => "amd-vi",
        }
    }
}

impl Ram {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GuestMemfd => "guest_memfd",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    #[test]
    fn a_device_needs_a_host_to_update_and_memory_that_it_can_reach() {
        let parse = |more: &[&str]| {
            let demo = ["lab", "demo", "--device", "e1000e"];
            Cli::try_parse_from(demo.iter().chain(more))
        };
        assert!(parse(&["--memory", "512"]).is_ok());
        for more in [
            ["--ram", "guest_memfd"].as_slice(),
            &["--guests", "2"],
            &["--binary"],
        ] {
            assert!(parse(more).is_err(), "{more:?}");
        }
        assert!(parse(&["--iommu", "scalable"]).is_ok());
        let parse = |more: &[&str]| {
            let demo = ["lab", "demo", "--iommu", "scalable"];
            Cli::try_parse_from(demo.iter().chain(more))
        };
        assert!(parse(&[]).is_ok());
        for more in [["--binary"].as_slice(), &["--lifeboat"], &["--home", "luo"]] {
            assert!(parse(more).is_err(), "{more:?}");
        }
    }
}
