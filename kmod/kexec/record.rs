// SPDX-License-Identifier: GPL-2.0

//! What a kind saves for the next kernel, and the state of restoring it.

use crate::abi::{
    Extent,
    Sink,
    MAX_DATA_LEN, //
};
use crate::ffi::FolioRun;
use crate::file::FileRef;
use crate::kexec::coalesce::coalesced;
use crate::kexec::kho;
use crate::objects::folios::{
    self,
    Folio,
    Held,
    Outcome,
    Pinned,
    Runs, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        ordering::{
            Full,
            Relaxed, //
        },
        Atomic, //
    }, //
};

/// Bytes and page extents of one descriptor, in the order of writing.
///
/// # Invariants
///
/// As long as `pinned` is 1, each folio of `extents` is pinned, and the record owns the pin.
pub(crate) struct Record {
    data: KVVec<u8>,
    extents: KVVec<u64>,
    pinned: Atomic<u32>,
    /// The same memory sorted by address, as it is given to KHO; or the error of sorting it.
    kept: Result<KVVec<u64>>,
    /// Whether SEAL filled holes of the file; their memory is freed at UNSEAL if it was not used.
    pub(crate) filled: bool,
}

impl Default for Record {
    fn default() -> Self {
        Record::of_extents(KVVec::new())
    }
}

impl Record {
    fn of_extents(extents: KVVec<u64>) -> Record {
        // INVARIANT: Nothing of it is pinned.
        Record {
            data: KVVec::new(),
            extents,
            pinned: Atomic::new(0),
            kept: Ok(KVVec::new()),
            filled: false,
        }
    }

    /// A record that came from the last kernel.
    pub(crate) fn new(data: &[u8], extents: KVVec<u64>) -> Result<Record> {
        let mut record = Record::of_extents(extents);
        record.write(data)?;
        record.coalesce();
        match record.kept {
            // The caller may try again.
            Err(ENOMEM) => Err(ENOMEM),
            _ => Ok(record),
        }
    }

    /// Computes what [`kept`](Self::kept) returns. Called after the last extent. An error is stored and
    /// returned there, since undoing needs the record in any case.
    pub(crate) fn coalesce(&mut self) {
        self.kept = coalesced(&self.extents, false);
    }

    /// Appends bytes; `EFBIG` beyond 1 MiB.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result {
        if self.data.len() + bytes.len() > MAX_DATA_LEN {
            return Err(EFBIG);
        }
        Ok(self.data.extend_from_slice(bytes, GFP_KERNEL)?)
    }

    /// Appends a folio, to the last extent if it continues that one. Either all folios of a record
    /// are pinned or none is: `EIO` after one that is.
    pub(crate) fn push(&mut self, pfn: u64, order: u32) -> Result {
        match self.pinned.load(Relaxed) {
            0 => self.append(pfn, order),
            _ => Err(EIO),
        }
    }

    /// Appends a folio whose pin the record then owns; `EIO` after one that is not pinned.
    pub(crate) fn push_pinned(&mut self, folio: Pinned) -> Result {
        if self.pinned.load(Relaxed) == 0 && !self.extents.is_empty() {
            return Err(EIO);
        }
        self.append(folio.pfn(), folio.order())?;
        // INVARIANT: This folio is pinned, and so are those before it, if there are any.
        self.pinned.store(1, Relaxed);
        folio.leave();
        Ok(())
    }

    fn append(&mut self, pfn: u64, order: u32) -> Result {
        if let Some(last) = self.extents.last_mut() {
            let extent = kho::decode(*last)?;
            if let Some(longer) = continued(extent, pfn, order) {
                *last = longer.encode();
                return Ok(());
            }
        }
        let extent = Extent {
            pfn,
            folios: 1,
            order,
            down: false,
        };
        Ok(self.extents.push(extent.encode(), GFP_KERNEL)?)
    }

    /// Ends the pins, if there are any.
    pub(crate) fn unpin(&self) {
        if self.pinned.xchg(0, Full) == 0 {
            return;
        }
        for extent in self.decoded() {
            // SAFETY: By the type invariants, and only one caller gets here.
            unsafe { folios::unpin(&extent) };
        }
    }

    /// The bytes.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// The extents in file order, encoded.
    pub(crate) fn extents(&self) -> &[u64] {
        &self.extents
    }

    /// The same memory sorted by address; `EIO` if two extents overlap, `ENOMEM`.
    pub(crate) fn kept(&self) -> Result<&[u64]> {
        match &self.kept {
            Ok(kept) => Ok(kept),
            Err(err) => Err(*err),
        }
    }

    /// Number of 4 KiB pages in all extents.
    pub(crate) fn pages(&self) -> u64 {
        let pages = decoded(self.fewest()).map(|extent| extent.pages());
        pages.fold(0, u64::saturating_add)
    }

    /// Whether all folios are single pages.
    pub(crate) fn is_of_single_pages(&self) -> bool {
        self.is_of_order(0)
    }

    /// Whether all folios are of this order.
    pub(crate) fn is_of_order(&self, order: u32) -> bool {
        decoded(self.fewest()).all(|extent| extent.order == order)
    }

    /// The memory in the smallest known number of extents.
    fn fewest(&self) -> &[u64] {
        match &self.kept {
            Ok(kept) if !kept.is_empty() => kept,
            _ => &self.extents,
        }
    }

    /// Whether each folio is at a multiple of its size, as it must be in a file.
    pub(crate) fn is_aligned(&self) -> bool {
        let mut index = 0u64;
        self.is_of_single_pages()
            || self.decoded().all(|extent| {
                let aligned = index & ((1 << extent.order) - 1) == 0;
                index = index.saturating_add(extent.pages());
                aligned
            })
    }

    /// The extents, decoded.
    fn decoded(&self) -> impl Iterator<Item = Extent> + '_ {
        decoded(&self.extents)
    }
}

fn decoded(extents: &[u64]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().filter_map(|&raw| kho::decode(raw).ok())
}

impl Drop for Record {
    fn drop(&mut self) {
        self.unpin();
    }
}

/// `extent` with the folio at `pfn` appended, if it is adjacent.
fn continued(extent: Extent, pfn: u64, order: u32) -> Option<Extent> {
    if extent.order != order || extent.folios == Extent::MAX_FOLIOS {
        return None;
    }
    // One folio alone has no direction yet.
    let may = |down| extent.folios == 1 || extent.down == down;
    let up = may(false) && extent.pfn + extent.pages() == pfn;
    let down = may(true) && pfn + extent.pages() == extent.pfn;
    (up || down).then_some(Extent {
        folios: extent.folios + 1,
        down,
        ..extent
    })
}

/// What is left of `extent` after its first `used` folios, fewer than it has.
fn after(extent: Extent, used: u64) -> Extent {
    let pages = used << extent.order;
    Extent {
        pfn: match extent.down {
            true => extent.pfn - pages,
            false => extent.pfn + pages,
        },
        folios: extent.folios - used,
        ..extent
    }
}

impl Sink for Record {
    type Error = Error;

    fn put(&mut self, bytes: &[u8]) -> Result {
        self.write(bytes)
    }
}

/// Runs that are passed on at a time.
const RUNS: usize = 32;

/// State of restoring one descriptor. A restore that runs out of memory continues at the next GET_FD.
#[derive(Default)]
pub(crate) struct Progress {
    /// The file with what was restored so far.
    pub(crate) file: Option<FileRef>,
    extent: usize,
    /// Whether the folios of all extents were taken over from KHO, which is done for all of them at
    /// once.
    restored: bool,
    /// Number of folios of the current extent that the file already has.
    used: u64,
    /// Number of pages before the next folio.
    index: u64,
    /// References to the folios of the file, if devices do DMA to them.
    pub(crate) held: Option<Held>,
}

impl Progress {
    /// Whether the folios were taken over from KHO.
    pub(crate) fn started(&self) -> bool {
        self.restored
    }

    /// Passes the remaining folios of `record` to `take`, many runs at a time, until it does not take
    /// all of them.
    pub(crate) fn give(
        &mut self,
        record: &Record,
        mut take: impl FnMut(Runs<'_>) -> Outcome,
    ) -> Result {
        let mut space = [FolioRun::default(); RUNS];
        while let Some(runs) = self.runs(record, &mut space)? {
            self.note(record, take(runs))?;
        }
        Ok(())
    }

    /// The next folio; `None` after the last.
    pub(crate) fn give_folio(&mut self, record: &Record) -> Result<Option<Folio>> {
        let mut space = [FolioRun::default()];
        let Some(runs) = self.runs(record, &mut space)? else {
            return Ok(None);
        };
        let (folio, outcome) = runs.split_first();
        self.note(record, outcome)?;
        Ok(folio)
    }

    /// Frees the remaining folios.
    pub(crate) fn discard(&mut self, record: &Record) {
        // Folios that KHO does not return stay reserved.
        let _ = self.give(record, |runs| runs.free());
        self.file = None;
        self.held = None;
    }

    /// The next folios of `record`, in as many runs as `space` has room for; `None` after the last.
    fn runs<'a>(&mut self, record: &Record, space: &'a mut [FolioRun]) -> Result<Option<Runs<'a>>> {
        let left = record.extents.get(self.extent..).unwrap_or(&[]);
        let Some(&raw) = left.first() else {
            return Ok(None);
        };
        if !self.restored {
            kho::restore(record.kept()?)?;
            self.restored = true;
        }
        let first = after(kho::decode(raw)?, self.used);
        let mut used = self.used;
        let mut nr = 0;
        for (run, &raw) in space.iter_mut().zip(left) {
            let rest = after(kho::decode(raw)?, core::mem::take(&mut used));
            if rest.order != first.order {
                break;
            }
            // SAFETY: They were restored above.
            let here = unsafe { folios::on_node_of(first.pfn, &rest) };
            *run = FolioRun {
                pfn: rest.pfn as usize,
                nr: here as usize,
                down: rest.down,
            };
            nr += usize::from(here > 0);
            if here < rest.folios {
                break;
            }
        }
        // SAFETY: They are of one order and one node. They were restored above and not passed on yet:
        // `note()` has counted those that were.
        Ok(Some(unsafe {
            Runs::new(&space[..nr], first.order, self.index)
        }))
    }

    /// Accounts for what was passed on last.
    fn note(&mut self, record: &Record, outcome: Outcome) -> Result {
        self.used += outcome.folios();
        self.index += outcome.pages();
        while let Some(&raw) = record.extents.get(self.extent) {
            let folios = kho::decode(raw)?.folios;
            if self.used < folios {
                break;
            }
            self.used -= folios;
            self.extent += 1;
        }
        outcome.result()
    }
}
