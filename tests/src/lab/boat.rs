//! What a host needs to start a lifeboat: a kernel, and an initramfs with the module that sends heartbeats.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::KeyBuilder;
use crate::image;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::programs::{self, Programs};

/// Makes the host's kernels leave the third serial port alone: it is the console of a kernel that runs
/// at the same time. ACPI lists it, too, and with fewer places than ports it would take that of the
/// host's console.
pub(crate) const CMDLINE: &str = "8250.nr_uarts=2 pnpacpi=off";
/// Sizes of KHO's scratch memory. Those that KHO chooses add up to eight times what the kernel has reserved when it
/// starts, three quarters of that in one piece. With the initramfs of such a host, 114 MB and more, that is 1000 MiB in
/// one piece of 2 GiB, which there is only if KASLR has not placed the kernel in the middle.
pub(crate) const SCRATCH: &str = "kho_scratch=384M,0,384M";
const MODULES: [&str; 2] = ["fdbox-boat.ko", "fdbox.ko"];

/// The files, with their local paths.
#[derive(Debug, Clone)]
pub(crate) struct BoatFiles {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl BoatFiles {
    /// The boat runs a stock kernel, or with guests one that can take a VM out of a box.
    pub(crate) fn get(lab: &Lab, programs: &Programs, has_guest: bool) -> Result<Self> {
        let init = programs.path(programs::INIT);
        let kernel = lab.kernels()?.get(match has_guest {
            true => Flavour::A,
            false => Flavour::Stock,
        })?;
        let modules = lab.modules(&kernel)?.paths()?;
        let scenarios = programs.path(programs::SCENARIOS);
        let mut files = vec![
            (init, "init".to_owned()),
            (scenarios, "bin/lab-scenarios".to_owned()),
        ];
        if has_guest {
            let vmm = programs.path(programs::VMM);
            files.push((vmm, "bin/vmm-example".to_owned()));
        }
        for name in MODULES {
            let module = modules.iter().find(|path| path.ends_with(name));
            let module = module.with_context(|| format!("There is no {name}"))?;
            files.push((module.clone(), format!("lib/modules/{name}")));
        }
        let mut key = KeyBuilder::new("boat 2");
        for (file, _) in &files {
            key = key.file(file)?;
        }
        let image = lab.cache.get("boat", &key.build(), |dir| {
            image::write_small(&files, &dir.join("boat.cpio"))
        })?;
        Ok(Self {
            kernel: kernel.image(),
            initramfs: image.join("boat.cpio"),
        })
    }

    /// The files with their places in the host.
    pub(crate) fn files(&self) -> [(PathBuf, String); 2] {
        [
            (self.kernel.clone(), "/boat/kernel".to_owned()),
            (self.initramfs.clone(), "/boat/initramfs".to_owned()),
        ]
    }
}
