//! The flavours of kernels: how each differs from the others, and which objects its build starts
//! from.

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
    /// The same with the kernel's debug checks: lockdep, kmemleak and others.
    Debug,
    /// Unpatched, with these checks: the reference for the patched debug kernel, where one is
    /// needed.
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

    /// The file next to host.config with the options of this flavour only.
    pub(super) fn options(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::A | Self::B => None,
            Self::Fast => Some("fast.config"),
            Self::Modular => Some("modular.config"),
            Self::Debug | Self::StockDebug => Some("debug.config"),
        }
    }

    /// The environment of `make`. Control-flow integrity requires clang, so everything in the debug
    /// kernel is built with LLVM; its modules must be, too.
    pub(super) fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Debug | Self::StockDebug => &[("LLVM", "1")],
            _ => &[],
        }
    }

    /// Whether it supports several NUMA nodes.
    pub(crate) fn knows_nodes(self) -> bool {
        matches!(self, Self::Debug | Self::StockDebug)
    }

    pub(super) fn is_patched(self) -> bool {
        !matches!(self, Self::Stock | Self::StockDebug)
    }

    /// The flavour whose objects its build starts from.
    pub(super) fn base(self) -> Option<Self> {
        match self {
            Self::Stock => None,
            Self::A => Some(Self::Stock),
            Self::B => Some(Self::A),
            // Hardly any of the objects can be reused, but the host programs can.
            Self::Fast => Some(Self::B),
            Self::Modular => Some(Self::A),
            // None of the objects can be reused: this kernel is built with LLVM.
            Self::Debug => Some(Self::A),
            Self::StockDebug => Some(Self::Stock),
        }
    }

    /// Whether its options are those of the kernel that it starts from.
    pub(super) fn has_options_of_base(self) -> bool {
        self.base()
            .is_some_and(|base| base.options() == self.options())
    }
}
