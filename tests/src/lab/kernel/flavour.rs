//! The kernels that there are: how each differs from the others, and whose objects it starts from.

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// As it comes. The guest's kernel, and what the patched ones are compared with.
    Stock,
    /// The host's first kernel.
    A,
    /// The kernel the host is updated to.
    B,
    /// The same, built to be up soon: the fast-handover profile.
    Fast,
    /// The same with KVM, iommufd and VFIO as modules.
    Modular,
    /// The same with the kernel's own checks: lockdep, kmemleak and others.
    Debug,
    /// As it comes, with these checks: what the patched one is compared with, where it has to be.
    StockDebug,
}

impl Flavour {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::A => "fdbox-a",
            Self::B => "fdbox-b",
            Self::Fast => "fdbox-fast",
            Self::Modular => "fdbox-modular",
            Self::Debug => "fdbox-debug",
            Self::StockDebug => "stock-debug",
        }
    }

    /// The file beside host.config with options of this flavour alone.
    pub(super) fn options(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::A | Self::B => None,
            Self::Fast => Some("fast.config"),
            Self::Modular => Some("modular.config"),
            Self::Debug | Self::StockDebug => Some("debug.config"),
        }
    }

    /// What `make` finds in its environment. Control-flow integrity is clang's, and so for the debug
    /// kernel everything is built by LLVM; its modules have to be, too.
    pub(super) fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Debug | Self::StockDebug => &[("LLVM", "1")],
            _ => &[],
        }
    }

    /// Whether it can use memory on several NUMA nodes.
    pub(crate) fn knows_nodes(self) -> bool {
        matches!(self, Self::Debug | Self::StockDebug)
    }

    pub(super) fn is_patched(self) -> bool {
        !matches!(self, Self::Stock | Self::StockDebug)
    }

    /// Whose objects it starts from.
    pub(super) fn base(self) -> Option<Self> {
        match self {
            Self::Stock => None,
            Self::A => Some(Self::Stock),
            Self::B => Some(Self::A),
            // Nearly nothing is left of the objects; the host programs are.
            Self::Fast => Some(Self::B),
            Self::Modular => Some(Self::A),
            // Nothing is left: they are made by LLVM.
            Self::Debug => Some(Self::A),
            Self::StockDebug => Some(Self::Stock),
        }
    }

    /// Whether its options are the same as those of the kernel that it starts from.
    pub(super) fn has_options_of_base(self) -> bool {
        self.base()
            .is_some_and(|base| base.options() == self.options())
    }
}
