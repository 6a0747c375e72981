//! The environment that a program expects: the usual filesystems, and modules.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

/// (filesystem, mount point).
const MOUNTS: &[(&CStr, &CStr)] = &[
    (c"devtmpfs", c"/dev"),
    (c"proc", c"/proc"),
    (c"sysfs", c"/sys"),
    (c"tmpfs", c"/tmp"),
    (c"tmpfs", c"/run"),
    (c"debugfs", c"/sys/kernel/debug"),
    (c"devpts", c"/dev/pts"),
];

pub(crate) fn mount_all() -> Result<()> {
    for (filesystem, place) in MOUNTS {
        let path = place.to_string_lossy();
        if !Path::new(&*path).exists() {
            fs::create_dir_all(&*path).with_context(|| format!("Create {path}"))?;
        }
        mount(*filesystem, *place, *filesystem, MountFlags::empty(), None)
            .with_context(|| format!("Mount {path}"))?;
    }
    Ok(())
}

pub(crate) fn load_module(path: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("Open {path}"))?;
    rustix::system::finit_module(&file, c"", 0).with_context(|| format!("Load {path}"))
}
