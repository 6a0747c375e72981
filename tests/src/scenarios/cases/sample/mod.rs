//! Descriptors of another driver: the sample driver that is built with the module.

mod api;
mod keeping;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::{host, memory, uapi};

const MODULE: &str = "fdbox_sample";
const DEVICE: &str = "/dev/fdbox_sample";
const COMPATIBLE: &str = "fdbox,sample-v1";

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "sample/across-a-kexec",
        about: "a driver's descriptor waits for its driver, then arrives with its state; \
                other descriptors are salvaged",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
    &Scenario {
        name: "sample/put-and-get",
        about: "a driver's descriptor goes through a box in one kernel",
        host: HostKind::OneBoot,
        stages: &[same_kernel],
    },
    &Scenario {
        name: "sample/frozen",
        about: "a driver freezes its file, names its dependencies, and thaws it again",
        host: HostKind::OneBoot,
        stages: &[frozen],
    },
    &Scenario {
        name: "sample/api",
        about: "every function of the API for drivers, in every callback: those not allowed \
                there are refused",
        host: HostKind::Kexec,
        stages: &[api::before, api::after],
    },
    &Scenario {
        name: "sample/keeps",
        about: "a driver refuses UNSEAL and is named: nothing is thawed; SALVAGE ignores \
                the refusal",
        host: HostKind::OneBoot,
        stages: &[keeping::keeps],
    },
    &Scenario {
        name: "sample/too-large",
        about: "EFBIG: a driver saves more than 1 MiB in addition to its pages",
        host: HostKind::OneBoot,
        stages: &[too_large],
    },
    &Scenario {
        name: "sample/not-restorable",
        about: "EIO: a driver cannot read the state saved by another version of it; the \
                descriptor stays",
        host: HostKind::Kexec,
        stages: &[not_restorable_before, not_restorable_after],
    },
    &Scenario {
        name: "sample/pages-left",
        about: "pages that a driver saved but does not restore are freed",
        host: HostKind::Kexec,
        stages: &[spare_before, spare_after],
    },
];

/// The driver's parameter: how many bytes it saves that it will not read.
const EXCESS: &str = "/sys/module/fdbox_sample/parameters/excess";

/// A file of the driver, which is loaded if necessary.
pub(super) fn device(state: &[u8]) -> Result<File> {
    host::load_module(MODULE)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .context("Open it")?;
    file.write_all(state)?;
    Ok(file)
}

fn state_of(mut file: File) -> Result<Vec<u8>> {
    let mut state = Vec::new();
    file.read_to_end(&mut state)?;
    Ok(state)
}

/// State of the maximum size.
fn full_state() -> Vec<u8> {
    memory::page_content(30, 0)
}

fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample")?;
    fdbox.put(device(b"state of the driver")?, "device")?;
    fdbox.put(device(&full_state())?, "full")?;
    fdbox.put(device(b"")?, "empty")?;
    fdbox.seal()?;

    let fdbox = FdBox::create("sample-salvage")?;
    fdbox.put(device(b"salvaged")?, "device")?;
    let memory = memory::memfd(c"salvage", 4 * memory::PAGE)?;
    memory::write_pages(&memory, 31, 4)?;
    fdbox.put(memory, "memory")?;
    fdbox.seal()
}

fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("sample")?;
    let states = |fdbox: &FdBox| -> Result<Vec<(String, u32)>> {
        let entries = fdbox.entries()?;
        Ok(entries
            .iter()
            .map(|e| (uapi::text(&e.compatible), e.state))
            .collect())
    };
    let unknown = (COMPATIBLE.to_owned(), uapi::FD_UNKNOWN);
    equal(
        "The list without the driver",
        states(&fdbox)?,
        vec![unknown; 3],
    )?;
    fails(
        "UNSEAL without the driver",
        fdbox.try_unseal(),
        Errno::NODATA,
    )?;
    let lost = fdbox.whole_lost()?;
    let names: Vec<_> = lost.iter().map(|lost| lost.name.text()).collect();
    equal(
        "What is lost",
        names,
        ["device", "full", "empty"].map(str::to_owned).to_vec(),
    )?;
    for lost in lost {
        equal("The kind", uapi::text(&lost.compatible), COMPATIBLE.into())?;
        equal("The reason", lost.reason, uapi::LOST_UNKNOWN_KIND)?;
        equal("The errno", lost.error, Errno::OPNOTSUPP.raw_os_error())?;
        let message = uapi::text(&lost.message);
        ensure!(
            message.contains(COMPATIBLE) && message.contains("load the module"),
            "The message is {message:?}"
        );
    }
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("device"),
        Errno::BUSY,
    )?;

    let salvaged = salvage()?;
    host::load_module(MODULE)?;
    let file = memory::file(salvaged.get("device")?);
    equal("The state", state_of(file)?, b"salvaged".to_vec())?;
    equal("What is lost in the end", salvaged.lost()?, Vec::new())?;
    salvaged.delete()?;
    fdbox.unseal()?;
    equal("What is lost with the driver", fdbox.lost()?, Vec::new())?;
    let incoming = (COMPATIBLE.to_owned(), uapi::FD_INCOMING);
    equal(
        "The list with the driver",
        states(&fdbox)?,
        vec![incoming; 3],
    )?;
    for (name, state) in [
        ("device", b"state of the driver".to_vec()),
        ("full", full_state()),
        ("empty", Vec::new()),
    ] {
        let file = memory::file(fdbox.get(name)?);
        equal(&format!("The state of {name}"), state_of(file)?, state)?;
    }
    fdbox.delete()
}

/// Takes the intact descriptors out of a box that lacks a driver.
fn salvage() -> Result<FdBox> {
    let fdbox = FdBox::open("sample-salvage")?;
    let lost = vec![("device".to_owned(), uapi::LOST_UNKNOWN_KIND)];
    equal("How much is lost", fdbox.try_salvage()?, 1)?;
    memory::check_pages(&memory::file(fdbox.get("memory")?), 31, 4)?;
    equal("What is lost", fdbox.lost()?, lost)?;
    fails(
        "GET_FD without the driver",
        fdbox.try_get("device"),
        Errno::OPNOTSUPP,
    )?;
    Ok(fdbox)
}

fn same_kernel(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-here")?;
    fdbox.put(device(b"here")?, "device")?;
    fdbox.seal()?;
    fdbox.unseal()?;
    let file = memory::file(fdbox.get("device")?);
    equal("The state", state_of(file)?, b"here".to_vec())?;
    fdbox.delete()
}

/// Runs `act` with the driver saving `excess` bytes too many.
fn with_excess<T>(excess: u32, act: impl FnOnce() -> T) -> Result<T> {
    fs::write(EXCESS, excess.to_string()).context("Set the driver's parameter")?;
    let result = act();
    fs::write(EXCESS, "0").context("Reset the driver's parameter")?;
    Ok(result)
}

fn too_large(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-large")?;
    fdbox.put(device(b"large")?, "device")?;
    let before = fdbox::info()?;
    let limit = 1 << 20;
    let result = with_excess(limit, || fdbox.try_seal())?;
    fails("SEAL of what saves too much", result, Errno::FBIG)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "device".into())?;
    equal("The reason", why.reason, uapi::REASON_UNSUPPORTED_STATE)?;
    equal("What the handover keeps", fdbox::info()?, before)?;
    // The maximum in addition to the four bytes of state.
    with_excess(limit - 4, || fdbox.seal())??;
    fdbox.unseal()?;
    let file = memory::file(fdbox.get("device")?);
    equal("The state", state_of(file)?, b"large".to_vec())?;
    fdbox.delete()
}

fn not_restorable_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-foreign")?;
    fdbox.put(device(b"foreign")?, "device")?;
    with_excess(8, || fdbox.seal())?
}

fn not_restorable_after(_: &Cx<'_>) -> Result<()> {
    host::load_module(MODULE)?;
    let fdbox = FdBox::open("sample-foreign")?;
    fails(
        "UNSEAL of what another version saved",
        fdbox.try_unseal(),
        Errno::NODATA,
    )?;
    let lost = vec![("device".to_owned(), uapi::LOST_REFUSED)];
    equal("What is lost", fdbox.lost()?, lost.clone())?;
    let message = uapi::text(&fdbox.whole_lost()?[0].message);
    ensure!(
        message.contains("another version"),
        "The message is {message:?}"
    );
    equal("How much is lost", fdbox.try_salvage()?, 1)?;
    for _ in 0..2 {
        fails(
            "GET_FD of what cannot be restored",
            fdbox.try_get("device"),
            Errno::IO,
        )?;
        let states: Vec<u32> = fdbox.entries()?.iter().map(|entry| entry.state).collect();
        equal("The list", states, vec![uapi::FD_INCOMING])?;
        equal("What is still lost", fdbox.lost()?, lost.clone())?;
    }
    fdbox.delete()
}

/// Blocks of 2 MiB that the driver saves but does not restore.
const SPARE_BLOCKS: u64 = 8;
const SPARE: &str = "/sys/module/fdbox_sample/parameters/spare";

fn spare_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-spare")?;
    fdbox.put(device(b"spare")?, "device")?;
    fs::write(SPARE, SPARE_BLOCKS.to_string()).context("Set the driver's parameter")?;
    let sealed = fdbox.try_seal();
    fs::write(SPARE, "0").context("Reset the driver's parameter")?;
    Ok(sealed?)
}

fn spare_after(_: &Cx<'_>) -> Result<()> {
    host::load_module(MODULE)?;
    let fdbox = FdBox::open("sample-spare")?;
    fdbox.unseal()?;
    let before = host::kernel_holds()?.raw_kib;
    let file = memory::file(fdbox.get("device")?);
    let more = host::kernel_holds()?.raw_kib.saturating_sub(before);
    let left = SPARE_BLOCKS * 2048;
    ensure!(more < left / 2, "{more} KiB of {left} belong to nobody");
    equal("The state", state_of(file)?, b"spare".to_vec())?;
    fdbox.delete()
}

/// `SAMPLE_NEEDS`: makes one file depend on another.
fn needs(file: &File, other: RawFd) -> Result<i32, Errno> {
    // SAFETY: the argument is a number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), 0x2e80, other) };
    match result {
        0 => Ok(0),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

fn frozen(_: &Cx<'_>) -> Result<()> {
    let (file, needed) = (device(b"frozen")?, memory::memfd(c"needed", memory::PAGE)?);
    let kept = file.try_clone()?;
    fails(
        "Depending on itself",
        needs(&kept, kept.as_raw_fd()),
        Errno::INVAL,
    )?;
    needs(&kept, needed.as_raw_fd())?;
    let fdbox = FdBox::create("sample-frozen")?;
    fdbox.put(file, "device")?;
    fails("SEAL without what it needs", fdbox.try_seal(), Errno::NOENT)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "device".into())?;
    equal("The reason", why.reason, uapi::REASON_MISSING_DEPENDENCY)?;
    let message = uapi::text(&why.message);
    ensure!(
        message.contains("SAMPLE_NEEDS"),
        "The message is: {message}"
    );
    let length_of = |state: &[u8]| (&kept).write_all(state).map_err(|error| error.kind());
    equal("Another length", length_of(b"longer state"), Ok(()))?;

    fdbox.put(needed, "needed")?;
    fdbox.seal()?;
    equal("As many bytes", length_of(b"sealed state"), Ok(()))?;
    let busy = Err(io::ErrorKind::ResourceBusy);
    equal("Fewer bytes", length_of(b"less"), busy)?;
    fdbox.unseal()?;
    equal("Fewer bytes when it is open", length_of(b"less"), Ok(()))?;

    // A SEAL that fails at a later descriptor thaws the file; so does one that fails at its second
    // name.
    fdbox.put(kept.try_clone()?, "device-again")?;
    fails("SEAL of two names", fdbox.try_seal(), Errno::BUSY)?;
    equal("More bytes when it failed", length_of(b"thawed"), Ok(()))?;
    let file = memory::file(fdbox.get("device")?);
    equal("The state", state_of(file)?, b"thawed".to_vec())?;
    fdbox.delete()
}
