//! Another driver's descriptors: the sample driver that is built beside the module.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};

use anyhow::{Context, Result};
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
        about: "a driver's descriptor waits for its driver, then arrives with its state",
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
        name: "sample/too-large",
        about: "EFBIG: a driver saves more than 1 MiB beside its pages",
        host: HostKind::OneBoot,
        stages: &[too_large],
    },
    &Scenario {
        name: "sample/not-restorable",
        about: "EIO: a driver does not read what another version of it saved; the descriptor stays",
        host: HostKind::Kexec,
        stages: &[not_restorable_before, not_restorable_after],
    },
];

/// The driver's parameter: how many bytes it saves that it does not read.
const EXCESS: &str = "/sys/module/fdbox_sample/parameters/excess";

fn device(state: &[u8]) -> Result<File> {
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

/// All the state that fits.
fn full_state() -> Vec<u8> {
    memory::page_content(30, 0)
}

fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample")?;
    fdbox.put(device(b"state of the driver")?, "device")?;
    fdbox.put(device(&full_state())?, "full")?;
    fdbox.put(device(b"")?, "empty")?;
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
    fdbox.unseal()?;
    fails(
        "GET_FD without the driver",
        fdbox.try_get("device"),
        Errno::OPNOTSUPP,
    )?;

    host::load_module(MODULE)?;
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
    // The most that fits beside the four bytes of state.
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
    fdbox.unseal()?;
    for _ in 0..2 {
        fails(
            "GET_FD of what cannot be restored",
            fdbox.try_get("device"),
            Errno::IO,
        )?;
        let states: Vec<u32> = fdbox.entries()?.iter().map(|entry| entry.state).collect();
        equal("The list", states, vec![uapi::FD_INCOMING])?;
    }
    fdbox.delete()
}
