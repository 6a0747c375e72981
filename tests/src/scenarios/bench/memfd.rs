//! Compares a memfd in a box with an equal one in LUO, in the same boot and across the same kexec.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result};
use fdbox_lab::bench::{Keeper, Layout, MEMFD_AFTER, MEMFD_BEFORE, MemfdAfter, MemfdBefore};
use fdbox_lab::event::EventPort;

use super::luo::Session;
use super::pages::{Filled, check, fill, free_kib};
use super::{ns, ns_since, number, say};
use crate::fdbox::{self, FdBox};
use crate::memory::{self, MIB, PAGE};

/// The name of box, entry and session.
const NAME: &str = "bench";
const TOKEN: u64 = 1;
/// Size of LUO's metadata per folio (struct memfd_luo_folio_ser).
const LUO_FOLIO_BYTES: u64 = 16;
const HUGE_KIB: u64 = 2048;

/// Fills both memfds and hands them over, starting with the one for the keeper called `first`.
pub(super) fn before(mib: &str, layout: &str, first: &str) -> Result<()> {
    let (mib, first) = (number(mib)?, keeper(first)?);
    let layout = Layout::named(layout).with_context(|| format!("There is no layout {layout}"))?;
    let port = EventPort::open()?;
    let order = first.and_other();
    let filled = fill(mib, layout)?;
    for (keeper, filled) in order.into_iter().zip(filled) {
        let figures = hand_over(keeper, mib, filled)?;
        say(&port, MEMFD_BEFORE, &figures)?;
    }
    Ok(())
}

/// Hands one of them over.
pub(super) fn hand_over(keeper: Keeper, mib: u64, filled: Filled) -> Result<MemfdBefore> {
    let Filled {
        file,
        fill_ns,
        huge_kib,
    } = filled;
    let free = free_kib()?;
    let (prepare_ns, keep_ns) = match keeper {
        Keeper::Fdbox => seal(file)?,
        Keeper::Luo => preserve(&file)?,
    };
    let (metadata_bytes, entries) = metadata(keeper, mib, huge_kib)?;
    Ok(MemfdBefore {
        keeper,
        mib,
        fill_ns,
        prepare_ns,
        keep_ns,
        huge_kib,
        free_fell_kib: free as i64 - free_kib()? as i64,
        metadata_bytes,
        entries,
    })
}

/// Retrieves both, in the order in which they were handed over, and checks their content.
pub(super) fn after(mib: &str, first: &str) -> Result<()> {
    let (pages, first) = (number(mib)? * MIB / PAGE, keeper(first)?);
    let port = EventPort::open()?;
    for (index, keeper) in first.and_other().into_iter().enumerate() {
        let figures = take_back(keeper, index as u64, pages)?;
        say(&port, MEMFD_AFTER, &figures)?;
    }
    Ok(())
}

/// Retrieves one of them, whose content is derived from `index`.
pub(super) fn take_back(keeper: Keeper, index: u64, pages: u64) -> Result<MemfdAfter> {
    let free = free_kib()?;
    let start = Instant::now();
    let kept = Kept::open(keeper)?;
    let opened = Instant::now();
    let file = kept.take()?;
    let taken = Instant::now();
    let free_fell_kib = free as i64 - free_kib()? as i64;
    let read = Instant::now();
    check(&file, index, pages)?;
    let touched = Instant::now();
    kept.finish()?;
    Ok(MemfdAfter {
        keeper,
        open_ns: ns(opened - start),
        take_ns: ns(taken - opened),
        free_fell_kib,
        touch_ns: ns(touched - read),
        finish_ns: ns_since(touched),
    })
}

fn seal(file: File) -> Result<(u64, u64)> {
    let start = Instant::now();
    let fdbox = FdBox::create(NAME)?;
    fdbox.put(file, NAME)?;
    let put = Instant::now();
    fdbox.seal()?;
    Ok((ns(put - start), ns_since(put)))
}

fn preserve(file: &File) -> Result<(u64, u64)> {
    let start = Instant::now();
    let session = Session::create(NAME)?;
    let created = Instant::now();
    session.preserve(file, TOKEN)?;
    let keep_ns = ns_since(created);
    session.leave_open()?;
    Ok((ns(created - start), keep_ns))
}

/// Where a memfd is kept in the new kernel.
enum Kept {
    Fdbox(FdBox),
    Luo(Session),
}

impl Kept {
    fn open(keeper: Keeper) -> Result<Self> {
        Ok(match keeper {
            Keeper::Fdbox => {
                let fdbox = FdBox::open(NAME)?;
                fdbox.unseal()?;
                Self::Fdbox(fdbox)
            }
            Keeper::Luo => Self::Luo(Session::retrieve(NAME)?),
        })
    }

    fn take(&self) -> Result<File> {
        match self {
            Self::Fdbox(fdbox) => Ok(memory::file(fdbox.get(NAME)?)),
            Self::Luo(session) => session.take(TOKEN),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Fdbox(fdbox) => fdbox.delete(),
            Self::Luo(session) => session.finish(),
        }
    }
}

/// The size of the memfd's description for the next kernel, and its number of entries.
fn metadata(keeper: Keeper, mib: u64, huge_kib: u64) -> Result<(u64, u64)> {
    match keeper {
        Keeper::Fdbox => {
            let info = fdbox::info()?;
            Ok((info.handover_bytes, info.handover_extents))
        }
        Keeper::Luo => {
            let small = (mib * 1024 - huge_kib) * 1024 / PAGE;
            let folios = small + huge_kib / HUGE_KIB;
            Ok((folios * LUO_FOLIO_BYTES, folios))
        }
    }
}

fn keeper(name: &str) -> Result<Keeper> {
    Keeper::named(name).with_context(|| format!("There is no keeper {name}"))
}
