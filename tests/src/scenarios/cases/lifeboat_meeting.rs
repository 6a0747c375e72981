//! A box by which a scenario in the host and the init of the boat wait for each other.

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::lifeboat_borrows::retry;
use crate::boat::{ABOARD, Boat};
use crate::fdbox::FdBox;
use crate::host;
use crate::memory::{PAGE, memfd};
use crate::uapi::{HOLDER_SHOWN, LEND_LOOK, LEND_READY, LEND_SHOW};

const NAME: &str = "meeting";

/// A boat that waits for the host.
pub(super) struct Meeting(FdBox);

impl Meeting {
    /// Waits until the boat has come to where it waits.
    pub(super) fn wait() -> Result<Self> {
        let fdbox = FdBox::create(NAME)?;
        fdbox.put(memfd(c"meeting", PAGE)?, NAME)?;
        fdbox.seal()?;
        fdbox.try_lend(LEND_SHOW).context("Show it")?;
        host::until("The boat waits for the host", || {
            Ok(fdbox.try_lend(LEND_LOOK)?.ready == 1)
        })?;
        Ok(Self(fdbox))
    }

    /// Lets the boat go on.
    pub(super) fn end(self) -> Result<()> {
        self.0.unseal()?;
        self.0.delete()
    }
}

/// The helper `hold-up NAME`, in the boat: keeps its only CPU from everything else, the heartbeat's thread
/// included, until the host lets it go on.
pub(super) fn hold_up(name: &str) -> Result<()> {
    host::load_module("fdbox")?;
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    let fdbox = FdBox::open(name)?;
    fdbox.try_lend(LEND_READY).context("Wait for the host")?;
    let first = libc::sched_param { sched_priority: 99 };
    // SAFETY: the pointer is to a live struct of the right kind.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    ensure!(done == 0, "The CPU cannot be kept");
    while fdbox.try_lend(LEND_LOOK)?.holder == HOLDER_SHOWN {}
    Ok(())
}

/// The helper `meet-host NAME`, in the boat: waits until the host lets it go on.
pub(super) fn meet_host(name: &str) -> Result<()> {
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    let (fdbox, boat) = (FdBox::open(name)?, Boat::open()?);
    // It may have been silent until now, and may die soon.
    boat.wait_for_state(ABOARD)?;
    boat.is_refused(
        "To restart a host that beats",
        boat.try_restart(0),
        Errno::BUSY,
        "the host was heard",
    )?;
    fdbox.try_lend(LEND_READY).context("Wait for the host")?;
    let look = || match fdbox.try_lend(LEND_LOOK)?.holder {
        HOLDER_SHOWN => Err(Errno::AGAIN),
        _ => Ok(()),
    };
    Ok(retry(look, &[Errno::AGAIN])?)
}
