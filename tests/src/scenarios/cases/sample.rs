//! Another driver's descriptors: the sample driver that is built beside the module.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use anyhow::{Context, Result};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
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
];

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
