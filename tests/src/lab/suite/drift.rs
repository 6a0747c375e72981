//! The C and Rust declarations of the module match, or the build fails: one side is changed in a
//! copy, and the build has to fail.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cache::KeyBuilder;
use crate::kernel::{Flavour, Kernel};
use crate::lab::Lab;
use crate::{command, files};

/// A change of one file without the matching change in the other language.
#[derive(Debug)]
struct Drift {
    file: &'static str,
    line: &'static str,
    instead: &'static str,
    /// What the compiler must complain about.
    complaint: &'static str,
}

const DRIFTS: &[Drift] = &[
    // C returns a narrower type than Rust reads.
    Drift {
        file: "shim.h",
        line: "u64 fdbox_shim_file_size(struct file *file);",
        instead: "u32 fdbox_shim_file_size(struct file *file);",
        complaint: "fdbox_shim_file_size",
    },
    // A member of a struct has another size.
    Drift {
        file: "shim.h",
        line: "\tu32 seals;",
        instead: "\tu64 seals;",
        complaint: "seals",
    },
    // C calls Rust with a wider argument.
    Drift {
        file: "shim.h",
        line: "void fdbox_rs_box_put(void *box);",
        instead: "void fdbox_rs_box_put(void *box, u64 more);",
        complaint: "fdbox_rs_box_put",
    },
    // Only the Rust side changed.
    Drift {
        file: "kinds/driver_api.rs",
        line: "unsafe extern \"C\" fn fdbox_rs_fd_file(fd: *mut DriverFd) -> *mut bindings::file {",
        instead: "unsafe extern \"C\" fn fdbox_rs_fd_file(fd: *const DriverFd) -> *mut bindings::file {\n    let fd = fd.cast_mut();",
        complaint: "fdbox_rs_fd_file",
    },
    // A callback of drivers.
    Drift {
        file: "include/linux/fdbox.h",
        line: "\tint (*seal)(struct fdbox_fd *fd);",
        instead: "\tlong (*seal)(struct fdbox_fd *fd);",
        complaint: "mismatched types",
    },
    // An argument of an ioctl.
    Drift {
        file: "include/uapi/linux/fdbox.h",
        line: "\t__u64 boxes;\t\t\t/* number of boxes */",
        instead: "\t__u32 boxes;\n\t__u32 more;",
        complaint: "mismatched types",
    },
    // A function exported to C that is not compared.
    Drift {
        file: "shim.h",
        line: "void fdbox_rs_box_put(void *box);",
        instead: "void fdbox_rs_box_put(void *box);\nvoid fdbox_rs_nobody(void);",
        complaint: "fdbox_rs_nobody",
    },
];

/// A tree and a kernel for which the result is known are not tried again.
pub(super) fn does_not_build(lab: &Lab) -> Result<()> {
    let kernel = lab.kernels()?.get(Flavour::Stock)?;
    let kmod = lab.checkout.join("kmod");
    let key = KeyBuilder::new("drift 1")
        .text("kernel", kernel.key.as_str())
        .text("drifts", &format!("{DRIFTS:?}"))
        .tree(&kmod)?
        .build();
    lab.cache.get("drift", &key, |dir| {
        files::copy_sources(&kmod, dir)?;
        try_all(lab, &kernel, dir)
    })?;
    Ok(())
}

fn try_all(lab: &Lab, kernel: &Kernel, kmod: &Path) -> Result<()> {
    let log = lab.fresh_log("module-drift")?;
    build(lab, kernel, kmod, &log).context("The module as it is")?;
    for drift in DRIFTS {
        let path = kmod.join(drift.file);
        let text = fs::read_to_string(&path)?;
        if text.matches(drift.line).count() != 1 {
            bail!("{} has not one line {:?}", drift.file, drift.line);
        }
        fs::write(&path, text.replace(drift.line, drift.instead))?;
        let built = build(lab, kernel, kmod, &log);
        fs::write(&path, text)?;
        match built {
            Ok(()) => bail!("{:?} builds with {:?}", drift.line, drift.instead),
            Err(error) if format!("{error:#}").contains(drift.complaint) => {}
            Err(error) => {
                return Err(error.context(format!("{:?} fails otherwise", drift.instead)));
            }
        }
    }
    Ok(())
}

/// Compiles the Rust side, including generated files.
fn build(lab: &Lab, kernel: &Kernel, kmod: &Path, log: &Path) -> Result<()> {
    let mounts = kernel.mounts();
    let mut mounts: Vec<_> = mounts
        .iter()
        .map(|(path, place)| (path.as_path(), *place))
        .collect();
    mounts.push((kmod, "/lab/kmod"));
    let mut make = lab.toolchain.command(&mounts, "make");
    make.args(["-C", "/lab/obj", "M=/lab/kmod", "fdbox_main.o"]);
    command::logged(&mut make, log, |_| {})
}
