//! What the lab must know about a scenario to give it a host.
//!
//! `lab-scenarios` has the scenarios and prints this list: nothing else names them.

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

/// Devices of a host beside the usual ones. All but a serial port can be passed through, each behind a PCIe port
/// of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    #[default]
    None,
    /// This many e1000e, which receive frames from outside.
    Cards(u8, Iommu),
    /// An NVMe drive.
    Nvme,
    /// One e1000e, a device that uses ATS, and one that has it but does not use it, behind a VT-d
    /// unit in scalable mode.
    CardAndAtsUser,
    /// An 82576 without a cable, for which the kernel's VFIO selftests have a driver.
    Igb,
    /// A serial port for the console of a kernel that runs beside the host's.
    BoatConsole,
    /// Such a port, and one e1000e as in `Cards`, behind VT-d in legacy mode.
    BoatConsoleAndCard,
    /// Such a port, and an NVMe drive as in `Nvme`, but a fast one.
    BoatConsoleAndNvme,
}

/// The IOMMU in front of a host's devices, and how its kernels use it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Iommu {
    /// VT-d in legacy mode.
    #[default]
    Legacy,
    /// VT-d in scalable mode, with second-stage page tables.
    Scalable,
    /// VT-d in scalable mode, with first-stage page tables.
    FirstStage,
    /// VT-d in scalable mode; the kernels after the first are told to use legacy mode.
    FromScalable,
    /// VT-d in scalable mode; the kernels after the first let their own devices reach all memory.
    ScalableIdentity,
    /// VT-d with scalable mode, which only the kernels after the first are told to use.
    ToScalable,
    /// AMD-Vi.
    AmdVi,
    /// AMD-Vi, which the kernels after the first are told not to use.
    AmdViOff,
}

/// Without interrupt remapping, which the kernel does not do with QEMU's unit, VFIO wants this.
const UNSAFE: &str = "iommufd.allow_unsafe_interrupts=1";
/// What a kernel is told that is not to use AMD-Vi.
const OFF: &str = "amd_iommu=off";

impl Iommu {
    /// Whether it is AMD-Vi.
    pub fn is_amd_vi(self) -> bool {
        matches!(self, Self::AmdVi | Self::AmdViOff)
    }

    /// What the kernel of a stage (from 0) is told.
    fn option(self, stage: usize) -> &'static str {
        match (self, stage) {
            (Self::Legacy, _) => "",
            (Self::AmdViOff, 1..) => OFF,
            (Self::AmdVi | Self::AmdViOff, _) => UNSAFE,
            (Self::ScalableIdentity, 1..) => "intel_iommu=sm_on iommu.passthrough=1",
            (Self::FromScalable, 1..) | (Self::ToScalable, 0) => "intel_iommu=sm_off",
            _ => "intel_iommu=sm_on",
        }
    }
}

impl Devices {
    /// The IOMMU in front of them.
    pub fn iommu(self) -> Iommu {
        match self {
            Self::Cards(_, iommu) => iommu,
            Self::CardAndAtsUser => Iommu::Scalable,
            _ => Iommu::Legacy,
        }
    }

    /// Whether there is an NVMe drive.
    pub fn have_nvme(self) -> bool {
        matches!(self, Self::Nvme | Self::BoatConsoleAndNvme)
    }

    /// Whether there is a console for a kernel that runs beside the host's.
    pub fn have_boat_console(self) -> bool {
        matches!(
            self,
            Self::BoatConsole | Self::BoatConsoleAndCard | Self::BoatConsoleAndNvme
        )
    }

    /// What the kernel of a stage (from 0) is told about their IOMMU.
    pub fn option(self, stage: usize) -> &'static str {
        self.iommu().option(stage)
    }
}

/// A release of Debian that a guest is made of: its kernel and its user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Debian {
    Bullseye,
    Bookworm,
    Trixie,
}

impl Debian {
    /// The name of its suite in Debian's archive.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// The host that a scenario runs in. Scenarios with the same kind of host may share one boot,
/// unless noted otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// One kernel, with the module loaded.
    OneBoot,
    /// A kexec between two halves, with the module loaded in both kernels.
    Kexec,
    /// The same with more memory: 8 GiB.
    LargeKexec,
    /// The same, but the scenario itself jumps, into a kernel that it loaded: a host of its own.
    OwnKexec,
    /// The second kernel starts without the module; scenarios load it.
    LateModule,
    /// The second kernel starts without the module, and allocations fail in it when a scenario
    /// says so: both are debug kernels.
    FailingLoad,
    /// Both kernels start without the module, and no other scenario shares the host.
    Forged,
    /// One kernel, with KHO disabled.
    WithoutKho,
    /// One kernel without the project's patches.
    Unpatched,
    /// The same, and the module is not loaded: LUO is all that there is for a kexec.
    UnpatchedNoModule,
    /// The same with KHO off, and LUO with it.
    UnpatchedNoKho,
    /// A kexec between two kernels without them, and without the module.
    Stock,
    /// A kexec between two kernels that have KVM, iommufd and VFIO as modules, with two devices
    /// that receive frames. Only fdbox.ko is loaded; each scenario loads the modules it needs.
    Modular,
    /// A kexec between two halves, with two devices that receive frames: a host of its own.
    Passthrough,
    /// The same under a VT-d unit in scalable mode.
    PassthroughScalable,
    /// The same, and the unit has first-stage page tables only.
    PassthroughFirstStage,
    /// The same as `PassthroughScalable`, but the second kernel does not translate for its own devices.
    PassthroughScalableIdentity,
    /// From scalable mode to a kernel that is told to use legacy mode.
    PassthroughFromScalable,
    /// From legacy mode, with a unit that has scalable mode, to a kernel that is told to use that.
    PassthroughToScalable,
    /// The same under AMD-Vi.
    PassthroughAmdVi,
    /// From AMD-Vi to a kernel that is told not to use it.
    PassthroughAmdViOff,
    /// Such devices in one kernel: a host of its own.
    PassthroughOneBoot,
    /// A kexec with such devices, and allocations fail in it when a scenario says so: both are debug kernels.
    FailingPassthrough,
    /// A guest whose VMM does the kexec: a host of its own for each scenario.
    Guest,
    /// The same, and the host also has a later build of the VMM.
    GuestTwoBuilds,
    /// A guest whose VMM does the kexec, with a device that receives frames.
    GuestPassthrough,
    /// The same under a VT-d unit in scalable mode.
    GuestPassthroughScalable,
    /// The same under AMD-Vi.
    GuestPassthroughAmdVi,
    /// The same with an NVMe drive.
    GuestNvme,
    /// Several guests that are updated by one kexec: a host of its own.
    Guests,
    /// The same with more memory: 4 GiB.
    LargeGuests,
    /// As `Guests`; the second kernel starts without the module.
    GuestsLateModule,
    /// Two guests that are updated by one kexec, each with a device that receives frames.
    GuestsPassthrough,
    /// Several guests in one kernel.
    GuestsOneBoot,
    /// A guest in one kernel, under a VT-d unit in scalable mode: with a device that receives
    /// frames, and two that have ATS, of which one uses it. A host of its own.
    GuestScalable,
    /// A guest in one kernel: the update fails or is cancelled.
    GuestOneBoot,
    /// A guest in one kernel and a host of its own, with more time.
    GuestAlone,
    /// The same, and there is a next kernel that no update may enter: many updates.
    GuestSoak,
    /// A kexec between kernels that bring up the first of two CPUs, and what a lifeboat needs on the
    /// other: a host of its own.
    Lifeboat,
    /// The same, and the guest's VMM does the kexec.
    GuestLifeboat,
    /// The same, but the guest does not come home from each kexec: what became of it is for the scenario to judge.
    GuestLifeboatAstray,
    /// As `GuestLifeboat`, with more memory: 4 GiB.
    LargeGuestLifeboat,
    /// As `GuestLifeboat`, with a device that receives frames.
    GuestLifeboatPassthrough,
    /// As `GuestLifeboat`, with an NVMe drive that can be passed through.
    GuestLifeboatNvme,
    /// Several guests that are updated by one kexec and share a lifeboat with two CPUs: a host of its own.
    GuestsLifeboat,
    /// What a lifeboat needs in one kernel that was told nothing of lifeboats, with three CPUs.
    LifeboatOneBoot,
    /// A guest whose VMM does the kexec, of unpatched kernels without the module.
    GuestLuo,
    /// A guest in an unpatched kernel without the module: a host of its own.
    GuestHolder,
    /// A guest with Debian's kernel and user space, whose VMM does the kexec: a host of its own, which has the guest's
    /// root file system as a drive.
    Debian(Debian),
}

impl HostKind {
    /// Whether the scenario itself jumps into the next kernel.
    pub fn jumps(self) -> bool {
        self.has_fleet()
            || matches!(
                self,
                Self::OwnKexec
                    | Self::Guest
                    | Self::GuestTwoBuilds
                    | Self::GuestPassthrough
                    | Self::GuestPassthroughScalable
                    | Self::GuestPassthroughAmdVi
                    | Self::GuestNvme
                    | Self::GuestLuo
                    | Self::GuestLifeboat
                    | Self::GuestLifeboatAstray
                    | Self::LargeGuestLifeboat
                    | Self::GuestLifeboatPassthrough
                    | Self::GuestLifeboatNvme
                    | Self::Debian(_)
            )
    }

    /// What its guest is made of, if that is Debian.
    pub fn debian(self) -> Option<Debian> {
        match self {
            Self::Debian(debian) => Some(debian),
            _ => None,
        }
    }

    /// Whether the guest must come home from each kexec, and the lab compares what it saw with what its VMM reports.
    pub fn compares_updates(self) -> bool {
        self.jumps() && self.has_guest() && self != Self::GuestLifeboatAstray
    }

    /// Whether its guests are resumed together, and report by name.
    pub fn has_fleet(self) -> bool {
        matches!(
            self,
            Self::Guests
                | Self::LargeGuests
                | Self::GuestsLateModule
                | Self::GuestsPassthrough
                | Self::GuestsLifeboat
        )
    }

    /// Whether each scenario has a host of its own.
    pub fn is_alone(self) -> bool {
        self.jumps()
            || (self.devices() != Devices::None && self != Self::Modular && !self.has_lifeboat())
            || matches!(
                self,
                Self::Forged
                    | Self::GuestAlone
                    | Self::GuestHolder
                    | Self::Lifeboat
                    | Self::GuestSoak
            )
    }

    /// Whether the host must not share the machine with other hosts: several guests share its only
    /// CPU and their blackout is measured, or something must happen while its kernel boots.
    pub fn fills_the_machine(self) -> bool {
        matches!(
            self,
            Self::Guests
                | Self::LargeGuests
                | Self::GuestsPassthrough
                | Self::GuestNvme
                | Self::GuestLifeboat
                | Self::GuestLifeboatAstray
                | Self::LargeGuestLifeboat
                | Self::GuestLifeboatPassthrough
                | Self::GuestLifeboatNvme
                | Self::GuestsLifeboat
        )
    }

    /// The devices that the host can pass through.
    pub fn devices(self) -> Devices {
        match self {
            Self::Passthrough
            | Self::Modular
            | Self::PassthroughOneBoot
            | Self::FailingPassthrough
            | Self::GuestsPassthrough => Devices::Cards(2, Iommu::Legacy),
            Self::PassthroughScalable => Devices::Cards(2, Iommu::Scalable),
            Self::PassthroughScalableIdentity => Devices::Cards(2, Iommu::ScalableIdentity),
            Self::PassthroughFirstStage => Devices::Cards(2, Iommu::FirstStage),
            Self::PassthroughFromScalable => Devices::Cards(2, Iommu::FromScalable),
            Self::PassthroughToScalable => Devices::Cards(2, Iommu::ToScalable),
            Self::PassthroughAmdVi => Devices::Cards(2, Iommu::AmdVi),
            Self::PassthroughAmdViOff => Devices::Cards(2, Iommu::AmdViOff),
            Self::GuestPassthrough => Devices::Cards(1, Iommu::Legacy),
            Self::GuestPassthroughScalable => Devices::Cards(1, Iommu::Scalable),
            Self::GuestPassthroughAmdVi => Devices::Cards(1, Iommu::AmdVi),
            Self::GuestNvme => Devices::Nvme,
            Self::GuestScalable => Devices::CardAndAtsUser,
            Self::GuestLifeboatPassthrough => Devices::BoatConsoleAndCard,
            Self::GuestLifeboatNvme => Devices::BoatConsoleAndNvme,
            kind if kind.has_lifeboat() => Devices::BoatConsole,
            _ => Devices::None,
        }
    }

    /// Whether the host has the driver of its cards as a module.
    pub fn has_card_driver(self) -> bool {
        matches!(
            self,
            Self::Passthrough
                | Self::PassthroughScalable
                | Self::PassthroughScalableIdentity
                | Self::PassthroughAmdVi
        )
    }

    /// Whether there is what a lifeboat needs.
    pub fn has_lifeboat(self) -> bool {
        matches!(
            self,
            Self::Lifeboat
                | Self::GuestLifeboat
                | Self::GuestLifeboatAstray
                | Self::LargeGuestLifeboat
                | Self::GuestLifeboatPassthrough
                | Self::GuestLifeboatNvme
                | Self::GuestsLifeboat
                | Self::LifeboatOneBoot
        )
    }

    /// Whether guests run in the host and no update may leave it.
    pub fn stays_with_guest(self) -> bool {
        matches!(
            self,
            Self::GuestOneBoot | Self::GuestsOneBoot | Self::GuestScalable | Self::GuestSoak
        )
    }

    /// Whether such a host exists only with debug kernels.
    pub fn is_for_debug_only(self) -> bool {
        matches!(self, Self::FailingLoad | Self::FailingPassthrough)
    }

    /// Whether the host has neither patches nor module.
    pub fn is_stock(self) -> bool {
        self.is_as_it_comes() || matches!(self, Self::Stock | Self::GuestLuo | Self::GuestHolder)
    }

    /// The same, and only the VMM's commands run in it.
    pub fn is_as_it_comes(self) -> bool {
        matches!(self, Self::UnpatchedNoModule | Self::UnpatchedNoKho)
    }

    /// Whether guests run in the host.
    pub fn has_guest(self) -> bool {
        let jumps = self.jumps() && self != Self::OwnKexec;
        let stays = matches!(self, Self::GuestAlone | Self::GuestHolder);
        jumps || self.stays_with_guest() || stays
    }
}
