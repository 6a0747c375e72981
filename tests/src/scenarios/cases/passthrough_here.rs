//! Devices in a host that is not left: the requirements of a box with devices, and a kernel that
//! does not support them.

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::passthrough::{BOX, FRAMES, does_not_seal};
use super::{Cx, Scenario};
use crate::check::fails;
use crate::fdbox::FdBox;
use crate::host;
use crate::memory::MIB;
use crate::passthrough::nic::{self, IOVA, MEMORY_LEN};
use crate::passthrough::vfio::{self, Iommufd};
use crate::passthrough::{Rig, pci};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "passthrough/dependencies",
        about: "a box that lacks what a device needs cannot be sealed, and the error says \
                what is missing",
        host: HostKind::PassthroughOneBoot,
        stages: &[dependencies],
    },
    &Scenario {
        name: "passthrough/same-host",
        about: "an iommufd and its devices cannot change while sealed; out of the box they \
                are as before",
        host: HostKind::PassthroughOneBoot,
        stages: &[same_host],
    },
    &Scenario {
        name: "passthrough/unpatched",
        about: "an unpatched kernel refuses an iommufd, and the log names the patch",
        host: HostKind::Unpatched,
        stages: &[unpatched],
    },
];

fn dependencies(_: &Cx<'_>) -> Result<()> {
    let rig = Rig::set_up()?;
    let fdbox = FdBox::create(BOX)?;
    fdbox.put(rig.device.another()?.into_fd(), "nic")?;
    does_not_seal(&fdbox, Errno::NOENT, "nic", "iommufd")?;
    fdbox.put(rig.iommufd.another()?.into_fd(), "iommufd")?;
    does_not_seal(&fdbox, Errno::NOENT, "iommufd", "memfd")?;
    fdbox.put(rig.memory.try_clone()?, "ring")?;

    let memory = vec![0; MIB as usize];
    let aligned = memory.as_ptr().align_offset(4096);
    let page = &memory[aligned..aligned + 4096];
    let elsewhere = IOVA + 2 * MEMORY_LEN;
    rig.iommufd.map_memory(rig.ioas, page, elsewhere)?;
    does_not_seal(&fdbox, Errno::OPNOTSUPP, "iommufd", "other than a file")?;
    rig.iommufd.unmap(rig.ioas, elsewhere, 4096)?;
    // A SEAL that failed changed nothing.
    let frames = nic::filled(&rig.memory)?;
    nic::wait_for(&rig.memory, frames + FRAMES)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

fn same_host(_: &Cx<'_>) -> Result<()> {
    let rig = Rig::set_up()?;
    let fdbox = FdBox::create(BOX)?;
    rig.put(&fdbox)?;
    fdbox.seal()?;
    fails("A new IOAS", rig.iommufd.ioas(), Errno::BUSY)?;
    fails("Attaching", rig.device.attach(rig.ioas), Errno::BUSY)?;
    fails(
        "UNMAP",
        rig.iommufd.unmap(rig.ioas, IOVA, MEMORY_LEN),
        Errno::BUSY,
    )?;
    let places = pci::nics()?;
    let second = places.get(1).context("The host has no second e1000e")?;
    let second = vfio::open_node(&pci::give_to_vfio(second)?)?;
    fails(
        "Binding another device",
        vfio::bind(&second, &rig.iommufd),
        Errno::BUSY,
    )?;
    // The guest continues meanwhile.
    nic::check_untouched(&rig.device)?;
    let frames = nic::filled(&rig.memory)?;
    nic::wait_for(&rig.memory, frames + FRAMES)?;

    let ioas = rig.ioas;
    drop(rig);
    fdbox.unseal()?;
    let rig = Rig::take(&fdbox, ioas)?;
    nic::check_untouched(&rig.device)?;
    let frames = nic::filled(&rig.memory)?;
    let frames = nic::wait_for(&rig.memory, frames + FRAMES)?;
    nic::check_frames(&rig.memory, frames)?;
    rig.iommufd.ioas()?;
    vfio::bind(&second, &rig.iommufd).context("Bind the other device")?;
    fdbox.delete()
}

/// How often a call that is refused is tried; the log accepts bursts of 50 such lines, and 10 per
/// second.
const TRIES: usize = 500;

/// A process that was passed a box cannot flood the log with it.
fn floods_no_log(fdbox: &FdBox) -> Result<()> {
    let lines = || -> Result<usize> {
        let log = host::kernel_log()?;
        Ok(log.iter().filter(|line| line.contains("needs")).count())
    };
    let before = lines()?;
    let mut iommufd = Iommufd::open()?.into_fd();
    for _ in 0..TRIES {
        match fdbox.try_put(iommufd, "iommufd") {
            Ok(()) => anyhow::bail!("PUT_FD of an iommufd succeeded"),
            Err((_, back)) => iommufd = back,
        }
    }
    let more = lines()? - before;
    ensure!(
        more < TRIES / 2,
        "{TRIES} tries left {more} lines in the log"
    );
    Ok(())
}

fn unpatched(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("unpatched-passthrough")?;
    let refused = fdbox.try_put(Iommufd::open()?.into_fd(), "iommufd");
    let refused = refused.map_err(|(error, _)| error);
    fails("PUT_FD of an iommufd", refused, Errno::OPNOTSUPP)?;
    let log = host::kernel_log()?;
    let named = log
        .iter()
        .any(|line| line.contains("fdbox,iommufd-v1 needs") && line.contains("kmod/patches"));
    ensure!(named, "No line of the log names the patches: {log:?}");
    floods_no_log(&fdbox)?;
    fdbox.delete()
}
