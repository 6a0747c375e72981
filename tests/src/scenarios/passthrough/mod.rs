//! A passed-through device that is driven by the scenario itself instead of a guest.

pub(crate) mod nic;
pub(crate) mod pci;
pub(crate) mod registers;
pub(crate) mod vfio;

use std::fs::File;

use anyhow::{Context, Result};

use crate::fdbox::FdBox;
use nic::{IOVA, MEMORY_LEN};
use vfio::{Iommufd, VfioDevice};

/// A device that receives frames, and everything it needs.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) memory: File,
    pub(crate) iommufd: Iommufd,
    pub(crate) ioas: u32,
    pub(crate) device: VfioDevice,
}

impl Rig {
    /// Takes the host's device from its present driver.
    pub(crate) fn set_up() -> Result<Self> {
        let memory = nic::memory(IOVA)?;
        let iommufd = Iommufd::open()?;
        let ioas = iommufd.ioas()?;
        let mapped = iommufd.map(ioas, &memory, MEMORY_LEN, IOVA);
        mapped.context("Map the memory")?;
        let device = VfioDevice::open(&pci::give_to_vfio(&pci::nic()?)?, &iommufd)?;
        device.attach(ioas).context("Attach the device")?;
        nic::start(&device, IOVA)?;
        Ok(Self {
            memory,
            iommufd,
            ioas,
            device,
        })
    }

    /// Puts everything into a box; the caller keeps other descriptors of the same files.
    pub(crate) fn put(&self, fdbox: &FdBox) -> Result<()> {
        fdbox.put(self.device.another()?.into_fd(), "nic")?;
        fdbox.put(self.iommufd.another()?.into_fd(), "iommufd")?;
        fdbox.put(self.memory.try_clone()?, "ring")
    }

    /// Takes everything out of a box, in the required order.
    pub(crate) fn take(fdbox: &FdBox, ioas: u32) -> Result<Self> {
        let memory = File::from(fdbox.get("ring")?);
        let iommufd = Iommufd::from_fd(fdbox.get("iommufd")?);
        let device = VfioDevice::from_fd(fdbox.get("nic")?)?;
        Ok(Self {
            memory,
            iommufd,
            ioas,
            device,
        })
    }
}
