//! The parts of KVM that this VMM uses: a thin, safe layer over kvm-ioctls.

mod exact;
pub(crate) mod facts;
pub(crate) mod irqchip;
pub(crate) mod passthrough;
mod sys;
pub(crate) mod tsc;
pub(crate) mod vcpu;

use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::layout::{KVM_IDENTITY_MAP, KVM_TSS, RamRange};

pub(crate) use sys::XsaveLen;

/// An error of KVM.
#[derive(Debug, Error)]
pub(crate) enum KvmError {
    #[error(
        "Cannot open /dev/kvm: load kvm_intel or kvm_amd, or, in a VM, switch on nested \
         virtualisation; it takes root or membership of the kvm group"
    )]
    Open(#[source] errno::Error),
    #[error("This KVM speaks API version {found}, this program 12")]
    ApiVersion { found: i32 },
    #[error("This KVM lacks {what}")]
    Lacks { what: &'static str },
    #[error("{name} failed")]
    Ioctl {
        name: &'static str,
        source: errno::Error,
    },
    #[error("Cannot duplicate a descriptor of KVM's")]
    Duplicate(#[source] std::io::Error),
}

/// Adds the name of the ioctl that failed.
pub(crate) fn named<T>(name: &'static str, result: errno::Result<T>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError::Ioctl { name, source })
}

/// An open /dev/kvm with the required capabilities.
#[derive(Debug)]
pub(crate) struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens /dev/kvm and checks for the capabilities that every guest needs.
    pub(crate) fn open() -> Result<Self, KvmError> {
        Self::check(Kvm::new().map_err(KvmError::Open)?)
    }

    /// The same for a descriptor that another process opened.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Self, KvmError> {
        Self::check(sys::adopt_kvm(fd))
    }

    fn check(kvm: Kvm) -> Result<Self, KvmError> {
        let found = kvm.get_api_version();
        if found != KVM_API_VERSION as i32 {
            return Err(KvmError::ApiVersion { found });
        }
        let needed = [
            (Cap::Irqchip, "an in-kernel interrupt controller"),
            (Cap::Irqfd, "irqfd"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::Pit2, "an in-kernel timer (PIT)"),
            (Cap::UserMemory2, "KVM_SET_USER_MEMORY_REGION2 (Linux 6.8)"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ];
        match needed.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            Some((_, what)) => Err(KvmError::Lacks { what }),
            None => Ok(Self { kvm }),
        }
    }

    /// Another handle, for a VMM that can no longer open anything.
    pub(crate) fn duplicate(&self) -> Result<Self, KvmError> {
        let kvm = sys::adopt_kvm(self.lend()?);
        Ok(Self { kvm })
    }

    /// A duplicate of its descriptor, for a process that may not be able to open it.
    pub(crate) fn lend(&self) -> Result<OwnedFd, KvmError> {
        sys::kvm_descriptor(&self.kvm).map_err(KvmError::Duplicate)
    }

    /// The CPUID leaves that this host can offer to a guest.
    pub(crate) fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        named(
            "KVM_GET_SUPPORTED_CPUID",
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES),
        )
    }

    /// The MSRs that make up a vCPU's state on this host.
    pub(crate) fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = named("KVM_GET_MSR_INDEX_LIST", self.kvm.get_msr_index_list())?;
        Ok(list.as_slice().to_vec())
    }

    /// The value of a feature MSR that this host can offer to a guest; `None` if it has none.
    pub(crate) fn feature_msr(&self, index: u32) -> Result<Option<u64>, KvmError> {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).map_err(|_| KvmError::Lacks {
            what: "room for the MSRs",
        })?;
        // Only feature MSRs can be read without a vCPU.
        let read = self.kvm.get_msrs(&mut msrs).unwrap_or(0);
        Ok(msrs.as_slice()[..read].first().map(|msr| msr.data))
    }

    /// The maximum number of machine check banks of a vCPU.
    pub(crate) fn mce_banks(&self) -> u32 {
        u32::try_from(self.kvm.check_extension_int(Cap::Mce)).unwrap_or(0)
    }

    /// Whether nested virtualisation is available.
    pub(crate) fn has_nested(&self) -> bool {
        sys::has_nested(&self.kvm)
    }

    /// The maximum number of vCPUs of a VM.
    pub(crate) fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Creates an empty VM.
    pub(crate) fn create_vm(&self) -> Result<Vm, KvmError> {
        Ok(Vm {
            fd: named("KVM_CREATE_VM", self.kvm.create_vm())?,
        })
    }

    /// Makes a VM from a descriptor that came out of a box; a new one where a box cannot keep VMs.
    pub(crate) fn vm_of(&self, fd: Option<OwnedFd>) -> Result<Vm, KvmError> {
        let Some(fd) = fd else {
            return self.create_vm();
        };
        Ok(Vm {
            fd: named("KVM_GET_VCPU_MMAP_SIZE", sys::adopt_vm(&self.kvm, fd))?,
        })
    }
}

/// A VM. Memory and vCPUs are added by their owners.
#[derive(Debug)]
pub(crate) struct Vm {
    fd: VmFd,
}

impl Vm {
    /// Creates what must exist before the first vCPU: KVM's own pages, the interrupt controllers
    /// and the timer.
    pub(crate) fn create_platform(&self) -> Result<(), KvmError> {
        named(
            "KVM_SET_IDENTITY_MAP_ADDR",
            self.fd.set_identity_map_address(KVM_IDENTITY_MAP),
        )?;
        named(
            "KVM_SET_TSS_ADDR",
            self.fd.set_tss_address(KVM_TSS as usize),
        )?;
        named("KVM_CREATE_IRQCHIP", self.fd.create_irq_chip())?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        named("KVM_CREATE_PIT2", self.fd.create_pit2(pit))?;
        // KVM gives vCPUs the frequency that it saw when it was loaded. If the kernel has since
        // measured it again, and the difference exceeds KVM's tolerance, a CPU without TSC scaling
        // would run them with a TSC that stands still (Linux 7.3). If KVM does not support this
        // call, nothing better can be done.
        let _ = sys::follow_host_tsc(&self.fd);
        Ok(())
    }

    /// Whether it can have memory of KVM's own that a VMM can map.
    pub(crate) fn has_guest_memfd(&self) -> bool {
        self.fd.check_extension_raw(sys::KVM_CAP_GUEST_MEMFD_FLAGS) > 0
    }

    /// Creates a guest_memfd that belongs to this VM, mappable and fully shared.
    pub(crate) fn create_guest_memfd(&self, bytes: u64) -> Result<OwnedFd, KvmError> {
        if !self.has_guest_memfd() {
            return Err(KvmError::Lacks {
                what: "mappable guest_memfd",
            });
        }
        named(
            "KVM_CREATE_GUEST_MEMFD",
            sys::create_guest_memfd(&self.fd, bytes),
        )
    }

    /// Maps a range of guest RAM into the VM.
    pub(crate) fn set_memory(
        &self,
        slot: u32,
        range: RamRange,
        memory: &GuestMemoryMmap,
        guest_memfd: Option<BorrowedFd<'_>>,
    ) -> Result<(), KvmError> {
        let set = sys::set_memory_region(&self.fd, slot, range, memory, guest_memfd);
        named("KVM_SET_USER_MEMORY_REGION2", set)
    }

    /// Creates a vCPU. Its APIC ID is its number.
    pub(crate) fn create_vcpu(&self, id: u8) -> Result<VcpuFd, KvmError> {
        named("KVM_CREATE_VCPU", self.fd.create_vcpu(id.into()))
    }

    /// Makes an event raise an interrupt line.
    pub(crate) fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        named("KVM_IRQFD", self.fd.register_irqfd(event, gsi))
    }

    /// Sets the level of an interrupt line.
    pub(crate) fn set_line(&self, gsi: u32, high: bool) -> Result<(), KvmError> {
        named("KVM_IRQ_LINE", self.fd.set_irq_line(gsi, high))
    }

    /// Makes a four-byte write of `value` by the guest to an address signal an event.
    pub(crate) fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        let addr = IoEventAddress::Mmio(addr);
        named(
            "KVM_IOEVENTFD",
            self.fd.register_ioevent(event, &addr, value),
        )
    }

    /// A duplicate of the VM's descriptor, for a box.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, KvmError> {
        sys::duplicate_vm(&self.fd).map_err(KvmError::Duplicate)
    }

    /// The size of the XSAVE area of this VM's vCPUs.
    pub(crate) fn xsave_len(&self) -> XsaveLen {
        XsaveLen::of(&self.fd)
    }

    fn fd(&self) -> &VmFd {
        &self.fd
    }
}
