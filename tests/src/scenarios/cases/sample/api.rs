//! The API for drivers, tested with a driver that calls all of it.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};

use crate::cases::Cx;
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::host;

const PROBE: &str = "fdbox_probe";

fn probe() -> Result<File> {
    host::load_module(PROBE)?;
    nothing_wrong()?;
    File::open("/dev/fdbox_probe").context("Open the probe")
}

/// The probe counts results of the API that differ from the documented ones.
fn nothing_wrong() -> Result<()> {
    let wrong = fs::read_to_string("/sys/module/fdbox_probe/parameters/wrong")?;
    let log = || host::kernel_log().unwrap_or_default();
    ensure!(wrong.trim() == "0", "{wrong} wrong answers: {:?}", log());
    Ok(())
}

/// How often a callback of the probe was called. Other scenarios on this host use the probe, too.
fn calls(callback: &str) -> Result<i64> {
    let path = format!("/sys/module/fdbox_probe/parameters/{callback}");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

pub(super) fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-api")?;
    fdbox.put(probe()?, "probe")?;
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.seal()?;
    let fdbox = FdBox::create("sample-api-discarded")?;
    fdbox.put(probe()?, "probe")?;
    fdbox.seal()?;
    nothing_wrong()
}

pub(super) fn after(_: &Cx<'_>) -> Result<()> {
    host::load_module(PROBE)?;
    let (carried, taken) = (calls("carried")?, calls("taken")?);
    let discarded = calls("discarded")?;
    let fdbox = FdBox::open("sample-api")?;
    fdbox.unseal()?;
    // Unmodified since it arrived: it is carried on, and taken back.
    fdbox.seal()?;
    equal("Carried on", calls("carried")? - carried, 1)?;
    fdbox.unseal()?;
    equal(
        "Carried on when it is unsealed",
        calls("carried")? - carried,
        0,
    )?;
    drop(fdbox.get_and_keep("probe")?);
    equal("Taken, when it was made", calls("taken")? - taken, 0)?;
    drop(fdbox.get("probe")?);
    equal("Taken, when it was there", calls("taken")? - taken, 1)?;
    equal(
        "Discarded, of those taken",
        calls("discarded")? - discarded,
        0,
    )?;
    fdbox.delete()?;
    let fdbox = FdBox::open("sample-api-discarded")?;
    fdbox.unseal()?;
    fdbox.delete()?;
    equal("Discarded", calls("discarded")? - discarded, 1)?;
    nothing_wrong()
}
