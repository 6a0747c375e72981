//! What a host needs in order to run guests: the VMM, and the guest's kernel and initramfs.

use std::path::PathBuf;

use anyhow::Result;
use fdbox_lab::scenario::Debian;

use crate::cache::KeyBuilder;
use crate::debian_guest::DebianGuest;
use crate::image;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::programs::{self, Programs};

/// The driver of the passed-through card, among the kernel's objects.
pub(crate) const CARD_DRIVER: &str = "drivers/net/ethernet/intel/e1000e/e1000e.ko";
/// The drivers of all passed-through devices.
const DRIVERS: [&str; 3] = [
    CARD_DRIVER,
    "drivers/nvme/host/nvme-core.ko",
    "drivers/nvme/host/nvme.ko",
];

/// The files, with their local paths.
#[derive(Debug, Clone)]
pub(crate) struct GuestFiles {
    pub(crate) vmm: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    /// Whether the guest may boot again in a later stage.
    boots_later: bool,
}

impl GuestFiles {
    /// The guest runs the stock kernel: the project changes hosts, not guests.
    pub(crate) fn get(lab: &Lab, programs: &Programs) -> Result<Self> {
        Self::of(lab, programs, Flavour::Stock)
    }

    /// The same for a guest with another kernel.
    pub(crate) fn of(lab: &Lab, programs: &Programs, flavour: Flavour) -> Result<Self> {
        let witness = programs.path(programs::WITNESS);
        let kernel = lab.kernels()?.get(flavour)?;
        // Only where the guest needs them to start, it loads them at once.
        let (at_once, modules) = match kernel.is_packaged() {
            true => (true, kernel.needed_modules()?),
            false => (false, DRIVERS.map(|driver| kernel.module(driver)).to_vec()),
        };
        let mut key = KeyBuilder::new("guest 4").file(&witness)?;
        for module in &modules {
            key = key.file(module)?;
        }
        let image = lab.cache.get("guest", &key.build(), |dir| {
            image::write_guest(&witness, &modules, at_once, &dir.join("guest.cpio"))
        })?;
        Ok(Self {
            vmm: programs.path(programs::VMM),
            kernel: kernel.image(),
            initramfs: image.join("guest.cpio"),
            boots_later: false,
        })
    }

    /// The files of a guest with Debian's kernel and user space.
    pub(crate) fn of_debian(lab: &Lab, programs: &Programs, release: Debian) -> Result<Self> {
        let guest = DebianGuest::get(lab, programs, release)?;
        Ok(Self {
            vmm: programs.path(programs::VMM),
            kernel: guest.kernel(),
            initramfs: guest.initramfs(),
            boots_later: true,
        })
    }

    /// The files for the stage at `index` (from 0).
    pub(crate) fn of_stage(&self, index: usize) -> Vec<(PathBuf, String)> {
        let mut files = vec![(self.vmm.clone(), "/bin/vmm-example".to_owned())];
        if index == 0 || self.boots_later {
            files.push((self.kernel.clone(), "/guest/kernel".to_owned()));
            files.push((self.initramfs.clone(), "/guest/initramfs".to_owned()));
        }
        files
    }
}
