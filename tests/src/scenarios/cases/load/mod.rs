//! Failing calls: a module that fails to load loses nothing, and an ioctl that fails changes
//! nothing.

mod calls;
mod image;
mod kernel_calls;

use std::fs;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::FileType;
use rustix::io::Errno;

use self::kernel_calls::{Redirected, fail_one_by_one};
use crate::failing::{Quiet, at_last, set_up_failures};

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "load/each-step-fails",
        about: "the module is loaded repeatedly, with one kernel call, then one allocation \
                after the other failing: in the end all boxes are there",
        host: HostKind::FailingLoad,
        stages: &[before, after],
    },
    &Scenario {
        name: "load/each-call-fails",
        about: "each ioctl is called repeatedly, with one allocation after the other \
                failing: ENOMEM, and nothing has changed",
        host: HostKind::FailingLoad,
        stages: &[calls::here, calls::of_what_arrived],
    },
];

const BOXES: [&str; 2] = ["load-1", "load-2"];
const PAGES: u64 = 8;

fn before(_: &Cx<'_>) -> Result<()> {
    for (seed, name) in (90..).zip(BOXES) {
        let fdbox = FdBox::create(name)?;
        let file = memfd(c"load", PAGES * PAGE)?;
        write_pages(&file, seed, PAGES)?;
        fdbox.put(file, "memory")?;
        fdbox.seal()?;
    }
    Ok(())
}

fn after(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    let boxes = BOXES.len() + calls::ARRIVING.len();
    let quiet = Quiet::begin()?;
    let module = Redirected::new()?;
    let calls = fail_one_by_one(&module, boxes)?;
    module.arm_the_end()?;
    let ((), allocations) = at_last("Load", || module.load(), || Ok(()))?;
    quiet.end()?;
    cx.value("failures of calls and of allocations", [calls, allocations])?;
    ensure!(allocations > 0, "No allocation failed");
    make_missing_nodes()?;
    let info = fdbox::info()?;
    equal("The number of boxes", info.boxes, boxes as u64)?;
    equal("What was refused", info.features & uapi::FEATURE_REFUSED, 0)?;
    for (seed, name) in (90..).zip(BOXES) {
        let fdbox = FdBox::open(name)?;
        fdbox.unseal()?;
        check_pages(&memory::file(fdbox.get("memory")?), seed, PAGES)?;
        fdbox.delete()?;
    }
    Ok(())
}

/// If the module is loaded again, with enough memory, it finds nothing: what arrived has been
/// taken.
fn finds_nothing_again() -> Result<()> {
    // It uses the module.
    host::unload_module("fdbox_probe")?;
    rustix::system::delete_module(c"fdbox", 0).context("Unload the module")?;
    host::load_module("fdbox")?;
    equal("The number of boxes then", fdbox::info()?.boxes, 0)
}

/// The kernel ignores it if there is no memory for a node in /dev, for any device. The node can be
/// created later from the information in sysfs.
fn make_missing_nodes() -> Result<()> {
    for class in ["misc", "fdbox"] {
        for device in fs::read_dir(format!("/sys/class/{class}"))? {
            let reported = fs::read_to_string(device?.path().join("uevent"))?;
            let value = |name: &str| reported.lines().find_map(|line| line.strip_prefix(name));
            let Some(name) = value("DEVNAME=").filter(|name| name.starts_with("fdbox/")) else {
                continue;
            };
            let number = |name: &str| -> Result<u32> {
                let text = value(name).context("The device's number")?;
                Ok(text.parse()?)
            };
            let device = rustix::fs::makedev(number("MAJOR=")?, number("MINOR=")?);
            fs::create_dir_all("/dev/fdbox")?;
            let (path, mode) = (format!("/dev/{name}"), 0o600.into());
            match rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                FileType::CharacterDevice,
                mode,
                device,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context("Make a node"),
            }
        }
    }
    Ok(())
}
