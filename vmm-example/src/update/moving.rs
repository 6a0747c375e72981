//! A machine as a guest of the library's update.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use vmm_fdbox::frame::FrameWriter;
use vmm_fdbox::update::{Guest, NamedFd, PartyError};
use vmm_fdbox::{Deadline, FdName, Features, Finding, Info, Kind};

use super::lifeboat::{boat_memory_finding, is_silent, resting_finding, stays_finding};
use super::outline::{self, OUTLINE_FD};
use super::{MEMORY_FD, VM_FD, party_error};
use crate::devices::vfio::Kept;
use crate::guest::machine::{Machine, MachineError};
use crate::guest::state::{self, GuestState};
use crate::spec::MemoryKind;

/// What an update needs of a machine.
pub(crate) trait Movable {
    /// Descriptors for the box, dependencies first, with the VM or without.
    fn duplicate_fds(&self, vm: bool) -> Result<Vec<(&'static str, OwnedFd)>, MachineError>;
    /// Brings devices to rest, while the guest runs. `leaves`: the kernel is about to end.
    fn quiesce(&self, _deadline: Deadline, _leaves: bool) -> Result<(), MachineError> {
        Ok(())
    }
    fn park(&self);
    fn save(&self) -> Result<GuestState, MachineError>;
    /// Continues the guest, which is parked or whose devices are at rest.
    fn continue_guest(&self);
    /// Whether the guest broke down. One that reset itself or switched itself off is handed over.
    fn has_ended(&self) -> bool;
    /// Whether the host's TSC can measure the elapsed time.
    fn has_steady_tsc(&self) -> bool;
    /// The kinds of the descriptors that go into the box.
    fn kinds(&self) -> BTreeSet<Kind>;
    /// Reasons why it could not be saved, checked while it runs.
    fn try_save(&self) -> Vec<Finding> {
        Vec::new()
    }
    /// Findings on its devices. `carried`: their descriptors are handed over.
    fn device_findings(&self, _carried: bool) -> Vec<Finding> {
        Vec::new()
    }
    /// Reasons why passed-through devices cannot go through a box.
    fn passthrough_findings(&self, _kept: Kept) -> Vec<Finding> {
        Vec::new()
    }
    /// Descriptors of passed-through devices for the box, dependencies first.
    fn duplicate_passed(&self) -> Result<Vec<(String, OwnedFd)>, MachineError> {
        Ok(Vec::new())
    }
    /// What a lifeboat, which has no devices, means for the guest.
    fn lifeboat_findings(&self) -> Vec<Finding> {
        Vec::new()
    }
    /// A file with its state as it is now, while it keeps running: see [`outline`].
    fn outline(&self) -> Result<OwnedFd, PartyError>;
    /// Syncs what the host holds for the parked guest and would lose with its kernel, and stops all
    /// interrupts from the guest's devices.
    fn leave_host(&self) -> Result<(), MachineError> {
        Ok(())
    }
}

impl Movable for Machine {
    fn duplicate_fds(&self, vm: bool) -> Result<Vec<(&'static str, OwnedFd)>, MachineError> {
        let mut fds = Vec::new();
        // A guest_memfd belongs to its VM, so the VM goes first.
        if vm {
            fds.push((VM_FD, self.vm().duplicate()?));
        }
        fds.push((MEMORY_FD, self.ram().duplicate()?));
        Ok(fds)
    }

    fn quiesce(&self, deadline: Deadline, leaves: bool) -> Result<(), MachineError> {
        Self::quiesce(self, deadline, leaves)
    }

    fn park(&self) {
        // Later input is for whoever runs the guest next.
        self.console().gate().shut();
        Self::park(self);
    }

    fn save(&self) -> Result<GuestState, MachineError> {
        Self::save(self)
    }

    fn try_save(&self) -> Vec<Finding> {
        Self::try_save(self)
    }

    fn continue_guest(&self) {
        if self.is_parked() {
            self.notify_stopped();
        }
        self.run();
        self.flush_console();
        self.console().gate().open();
    }

    fn has_ended(&self) -> bool {
        self.is_broken()
    }

    fn has_steady_tsc(&self) -> bool {
        self.host_tsc_khz() != 0
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        kinds(self.ram().kind(), !self.pci().status().is_empty())
    }

    fn device_findings(&self, carried: bool) -> Vec<Finding> {
        self.virtio().findings(carried)
    }

    fn passthrough_findings(&self, kept: Kept) -> Vec<Finding> {
        self.pci().findings(kept)
    }

    fn duplicate_passed(&self) -> Result<Vec<(String, OwnedFd)>, MachineError> {
        Ok(self.pci().lend()?)
    }

    fn lifeboat_findings(&self) -> Vec<Finding> {
        let devices = match self.pci().has_messages() {
            true => Vec::new(),
            false => self.pci().status(),
        };
        let devices = devices.iter().map(|status| is_silent(&status.device));
        devices
            .chain(resting_finding(&self.virtio().sections()))
            .collect()
    }

    fn outline(&self) -> Result<OwnedFd, PartyError> {
        let state = self.save_running().map_err(party_error)?;
        outline::write(&state, self.state_capacity()).map_err(party_error)
    }

    fn leave_host(&self) -> Result<(), MachineError> {
        Self::leave_host(self)
    }
}

/// The kinds of descriptors that go into the box, out of `kinds`. A VM that cannot be kept stays,
/// and the next VMM creates its own.
pub(crate) fn in_box(mut kinds: BTreeSet<Kind>, keeps: Features) -> BTreeSet<Kind> {
    if !keeps.kvm_vm() {
        kinds.remove(&Kind::KvmVm);
    }
    kinds
}

/// The kinds of the descriptors that a guest could put into its box.
pub(crate) fn kinds(memory: MemoryKind, has_host_devices: bool) -> BTreeSet<Kind> {
    let memory = match memory {
        MemoryKind::Memfd => Kind::Memfd,
        MemoryKind::Hugetlb => Kind::Hugetlb,
        MemoryKind::GuestMemfd => Kind::GuestMemfd,
    };
    let devices = [Kind::Iommufd, Kind::VfioPci];
    let devices = devices.into_iter().filter(|_| has_host_devices);
    [Kind::KvmVm, memory].into_iter().chain(devices).collect()
}

/// The kinds for passed-through devices that a kernel can keep in a box: none if it does not report
/// any.
pub(super) fn kept(info: &Info) -> Kept {
    Kept {
        iommufd: info.features.iommufd(),
        vfio_pci: info.features.vfio_pci(),
    }
}

/// A machine as a guest of the library's update.
///
/// The box gets duplicates: mappings, vCPUs and events stay, so the guest continues while the box
/// is sealed, and what a rollback returns can be dropped.
pub(crate) struct Moving<'a, M> {
    pub(super) machine: &'a M,
    /// The guest's place in the order of resumes.
    pub(super) position: Option<u32>,
    /// Whether its devices' open descriptors are handed to the next VMM, in this kernel.
    pub(super) carried: bool,
    /// Whether it goes to a lifeboat.
    pub(super) boards: bool,
    /// Whether it is in one.
    pub(super) in_lifeboat: bool,
    /// The kinds for passed-through devices that this kernel can keep in a box.
    pub(super) kept: Kept,
    /// What of the guest itself can be in a box.
    pub(super) keeps: Features,
}

impl<'a, M> Moving<'a, M> {
    pub(super) fn new(machine: &'a M) -> Self {
        Self {
            machine,
            position: None,
            carried: false,
            boards: false,
            in_lifeboat: false,
            kept: Kept::default(),
            keeps: Features::default(),
        }
    }
}

/// Memory that not everything that keeps boxes can keep.
fn memory_finding(kinds: &BTreeSet<Kind>, keeps: Features) -> Option<Finding> {
    let problem = match kinds {
        _ if kinds.contains(&Kind::GuestMemfd) && !keeps.guest_memfd() => {
            "it is a guest_memfd, which what keeps the boxes here cannot keep"
        }
        _ if kinds.contains(&Kind::Hugetlb) && !keeps.hugetlb() => {
            "it is in huge pages, which what keeps the boxes here cannot keep"
        }
        _ => return None,
    };
    Some(Finding::blocker(
        "The guest's memory",
        problem,
        "load fdbox.ko on a kernel with the patches, or run guests with --memory kind=memfd",
    ))
}

impl<M: Movable> Guest for Moving<'_, M> {
    fn preflight(&mut self) -> Vec<Finding> {
        let mut findings = self.machine.device_findings(self.carried);
        if !self.carried {
            findings.extend(self.machine.passthrough_findings(self.kept));
        }
        if self.carried && self.in_lifeboat {
            findings.push(stays_finding());
        }
        if self.boards {
            findings.extend(boat_memory_finding(&self.machine.kinds()));
            findings.extend(self.machine.lifeboat_findings());
        }
        findings.extend(memory_finding(&self.machine.kinds(), self.keeps));
        findings.extend(self.machine.try_save());
        if !self.machine.has_steady_tsc() {
            findings.push(Finding::warning(
                "TSC",
                "KVM does not know its frequency, so the guest's clock will be off by the blackout",
                "boot a host with a stable TSC",
            ));
        }
        findings
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        in_box(self.machine.kinds(), self.keeps)
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        let fds = self
            .machine
            .duplicate_fds(self.keeps.kvm_vm())
            .map_err(party_error)?;
        let mut fds: Vec<_> = fds
            .into_iter()
            .map(|(name, fd)| (name.into(), fd))
            .collect();
        if !self.carried {
            fds.extend(self.machine.duplicate_passed().map_err(party_error)?);
        }
        if self.boards {
            fds.push((OUTLINE_FD.to_owned(), self.machine.outline()?));
        }
        fds.into_iter()
            .map(|(name, fd): (String, _)| {
                Ok(NamedFd {
                    name: FdName::new(&name)?,
                    fd,
                })
            })
            .collect()
    }

    fn quiesce(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        let quiet = self.machine.quiesce(deadline, !self.carried);
        quiet.map_err(party_error)
    }

    fn pause(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.machine.park();
        if self.machine.has_ended() {
            Err("The guest cannot run any more".into())
        } else {
            Ok(())
        }
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, _: Deadline) -> Result<(), PartyError> {
        if !self.carried {
            self.machine.leave_host().map_err(party_error)?;
        }
        let state = self.machine.save().map_err(party_error)?;
        state.write(frame).map_err(party_error)?;
        if let Some(position) = self.position {
            state::write_position(frame, position).map_err(party_error)?;
        }
        Ok(())
    }

    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
        match name.as_bytes() == OUTLINE_FD.as_bytes() {
            true => outline::erase(fd).map_err(party_error),
            false => Ok(()),
        }
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.machine.continue_guest();
        Ok(())
    }
}
