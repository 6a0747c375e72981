//! The flavours of kernels: how each differs from the others, and which objects its build starts
//! from.

use super::packaged::Package;

/// A flavour of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// Unpatched. The guest's kernel, and the reference for the patched ones.
    Stock,
    /// The host's first kernel.
    A,
    /// The kernel the host is updated to.
    B,
    /// The same, optimised for a short boot: the fast-handover profile.
    Fast,
    /// The same with KVM, iommufd and VFIO as modules.
    Modular,
    /// The same with what a Debian system with systemd needs: the first kernel of such a host. On demand only.
    PackageA,
    /// The kernel such a host is updated to.
    PackageB,
    /// With Debian's configuration of its own kernel, for a real machine. On demand only: it takes hours.
    Distribution,
    /// The same with the kernel's debug checks: lockdep, kmemleak and others.
    Debug,
    /// The same with KASAN: a use of memory that was freed, or beyond its end, is found when it
    /// happens. On demand only.
    Kasan,
    /// Unpatched, with the debug kernel's checks: the reference for the patched debug kernel, where one is
    /// needed.
    StockDebug,
    /// Unpatched, of the version before.
    Older,
    /// Debian's own kernel: the stable release's.
    Debian,
    /// The same for machines in a cloud.
    DebianCloud,
    /// The newest one for the stable release.
    Backports,
    /// The same for machines in a cloud.
    BackportsCloud,
}

impl Flavour {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::A => "fdbox-a",
            Self::B => "fdbox-b",
            Self::Fast => "fdbox-fast",
            Self::Modular => "fdbox-modular",
            Self::PackageA => "fdbox-package-a",
            Self::PackageB => "fdbox-package-b",
            Self::Distribution => "fdbox-debian",
            Self::Debug => "fdbox-debug",
            Self::Kasan => "fdbox-kasan",
            Self::StockDebug => "stock-debug",
            Self::Older => "older",
            Self::Debian => "debian",
            Self::DebianCloud => "debian-cloud",
            Self::Backports => "backports",
            Self::BackportsCloud => "backports-cloud",
        }
    }

    /// Debian's package, if it is one of Debian's own.
    pub(super) fn package(self) -> Option<Package> {
        const PC: &str = "linux-image-amd64";
        const CLOUD: &str = "linux-image-cloud-amd64";
        let (name, is_backport) = match self {
            Self::Debian => (PC, false),
            Self::DebianCloud => (CLOUD, false),
            Self::Backports => (PC, true),
            Self::BackportsCloud => (CLOUD, true),
            _ => return None,
        };
        Some(Package { name, is_backport })
    }

    /// Whether it is one of Debian's own, which is not built but downloaded.
    pub(crate) fn is_packaged(self) -> bool {
        self.package().is_some()
    }

    /// Whether the module can be built for it: not for Debian's own, which have no Rust, nor for the version before,
    /// which has other interfaces.
    pub(crate) fn takes_module(self) -> bool {
        !self.is_packaged() && self != Self::Older
    }

    /// The files next to host.config with the options of this flavour only.
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Fast => &["fast.config"],
            Self::Modular => &["modular.config"],
            Self::PackageA | Self::PackageB => &["modular.config", "package.config"],
            Self::Debug | Self::StockDebug => &["debug.config"],
            Self::Kasan => &["debug.config", "kasan.config"],
            _ => &[],
        }
    }

    /// The environment of `make`. Control-flow integrity requires clang, so everything in the debug
    /// kernel is built with LLVM; its modules must be, too.
    pub(super) fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Debug | Self::Kasan | Self::StockDebug => &[("LLVM", "1")],
            _ => &[],
        }
    }

    /// Whether it supports several NUMA nodes.
    pub(crate) fn knows_nodes(self) -> bool {
        matches!(self, Self::Debug | Self::Kasan | Self::StockDebug)
    }

    pub(crate) fn is_patched(self) -> bool {
        let is_built = !self.is_packaged();
        is_built && !matches!(self, Self::Stock | Self::StockDebug | Self::Older)
    }

    /// The flavour whose objects its build starts from.
    pub(super) fn base(self) -> Option<Self> {
        match self {
            // Another version has no objects in common with any other kernel.
            Self::Stock | Self::Older => None,
            // Nor has one with Debian's configuration.
            Self::Distribution => None,
            Self::Debian | Self::DebianCloud | Self::Backports | Self::BackportsCloud => None,
            Self::A => Some(Self::Stock),
            Self::B => Some(Self::A),
            // Hardly any of the objects can be reused, but the host programs can.
            Self::Fast => Some(Self::B),
            Self::Modular => Some(Self::A),
            // Nor here: almost every object depends on whether there are control groups.
            Self::PackageA => Some(Self::A),
            Self::PackageB => Some(Self::PackageA),
            // None of the objects can be reused: this kernel is built with LLVM.
            Self::Debug => Some(Self::A),
            // The same, but it starts from programs of the host that LLVM has built.
            Self::Kasan => Some(Self::Debug),
            Self::StockDebug => Some(Self::Stock),
        }
    }

    /// Whether its options are those of the kernel that it starts from.
    pub(super) fn has_options_of_base(self) -> bool {
        self.base()
            .is_some_and(|base| base.options() == self.options())
    }
}
