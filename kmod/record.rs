// SPDX-License-Identifier: GPL-2.0

//! What a descriptor's kind saves for the next kernel, and what it takes back.

use crate::abi::{
    Extent,
    Sink,
    MAX_DATA_LEN, //
};
use crate::coalesce::coalesced;
use crate::file::FileRef;
use crate::kho::{
    self,
    Held, //
};
use kernel::prelude::*;

/// Bytes and page extents of one descriptor, in the order of writing.
pub(crate) struct Record {
    data: KVVec<u8>,
    extents: KVVec<u64>,
    /// The same memory by address, as KHO is given it; or why that is not known.
    kept: Result<KVVec<u64>>,
    /// Whether SEAL filled holes of the file, whose memory is given back if nobody used it.
    pub(crate) filled: bool,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            data: KVVec::new(),
            extents: KVVec::new(),
            kept: Ok(KVVec::new()),
            filled: false,
        }
    }
}

impl Record {
    /// Copies what a handover says.
    pub(crate) fn new(data: &[u8], extents: KVVec<u64>) -> Result<Record> {
        let mut record = Record {
            extents,
            ..Record::default()
        };
        record.write(data)?;
        record.coalesce();
        match record.kept {
            // Another attempt may have the memory.
            Err(ENOMEM) => Err(ENOMEM),
            _ => Ok(record),
        }
    }

    /// Computes what [`kept`](Self::kept) returns. Called after the last extent. An error is stored, not
    /// returned: the file needs its record to undo what it did, and gets it first.
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

    /// Appends a folio, to the last extent where it continues that one.
    pub(crate) fn push(&mut self, pfn: u64, order: u32) -> Result {
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

    /// What was written.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// The extents, as the handover has them.
    pub(crate) fn extents(&self) -> &[u64] {
        &self.extents
    }

    /// The same memory as KHO is given it; `EIO` when two extents overlap, `ENOMEM`.
    pub(crate) fn kept(&self) -> Result<&[u64]> {
        match &self.kept {
            Ok(kept) => Ok(kept),
            Err(err) => Err(*err),
        }
    }

    /// Pages of 4 KiB in all extents.
    pub(crate) fn pages(&self) -> u64 {
        let pages = self.decoded().map(|extent| extent.pages());
        pages.fold(0, u64::saturating_add)
    }

    /// Whether each folio lies at a multiple of its size, as in a file it does.
    pub(crate) fn is_aligned(&self) -> bool {
        let mut index = 0u64;
        self.decoded().all(|extent| {
            let aligned = index & ((1 << extent.order) - 1) == 0;
            index = index.saturating_add(extent.pages());
            aligned
        })
    }

    /// The extents, decoded.
    pub(crate) fn decoded(&self) -> impl Iterator<Item = Extent> + '_ {
        self.extents.iter().filter_map(|&raw| kho::decode(raw).ok())
    }
}

/// `extent` with the folio at `pfn` behind it, if that one continues it.
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

impl Sink for Record {
    type Error = Error;

    fn put(&mut self, bytes: &[u8]) -> Result {
        self.write(bytes)
    }
}

/// How far the restore of one descriptor has come. It may stop for lack of memory and go on when
/// the descriptor is asked for again; nothing is lost in between.
#[derive(Default)]
pub(crate) struct Progress {
    /// The file that has what is restored so far.
    pub(crate) file: Option<FileRef>,
    extent: usize,
    /// Whether KHO gave the folios of all extents back; all or none.
    restored: bool,
    /// Folios of the current extent that the file has.
    used: u64,
    /// Pages before the next folio.
    index: u64,
    /// What the file has, if devices do DMA to it.
    pub(crate) held: Option<Held>,
}

/// Folios that KHO has given back and nobody else has: each one's reference belongs to this value.
/// There is one such value at a time for each [`Progress`].
pub(crate) struct Run {
    extent: Extent,
    /// Pages of the descriptor before them.
    index: u64,
    /// They are the rest of an extent of the record.
    last: bool,
}

/// What became of a [`Run`]: so many of its folios, from the first on, are somebody else's now.
pub(crate) struct Outcome {
    run: Run,
    folios: u64,
    /// Why it is not all of them.
    error: Option<Error>,
}

impl Run {
    /// Where they are.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Pages of the descriptor before them.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Lets `held` have a reference of each, too.
    pub(crate) fn hold(&self, held: &mut Held) -> Result {
        // SAFETY: One reference of each folio is ours.
        unsafe { held.hold(&self.extent) }
    }

    /// Says that the references of the first `folios` folios are somebody else's now.
    ///
    /// # Safety
    ///
    /// It is so, and of no more folios.
    pub(crate) unsafe fn given(self, folios: u64) -> Outcome {
        Outcome {
            error: (folios < self.extent.folios).then_some(ENOMEM),
            run: self,
            folios,
        }
    }

    /// Says that nobody has got any of them, and why.
    pub(crate) fn refused(self, error: Error) -> Outcome {
        Outcome {
            run: self,
            folios: 0,
            error: Some(error),
        }
    }

    /// Drops the references: the folios are free.
    fn free(self) -> Outcome {
        let folios = self.extent.folios;
        // SAFETY: They are ours.
        unsafe { kho::put_folios(&self.extent) };
        // SAFETY: They are nobody's any more.
        unsafe { self.given(folios) }
    }
}

impl Progress {
    /// Whether anything was taken over from KHO.
    pub(crate) fn started(&self) -> bool {
        self.restored
    }

    /// Gives the folios of `record` that nobody has yet to `take`, one run after the other; an error
    /// when it did not take all of one.
    pub(crate) fn give(&mut self, record: &Record, mut take: impl FnMut(Run) -> Outcome) -> Result {
        while let Some(run) = self.run(record)? {
            self.note(take(run))?;
        }
        Ok(())
    }

    /// The page frame number of the next folio, whose reference is the caller's from then on; `None`
    /// after the last.
    pub(crate) fn give_folio(&mut self, record: &Record) -> Result<Option<u64>> {
        let Some(run) = self.run(record)? else {
            return Ok(None);
        };
        let pfn = run.extent.pfn;
        // SAFETY: We hand its reference out.
        let mut given = unsafe { run.given(1) };
        given.error = None;
        self.note(given)?;
        Ok(Some(pfn))
    }

    /// Frees what nobody has got.
    pub(crate) fn discard(&mut self, record: &Record) {
        // What KHO does not give back stays its own.
        let _ = self.give(record, Run::free);
        self.file = None;
        self.held = None;
    }

    /// The next folios of `record`, or `None` after the last.
    fn run(&mut self, record: &Record) -> Result<Option<Run>> {
        let Some(&raw) = record.extents.get(self.extent) else {
            return Ok(None);
        };
        let extent = kho::decode(raw)?;
        if !self.restored {
            kho::restore(record.kept()?)?;
            self.restored = true;
        }
        let used = self.used << extent.order;
        let rest = Extent {
            pfn: match extent.down {
                true => extent.pfn - used,
                false => extent.pfn + used,
            },
            folios: extent.folios - self.used,
            ..extent
        };
        // SAFETY: Restored above, and not used yet.
        let folios = unsafe { kho::on_one_node(&rest) };
        Ok(Some(Run {
            extent: Extent { folios, ..rest },
            index: self.index,
            last: folios == rest.folios,
        }))
    }

    /// Notes what became of the run that was given last.
    fn note(&mut self, Outcome { run, folios, error }: Outcome) -> Result {
        self.used += folios;
        self.index += folios << run.extent.order;
        if run.last && folios == run.extent.folios {
            self.extent += 1;
            self.used = 0;
        }
        error.map_or(Ok(()), Err)
    }
}
