//! The contents of a box in a keeper, with the module's errnos.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::Errno;

use super::arrival::Incoming;
use super::backing::Backing;
use super::entry::{Entry, Lost, MAX_FDS, MEMFD, OTHER, Refusal};
use super::kept::Kept;
use super::lock::lock;
use super::packet;
use crate::abi;
use crate::hold::Hold;
use crate::name::{BoxName, FdName};
use crate::owner::Owner;

/// This end of a connection to a box.
pub(super) type Connection = Arc<OwnedFd>;

/// The contents of a box, and its claims.
#[derive(Debug)]
pub(super) struct Content {
    entries: Vec<Entry>,
    /// A box of an earlier keeper that has not been restored yet.
    incoming: Option<Incoming>,
    is_sealed: bool,
    /// Users of a deleted box get [`Errno::NODEV`].
    is_deleted: bool,
    /// What holds the box for the next kernel while it is sealed.
    kept: Option<Kept>,
    claims: Vec<(Connection, Hold)>,
    /// Up to date before anybody is told of a change.
    summary: Arc<Mutex<Summary>>,
}

/// What a listing of boxes says of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Summary {
    pub(super) is_sealed: bool,
    pub(super) fds: usize,
}

impl Content {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            incoming: None,
            is_sealed: false,
            is_deleted: false,
            kept: None,
            claims: Vec::new(),
            summary: Arc::default(),
        }
    }

    /// A box that an earlier keeper left.
    pub(super) fn incoming(incoming: Incoming) -> Self {
        let content = Self {
            incoming: Some(incoming),
            is_sealed: true,
            ..Self::new()
        };
        content.summarize();
        content
    }

    /// Restores what an earlier keeper left.
    pub(super) fn arrive(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            (self.entries, self.kept) = incoming.take_all();
        }
    }

    pub(super) fn shared_summary(&self) -> Arc<Mutex<Summary>> {
        Arc::clone(&self.summary)
    }

    fn summarize(&self) {
        let incoming = self.incoming.as_ref().map_or(0, Incoming::fds);
        *lock(&self.summary) = Summary {
            is_sealed: self.is_sealed,
            fds: incoming + self.entries.len(),
        };
    }

    fn exists(&self) -> Result<(), Errno> {
        if self.is_deleted {
            Err(Errno::NODEV)
        } else {
            Ok(())
        }
    }

    fn must_be_open(&self) -> Result<(), Errno> {
        self.exists()?;
        if self.is_sealed {
            Err(Errno::BUSY)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_sealed(&self) -> Result<bool, Errno> {
        self.exists().map(|()| self.is_sealed)
    }

    pub(super) fn entries(&self) -> Result<&[Entry], Errno> {
        self.exists().map(|()| &self.entries[..])
    }

    pub(super) fn delete(&mut self) -> Result<(), Errno> {
        self.must_be_open()?;
        self.is_deleted = true;
        self.entries.clear();
        Ok(())
    }

    /// Whether a descriptor can be put in, and as which kind.
    pub(super) fn takes(
        &self,
        name: &FdName,
        fd: BorrowedFd<'_>,
        backing: &Backing,
    ) -> Result<&'static str, Errno> {
        self.must_be_open()?;
        if self.entries.iter().any(|entry| entry.name == *name) {
            return Err(Errno::EXIST);
        }
        if self.entries.len() >= MAX_FDS {
            return Err(Errno::NOSPC);
        }
        if is_memfd(fd) {
            return Ok(MEMFD);
        }
        backing.takes(fd).map(|()| OTHER)
    }

    /// Puts in a descriptor that the box [takes](Self::takes); returns its index.
    pub(super) fn put(&mut self, name: FdName, fd: OwnedFd, kind: &'static str) -> usize {
        self.entries.push(Entry {
            name,
            kind: kind.to_owned(),
            file: Ok(fd),
        });
        self.summarize();
        self.entries.len() - 1
    }

    /// The index of a descriptor, and the descriptor.
    pub(super) fn find(&self, name: &FdName) -> Result<(usize, BorrowedFd<'_>), Errno> {
        self.must_be_open()?;
        let mut entries = self.entries.iter().enumerate();
        let (at, entry) = entries
            .find(|(_, entry)| entry.name == *name)
            .ok_or(Errno::NOENT)?;
        match &entry.file {
            Ok(fd) => Ok((at, fd.as_fd())),
            Err(lost) => Err(lost.errno),
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Entry {
        let entry = self.entries.remove(at);
        self.summarize();
        entry
    }

    /// The inverse of [`remove`](Self::remove).
    pub(super) fn put_back(&mut self, at: usize, entry: Entry) {
        self.entries.insert(at, entry);
        self.summarize();
    }

    pub(super) fn seal(
        &mut self,
        held: (&BoxName, Owner),
        backing: &Backing,
    ) -> Result<(), Refusal> {
        let refused = |errno| Refusal {
            errno,
            name: None,
            reason: abi::FDBOX_REASON_OTHER,
            message: String::new(),
        };
        self.must_be_open().map_err(refused)?;
        self.kept = backing.keep(held, &self.entries)?;
        self.is_sealed = true;
        self.summarize();
        Ok(())
    }

    /// Makes sure that the next kernel will find a sealed box, also if it came from the last
    /// kernel.
    pub(super) fn make_ready(
        &mut self,
        held: (&BoxName, Owner),
        backing: &Backing,
    ) -> Result<(), Refusal> {
        if self.is_sealed && self.kept.is_none() {
            self.kept = backing.keep(held, &self.entries)?;
        }
        Ok(())
    }

    fn must_be_sealed(&self) -> Result<(), Errno> {
        self.exists()?;
        if self.is_sealed {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }

    pub(super) fn unseal(&mut self) -> Result<(), Errno> {
        self.must_be_sealed()?;
        if self.lost().next().is_some() {
            return Err(Errno::NODATA);
        }
        self.salvage()
    }

    pub(super) fn salvage(&mut self) -> Result<(), Errno> {
        self.must_be_sealed()?;
        self.kept = None;
        self.is_sealed = false;
        self.summarize();
        Ok(())
    }

    /// The indices of the lost descriptors, and the reasons.
    pub(super) fn lost(&self) -> impl Iterator<Item = (usize, &Entry, Lost)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(at, entry)| Some((at, entry, *entry.file.as_ref().err()?)))
    }

    /// A claim ends with its connection. Whether other claims' connections are closed has to be
    /// checked, because this end may not have been notified yet.
    pub(super) fn claim(&mut self, who: &Connection, hold: Hold) -> Result<(), Errno> {
        self.exists()?;
        self.claims
            .retain(|(other, _)| !Arc::ptr_eq(other, who) && !packet::is_closed(other));
        let both_share = |other: Hold| (hold, other) == (Hold::Shared, Hold::Shared);
        if self.claims.iter().any(|(_, other)| !both_share(*other)) {
            return Err(Errno::AGAIN);
        }
        self.claims.push((who.clone(), hold));
        Ok(())
    }

    /// Called when a connection is closed.
    pub(super) fn leave(&mut self, who: &Connection) {
        self.claims.retain(|(other, _)| !Arc::ptr_eq(other, who));
    }
}

/// Whether it is memory from shmem or hugetlbfs: other files do not have seals.
fn is_memfd(fd: BorrowedFd<'_>) -> bool {
    fcntl_get_seals(fd).is_ok_and(|_: SealFlags| true)
}
