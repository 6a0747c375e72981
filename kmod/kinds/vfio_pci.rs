// SPDX-License-Identifier: GPL-2.0

//! VFIO PCI device: a function that vfio-pci drives, opened by its own node and bound to an
//! iommufd.
//!
//! Preserved: the running device. It is not reset, its bus mastering stays on, and the IOMMU keeps
//! translating for it with the page tables of the last kernel until it switches to those of this
//! one, which have the same mappings. Also the ids of the device and of its HWPT in the iommufd.
//!
//! Not preserved: interrupts (disabled in the next kernel, and lost if they occur meanwhile), the
//! virtualised parts of config space, PM and migration state, ioeventfds, the KVM it was given.
//!
//! Depends on: the iommufd it is bound to. Only whole functions behind VT-d or AMD-Vi, each
//! alone in its group, without ATS and PASID: SEAL refuses VFs.
//!
//! While sealed: attaching and detaching is EBUSY. Everything else goes on.
//!
//! In the next kernel only vfio-pci binds to the device, and only GET_FD can open it, once, after the
//! memory and the iommufd were taken out (EAGAIN before). DELETE_BOX with the device in the box stops
//! and resets it before any memory is freed.
//!
//! In a boat that has borrowed the box: a file with the device's registers, see `lent_device.c`.
//!
//! Data: see `abi/dma.rs`. Extents: the page tables of the IOMMU. Devices that share an HWPT have
//! the same extents, and the last one that is taken out frees them.

use super::iommufd;
use crate::abi::dma::{
    self as abi_dma,
    Device,
    Range,
    Registers, //
};
use crate::ffi::{
    self,
    VfioBinding, //
};
use crate::file::FileRef;
use crate::kexec::kho;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::name::Name;
use crate::objects::{
    iommufd::Iommufd,
    lent,
    vfio_pci as object, //
};
use crate::ratelimit;
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::TakeCx;
use crate::unseal_cx::UnsealCx;
use kernel::{
    fs::File,
    prelude::*, //
};

/// What is missing if VFIO is a module that is not loaded.
const MODULE: &str = "iommufd.ko, vfio.ko and vfio-pci.ko: load vfio-pci, and try again";

pub(crate) struct VfioPci;

/// Name of the iommufd of `cx`'s file in the box.
fn iommufd_name<'a>(cx: &'a SealCx<'_>) -> Option<&'a Name> {
    cx.name_of(object::Device::of(cx.file)?.iommufd()?.address())
}

/// Appends the page tables of a device to `record`; without one, only checks that they can be kept.
fn tables(binding: &VfioBinding, mut record: Option<&mut Record>) -> Result {
    object::tables(binding, |table| match &mut record {
        Some(record) => record.push(table / kernel::page::PAGE_SIZE as u64, 0),
        None => Ok(()),
    })
}

fn unkeep(record: &Record) {
    if let Ok((binding, _)) = saved(record) {
        object::unkeep(&binding);
    }
}

/// The saved state: the binding, and the name of the iommufd.
fn saved(record: &Record) -> Result<(VfioBinding, &[u8])> {
    let device = Device::decode(record.data()).map_err(|_| EIO)?;
    let binding = VfioBinding {
        segment: device.segment,
        bdf: device.bdf,
        device: device.device,
        hwpt: device.hwpt,
        ioas: device.ioas,
        auto_domain: device.auto_domain.into(),
    };
    Ok((binding, device.iommufd))
}

/// Where the registers of a device are, for a boat.
fn registers(device: object::Device<'_>) -> Registers {
    let found = device.registers();
    Registers {
        config: found.config,
        bars: found.bars.map(|bar| Range {
            start: bar.start,
            length: bar.length,
        }),
    }
}

impl Kind for VfioPci {
    fn compatible(&self) -> &[u8] {
        abi_dma::VFIO_PCI
    }

    fn reads(&self, compatible: &[u8]) -> bool {
        compatible == abi_dma::VFIO_PCI || compatible == abi_dma::VFIO_PCI_V1
    }

    fn matches(&self, file: &File) -> bool {
        object::Device::of(file).is_some()
    }

    fn supported(&self) -> Result<(), &'static str> {
        super::lacks(object::lacks(), MODULE, iommufd::PATCH)
    }

    /// The iommufd is frozen first, so that the page tables do not change.
    fn seals_last(&self) -> bool {
        true
    }

    fn waits_for_files(&self) -> bool {
        true
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        cx.needs_read_and_write()?;
        if iommufd_name(cx).is_none() {
            return Err(cx.refuse(
                ENOENT,
                Reason::MissingDependency,
                fmt!("the iommufd that the device is bound to is not in the box; put it in"),
            ));
        }
        let device = object::Device::of(cx.file).ok_or(EIO)?;
        let possible = device.binding().and_then(|binding| match kho::enabled() {
            true => tables(&binding, None),
            false => Ok(()),
        });
        possible.map_err(|err| match err {
            ENOENT => cx.refuse(
                EOPNOTSUPP,
                Reason::UnsupportedState,
                fmt!("the device is attached to no IOAS; attach it"),
            ),
            EOPNOTSUPP => cx.refuse(
                EOPNOTSUPP,
                Reason::UnsupportedState,
                fmt!("DMA goes on only for a whole function, alone in its IOMMU group, behind VT-d or AMD-Vi without ATS and PASID: no VF"),
            ),
            _ => err,
        })
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let device = object::Device::of(cx.file).ok_or(EIO)?;
        let binding = device.binding()?;
        Device {
            segment: binding.segment,
            bdf: binding.bdf,
            device: binding.device,
            hwpt: binding.hwpt,
            ioas: binding.ioas,
            auto_domain: binding.auto_domain != 0,
            registers: Some(registers(device)),
            iommufd: iommufd_name(cx).ok_or(ENOENT)?.as_bytes(),
        }
        .put(record)?;
        tables(&binding, Some(record))?;
        object::keep(&binding)
    }

    fn unseal(&self, _file: &File, record: Option<&Record>) {
        if let Some(record) = record {
            unkeep(record);
        }
    }

    /// Needs neither iommufd nor VFIO: the device does DMA whether they are loaded or not.
    fn carry(&self, record: &Record) -> Result {
        if object::lacks() == ffi::LACKS_PATCH {
            // In such a kernel nothing goes on besides the record.
            return Ok(());
        }
        let (binding, _) = saved(record)?;
        // It was stopped, so there is nothing to carry.
        if !object::waits(&binding) {
            return Err(EIO);
        }
        let kept = tables(&binding, None).and_then(|()| object::keep(&binding));
        // ENODEV has another meaning for the caller of SEAL: the box was deleted.
        kept.map_err(|err| if err == ENODEV { EIO } else { err })
    }

    fn uncarry(&self, record: &Record) {
        unkeep(record);
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        let (_, iommufd) = saved(record)?;
        cx.needs("its iommufd", iommufd)
    }

    fn borrow(&self, cx: &mut TakeCx<'_>, _compatible: &[u8], record: &Record) -> Result<FileRef> {
        let device = Device::decode(record.data()).map_err(|_| EIO)?;
        let Some(registers) = device.registers.filter(|registers| registers.config != 0) else {
            // An older module wrote it, or the host has no MCFG table.
            if ratelimit::may_log() {
                pr_warn!(
                    "{} cannot be lent: its configuration space is not in memory\n",
                    cx.name()
                );
            }
            return Err(EOPNOTSUPP);
        };
        lent::create_device(&ffi::Registers {
            config: registers.config,
            bars: registers.bars.map(|bar| ffi::Range {
                start: bar.start,
                length: bar.length,
            }),
        })
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let (binding, iommufd) = saved(record)?;
        let iommufd = Iommufd::of(cx.restored_file(iommufd)?).ok_or(EIO)?;
        let file = object::adopt(iommufd, &binding);
        // There is no such device, or it does not wait. ENODEV has another meaning for the caller.
        let file = file.map_err(|err| if err == ENODEV { EIO } else { err })?;
        if !cx.shared_extents(record) {
            progress.discard(record);
        }
        Ok(file)
    }

    fn discard(&self, record: &Record) {
        if let Ok((binding, _)) = saved(record) {
            object::stop(&binding);
        }
    }
}
