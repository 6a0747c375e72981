//! A driver that does not release its files.

use std::fs;
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{device, state_of};
use crate::cases::Cx;
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::{memory, uapi};

/// The driver's parameter: whether it refuses UNSEAL.
const KEEP: &str = "/sys/module/fdbox_sample/parameters/keep";

pub(super) fn keeps(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("sample-keeps")?;
    let file = device(b"keeps")?;
    let kept = file.try_clone()?;
    let memory = memory::memfd(c"beside", memory::PAGE)?;
    fdbox.put(memory.try_clone()?, "beside")?;
    fdbox.put(file, "device")?;
    fdbox.seal()?;
    let sealed = fdbox::info()?;
    fs::write(KEEP, "1")?;
    let refused = fdbox.try_unseal();
    let lost = fdbox.whole_lost();
    fs::write(KEEP, "0")?;
    fails("UNSEAL that a driver refuses", refused, Errno::NODATA)?;
    let lost = lost?;
    equal("The number that is named", lost.len(), 1)?;
    equal("The name", lost[0].name.text(), "device".into())?;
    equal("The reason", lost[0].reason, uapi::LOST_REFUSED)?;
    equal("The errno", lost[0].error, Errno::BUSY.raw_os_error())?;
    let message = uapi::text(&lost[0].message);
    ensure!(
        message.contains("parameter keep"),
        "The message is {message:?}"
    );
    // Nothing has changed: the file is frozen, and the next kernel gets it.
    equal("What the handover keeps", fdbox::info()?, sealed)?;
    fails(
        "Growing what is beside it",
        rustix::fs::ftruncate(&memory, 2 * memory::PAGE),
        Errno::PERM,
    )?;
    let busy = (&kept).write_all(b"less").map_err(|error| error.kind());
    equal("Fewer bytes", busy, Err(io::ErrorKind::ResourceBusy))?;
    fdbox.unseal()?;
    equal("What is lost when it agrees", fdbox.lost()?, Vec::new())?;

    fdbox.seal()?;
    fs::write(KEEP, "1")?;
    let salvaged = fdbox.try_salvage();
    fs::write(KEEP, "0")?;
    equal("How much is lost", salvaged?, 1)?;
    (&kept).write_all(b"less").context("Thaw it all the same")?;
    let file = memory::file(fdbox.get("device")?);
    equal("What is lost of what was taken", fdbox.lost()?, Vec::new())?;
    equal("The state", state_of(file)?, b"less".to_vec())?;
    fdbox.delete()
}
