//! Boots a guest again that has reset itself: in the same process, VM and memory, with the same
//! devices.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::devices::virtio::slot::Slot;
use crate::error::{chain, warn};
use crate::guest::boot::{self, BootImage, BootSpec, BootStateV1};
use crate::kvm::irqchip::{IrqchipStateV1, PitStateV1};
use crate::kvm::named;
use crate::kvm::vcpu::{self as vcpu_state, VcpuStateV1};

use super::shell::create_vcpus;
use super::{Machine, MachineError};

/// Names of the lent descriptors.
const KERNEL: &str = "boot-kernel";
const INITRAMFS: &str = "boot-initramfs";

/// What a guest boots from.
#[derive(Debug)]
pub(crate) struct Boot {
    state: BootStateV1,
    /// `Err` has the reason if the files are not available, for example on another host.
    image: Result<BootImage, String>,
}

impl Boot {
    pub(super) fn of(image: BootImage) -> Self {
        Self {
            state: image.state(),
            image: Ok(image),
        }
    }

    /// Takes what another process of this host lends; what that could not open is in `opened`.
    pub(crate) fn inherit(
        state: &BootStateV1,
        lent: &mut HashMap<String, OwnedFd>,
        opened: Option<Self>,
    ) -> Self {
        let initramfs = lent.remove(INITRAMFS);
        match (lent.remove(KERNEL), opened) {
            (Some(kernel), _) if initramfs.is_some() == state.initramfs.is_some() => Self {
                state: state.clone(),
                image: Ok(BootImage::inherit(state, kernel, initramfs)),
            },
            (_, Some(opened)) if opened.state == *state => opened,
            _ => Self::again(state),
        }
    }

    /// What another process of this host may be able to open, because this one was not.
    pub(super) fn to_open(&self) -> Option<BootStateV1> {
        self.image.is_err().then(|| self.state.clone())
    }

    /// What another process of this host can get of it, by name.
    pub(super) fn lend(&self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        let Ok(image) = &self.image else {
            return Ok(Vec::new());
        };
        let (kernel, initramfs) = image.fds()?;
        let initramfs = initramfs.map(|fd| (INITRAMFS.to_owned(), fd));
        Ok([(KERNEL.to_owned(), kernel)]
            .into_iter()
            .chain(initramfs)
            .collect())
    }

    /// Opens what a saved guest booted from.
    pub(crate) fn again(state: &BootStateV1) -> Self {
        let image = BootImage::reopen(state).map_err(|error| chain(&error));
        if let Err(why) = &image {
            warn(&format!(
                "The guest's next reset ends it: {why}. Once the file is there, `live-update --binary` brings a VMM that \
                 opens it"
            ));
        }
        Self {
            state: state.clone(),
            image,
        }
    }

    /// What a guest in a lifeboat booted from. The file is in the host, and so the guest boots there.
    pub(crate) fn in_host(state: &BootStateV1) -> Self {
        Self {
            state: state.clone(),
            image: Err("it is in the host".into()),
        }
    }

    pub(super) fn state(&self) -> BootStateV1 {
        self.state.clone()
    }
}

/// The power-on state of the parts of a machine that are in KVM.
struct PowerOn {
    vcpus: Vec<VcpuStateV1>,
    irqchip: IrqchipStateV1,
    pit: PitStateV1,
}

impl Machine {
    /// Whether the guest boots again when it resets.
    pub(crate) fn reboots(&self) -> bool {
        matches!(&self.boot, Some(Boot { image: Ok(_), .. }))
    }

    /// Resets the machine to its power-on state, with the guest about to enter its kernel. All of
    /// it is parked, and stays parked; the content of its memory stays, as on any machine.
    pub(crate) fn reset(&self) -> Result<(), MachineError> {
        let image = match &self.boot {
            Some(Boot {
                image: Ok(image), ..
            }) => image,
            Some(Boot {
                image: Err(why), ..
            }) => return Err(MachineError::NoBoot(why.clone())),
            None => return Err(MachineError::NoBoot("it was not asked to be kept".into())),
        };
        self.buses.virtio.reset();
        self.buses.pci.reset();
        self.buses.ports.reset();
        let devices: Vec<Slot> = self.buses.virtio.slots();
        let spec = BootSpec {
            cpus: u8::try_from(self.cpus()).unwrap_or(u8::MAX),
            devices: &devices,
            has_pci: self.buses.pci.is_there(),
        };
        let entry = boot::load(&self.ram, image, spec)?;
        let new = self.power_on(entry)?;
        self.vcpus.each(|id, fd| {
            let state = new.vcpus.iter().find(|state| state.id == id);
            state.map_or(Ok(()), |state| {
                vcpu_state::reset(fd, state, &self.shape)
                    .map_err(|source| MachineError::RestoreVcpu { id, source })
            })
        })?;
        self.vm.restore_pit(&new.pit)?;
        self.vm.restore_irqchip(&new.irqchip)?;
        self.vcpus.set_end(None);
        Ok(())
    }

    /// The initial KVM state of a machine like this one, read from a VM that never runs.
    fn power_on(&self, entry: u64) -> Result<PowerOn, MachineError> {
        let vm = self.host.create_vm()?;
        vm.create_platform()?;
        let cpus = u8::try_from(self.cpus()).unwrap_or(u8::MAX);
        let mut vcpus = Vec::with_capacity(self.cpus());
        let fds = create_vcpus(&vm, cpus)?;
        for ((id, new), old) in (0u8..).zip(&fds).zip(self.vcpus.fds()) {
            let cpuid = old.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
            let cpuid = named("KVM_GET_CPUID2", cpuid)?;
            named("KVM_SET_CPUID2", new.set_cpuid2(&cpuid))?;
            boot::setup_cpu(new, id, entry)?;
            let saved = vcpu_state::save(new, id, &self.shape);
            vcpus.push(saved.map_err(|source| MachineError::SaveVcpu { id, source })?);
        }
        Ok(PowerOn {
            vcpus,
            irqchip: vm.save_irqchip()?,
            pit: vm.save_pit()?,
        })
    }
}
