//! The baselines of an update: the bare kexec, LUO, and a copy of the guest's memory.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::bench::{COPIED, Copied, JUMPED, Jumped, Keeper, Layout, MEMFD_BEFORE};
use fdbox_lab::event::EventPort;
use fdbox_lab::{kexec, plan};
use rustix::system::RebootCommand;
use rustix::time::{ClockId, clock_gettime};

use super::pages::fill_one;
use super::{memfd, ns_since, number, say};
use crate::memory::{self, MIB};

/// Size of each copy operation.
const CHUNK: usize = 1 << 20;

/// Preserves one memfd with LUO, for the next kernel to retrieve.
pub(super) fn luo(mib: &str, layout: &str) -> Result<()> {
    let mib = number(mib)?;
    let layout = Layout::named(layout).with_context(|| format!("There is no layout {layout}"))?;
    let filled = fill_one(0, mib, layout)?;
    let figures = memfd::hand_over(Keeper::Luo, mib, filled)?;
    say(&EventPort::open()?, MEMFD_BEFORE, figures)
}

/// Copies as much memory as a guest has to a file and back, which is the alternative if nothing is
/// preserved. The file is in memory; a disk would take longer.
pub(super) fn copy(mib: &str) -> Result<()> {
    let mib = number(mib)?;
    let memory = fill_one(0, mib, Layout::Sequential)?.file;
    let mut saved = memory::memfd(c"saved", 0)?;
    let start = Instant::now();
    copy_all(memory, &mut saved)?;
    let out_ns = ns_since(start);
    let mut restored = memory::memfd(c"restored", mib * MIB)?;
    let start = Instant::now();
    copy_all(saved, &mut restored)?;
    let figures = Copied {
        out_ns,
        in_ns: ns_since(start),
    };
    say(&EventPort::open()?, COPIED, figures)
}

fn copy_all(mut from: File, to: &mut File) -> Result<()> {
    use std::io::{Read, Write};
    let mut chunk = vec![0; CHUNK];
    from.seek(SeekFrom::Start(0))?;
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
    }
}

/// The minimum uptime of a host when it is left. By then its drivers have probed their devices; the
/// shutdown of a host that has just booted waits for that: the PS/2 ports take 0.4 s.
const SETTLED: Duration = Duration::from_secs(3);

/// Loads the next kernel and jumps into it, with nothing to hand over.
pub(super) fn jump() -> Result<()> {
    let up = clock_gettime(ClockId::Boottime);
    std::thread::sleep(SETTLED.saturating_sub(Duration::try_from(up)?));
    let cmdline = std::env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    kexec::load_next(&cmdline)?;
    let port = EventPort::open()?;
    let tell = |tsc| -> Result<u64> {
        let start = fdbox_lab::tsc();
        say(&port, JUMPED, Jumped { tsc })?;
        port.drain()?;
        Ok(fdbox_lab::tsc() - start)
    };
    // Sending takes time: it is sent twice, the second time corrected by the duration of the first.
    let took = tell(fdbox_lab::tsc())?;
    tell(fdbox_lab::tsc() + took)?;
    rustix::system::reboot(RebootCommand::Kexec).context("Jump into the next kernel")?;
    bail!("The jump into the next kernel returned")
}
