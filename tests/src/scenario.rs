//! What the lab must know of a scenario to give it a host.
//!
//! The scenarios live in `lab-scenarios`, which prints this list: it is the only place where they
//! are named.

use serde::{Deserialize, Serialize};

/// One scenario, as `lab-scenarios list` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub about: String,
    pub host: HostKind,
    /// How many kernels it runs in: 1 without a kexec.
    pub kernels: usize,
}

/// Devices of a host that are there to be passed through, each behind a PCIe port of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    #[default]
    None,
    /// So many e1000e, at which frames arrive from outside.
    Cards(u8),
    /// An NVMe drive.
    Nvme,
    /// One e1000e, and a device that uses ATS, behind a VT-d unit in scalable mode.
    Scalable,
    /// An 82576 without a cable, which the kernel's VFIO selftests have a driver for.
    Igb,
}

/// The host a scenario runs in. Scenarios of one kind may share one boot, unless it says not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// One kernel, the module loaded.
    OneBoot,
    /// A kexec between two halves, the module loaded in both kernels.
    Kexec,
    /// The same with memory to spare: 4 GiB.
    LargeKexec,
    /// The same, but a scenario itself jumps, into what it has loaded: a host of its own.
    OwnKexec,
    /// The second kernel starts without the module; scenarios load it.
    LateModule,
    /// The second kernel starts without the module, and fails when it is told to: both kernels check
    /// themselves.
    FailingLoad,
    /// No kernel starts with the module, and no other scenario shares the host.
    Forged,
    /// One kernel, KHO switched off.
    WithoutKho,
    /// One kernel without the project's patches.
    Unpatched,
    /// A kexec between two kernels that have KVM, iommufd and VFIO as modules, with two devices that
    /// frames arrive at. Only fdbox.ko is loaded; scenarios load the others, each its own.
    Modular,
    /// A kexec between two halves, with two devices that frames arrive at: a host of its own.
    Passthrough,
    /// Such devices in one kernel: a host of its own.
    PassthroughOneBoot,
    /// A guest whose VMM does the kexec: a host of its own for each scenario.
    Guest,
    /// The same, with a later build of the VMM there as well.
    GuestTwoBuilds,
    /// A guest whose VMM does the kexec, with a device that frames arrive at.
    GuestPassthrough,
    /// The same with an NVMe drive.
    GuestNvme,
    /// Several guests that one kexec takes along: a host of its own.
    Guests,
    /// The same; the second kernel starts without the module.
    GuestsLateModule,
    /// Two guests that one kexec takes along, and a device for each at which frames arrive.
    GuestsPassthrough,
    /// Several guests in one kernel.
    GuestsOneBoot,
    /// A guest in one kernel, under a VT-d unit in scalable mode: with a device at which frames
    /// arrive, and another that uses ATS. A host of its own.
    GuestScalable,
    /// A guest in one kernel: the update is to fail or to be called off.
    GuestOneBoot,
    /// A guest in one kernel and a host of its own, with time for it.
    GuestAlone,
}

impl HostKind {
    /// Whether a scenario itself jumps into the next kernel.
    pub fn jumps(self) -> bool {
        self.has_fleet()
            || matches!(
                self,
                Self::OwnKexec
                    | Self::Guest
                    | Self::GuestTwoBuilds
                    | Self::GuestPassthrough
                    | Self::GuestNvme
            )
    }

    /// Whether its guests are resumed together, and report under their names.
    pub fn has_fleet(self) -> bool {
        matches!(
            self,
            Self::Guests | Self::GuestsLateModule | Self::GuestsPassthrough
        )
    }

    /// Whether a scenario has a host of its own.
    pub fn is_alone(self) -> bool {
        self.jumps()
            || (self.devices() != Devices::None && self != Self::Modular)
            || matches!(self, Self::Forged | Self::GuestAlone)
    }

    /// Whether a host wants the machine for itself: because several guests share its one CPU and are
    /// asked how long they stood still, or because something must come about while its kernel boots.
    pub fn fills_the_machine(self) -> bool {
        matches!(
            self,
            Self::Guests | Self::GuestsPassthrough | Self::GuestNvme
        )
    }

    /// What the host has to pass through.
    pub fn devices(self) -> Devices {
        match self {
            Self::Passthrough
            | Self::Modular
            | Self::PassthroughOneBoot
            | Self::GuestsPassthrough => Devices::Cards(2),
            Self::GuestPassthrough => Devices::Cards(1),
            Self::GuestNvme => Devices::Nvme,
            Self::GuestScalable => Devices::Scalable,
            _ => Devices::None,
        }
    }

    /// Whether guests run in a host that an update must not leave.
    pub fn stays_with_guest(self) -> bool {
        matches!(
            self,
            Self::GuestOneBoot | Self::GuestsOneBoot | Self::GuestScalable
        )
    }

    /// Whether there is such a host only with kernels that check themselves.
    pub fn is_for_debug_only(self) -> bool {
        self == Self::FailingLoad
    }

    /// Whether guests run in the host.
    pub fn has_guest(self) -> bool {
        let jumps = self.jumps() && self != Self::OwnKexec;
        jumps || self.stays_with_guest() || self == Self::GuestAlone
    }
}
