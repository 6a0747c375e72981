//! Sealed boxes in the service manager's store of descriptors: they survive the keeper.
//!
//! Each file of a box is stored under a name of its own, `vmm-fdbox.BOX.FILE`; file number 0 is the box's
//! [directory](super::directory), and is the last to be stored and the first to be removed. A box counts only if its
//! directory is there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::fstat;
use rustix::io::Errno;

use super::arrival::{Arrived, Incoming};
use super::directory::{self, Directory, Listed};
use super::entry::{Entry, Lost, Refusal};
use super::kept::Kept;
use super::lock::lock;
use super::manager::ServiceManager;
use crate::abi;
use crate::name::BoxName;
use crate::owner::Owner;

const PREFIX: &str = "vmm-fdbox.";
/// The number of a box's directory among its files.
const DIRECTORY: u64 = 0;

/// A file, whatever descriptors there are of it.
type Inode = (u64, u64);

/// Files by box and by number.
type Returned = BTreeMap<u32, BTreeMap<u64, OwnedFd>>;

/// The store of this process's service manager.
#[derive(Debug)]
pub(super) struct FdStore {
    shared: Arc<Shared>,
    /// What the manager gave back to this process.
    returned: Mutex<Returned>,
    /// Boxes that this program cannot read.
    unread: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    manager: Arc<ServiceManager>,
    /// The maximum number of descriptors.
    most: usize,
    boxes: Mutex<BTreeMap<u32, BTreeSet<Inode>>>,
}

/// A box in the store, until this is dropped.
#[derive(Debug)]
pub(super) struct StoredBox {
    number: u32,
    tokens: Vec<u64>,
    shared: Arc<Shared>,
}

impl Drop for StoredBox {
    fn drop(&mut self) {
        for token in std::iter::once(&DIRECTORY).chain(&self.tokens) {
            // If the manager is gone, so is its store.
            let _ = self.shared.manager.remove(&name(self.number, *token));
        }
        lock(&self.shared.boxes).remove(&self.number);
    }
}

fn name(number: u32, token: u64) -> String {
    format!("{PREFIX}{number}.{token}")
}

/// The box and the file that a name is for.
fn numbers(name: &str) -> Option<(u32, u64)> {
    let (number, token) = name.strip_prefix(PREFIX)?.split_once('.')?;
    Some((number.parse().ok()?, token.parse().ok()?))
}

fn refusal(errno: Errno, entry: Option<&Entry>, message: &str) -> Refusal {
    Refusal {
        errno,
        name: entry.map(|entry| entry.name.clone()),
        reason: abi::FDBOX_REASON_OTHER,
        message: message.to_owned(),
    }
}

fn inode(fd: BorrowedFd<'_>) -> Result<Inode, Errno> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl FdStore {
    /// The store of a manager that takes `most` descriptors, and what it has given back, by name.
    pub(super) fn new(
        manager: Arc<ServiceManager>,
        most: usize,
        fds: impl IntoIterator<Item = (String, OwnedFd)>,
    ) -> Self {
        let mut returned = Returned::new();
        for (name, fd) in fds {
            if let Some((number, token)) = numbers(&name) {
                returned.entry(number).or_default().insert(token, fd);
            }
        }
        let shared = Arc::new(Shared {
            manager,
            most,
            boxes: Mutex::default(),
        });
        Self {
            shared,
            returned: Mutex::new(returned),
            unread: AtomicUsize::new(0),
        }
    }

    pub(super) fn keep(
        &self,
        (name, owner): (&BoxName, Owner),
        entries: &[Entry],
    ) -> Result<StoredBox, Refusal> {
        let files = entries.iter().map(|entry| {
            let file = entry.file.as_ref();
            file.map(AsFd::as_fd)
                .map_err(|lost| refusal(lost.errno, Some(entry), lost.message))
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let stored = self.reserve(entries, &files)?;
        let tokens = stored.tokens.iter();
        let list = tokens.zip(entries).map(|(token, entry)| Listed {
            token: *token,
            name: entry.name.clone(),
            kind: entry.kind.clone(),
        });
        let directory = Directory {
            name: name.clone(),
            owner,
            fds: list.collect(),
        };
        let done = stored.store(&files, &directory);
        let message = "the service manager does not answer: see its log";
        done.map_err(|errno| refusal(errno, None, message))?;
        Ok(stored)
    }

    /// A place for a box, in which nothing is stored yet.
    fn reserve(&self, entries: &[Entry], files: &[BorrowedFd<'_>]) -> Result<StoredBox, Refusal> {
        let mut boxes = lock(&self.shared.boxes);
        let in_use: usize = boxes.values().map(|files| files.len() + 1).sum();
        if in_use + files.len() + 1 > self.shared.most {
            let message =
                "the service manager takes no more descriptors: raise FileDescriptorStoreMax=";
            return Err(refusal(Errno::NOSPC, None, message));
        }
        let mut inodes = BTreeSet::new();
        for (entry, fd) in entries.iter().zip(files) {
            let inode = inode(*fd).map_err(|errno| refusal(errno, Some(entry), ""))?;
            // The manager stores a file once only.
            if boxes.values().any(|files| files.contains(&inode)) || !inodes.insert(inode) {
                let message = "a sealed box already has it: take it out there";
                return Err(Refusal {
                    reason: abi::FDBOX_REASON_SHARED_FILE,
                    ..refusal(Errno::BUSY, Some(entry), message)
                });
            }
        }
        let number = (0..).find(|number| !boxes.contains_key(number));
        let number = number.unwrap_or(u32::MAX);
        boxes.insert(number, inodes);
        Ok(StoredBox {
            number,
            tokens: (DIRECTORY + 1..).take(files.len()).collect(),
            shared: Arc::clone(&self.shared),
        })
    }

    /// The boxes that an earlier keeper has stored. What does not belong to one is removed.
    pub(super) fn arrivals(&self) -> Vec<Arrived> {
        let returned = std::mem::take(&mut *lock(&self.returned)).into_iter();
        let arrived = returned.map(|(number, files)| self.arrived(number, files));
        arrived.flatten().collect()
    }

    fn arrived(&self, number: u32, mut files: BTreeMap<u64, OwnedFd>) -> Option<Arrived> {
        let inodes = files.values().filter_map(|fd| inode(fd.as_fd()).ok());
        lock(&self.shared.boxes).insert(number, inodes.collect());
        let directory = files.get(&DIRECTORY).map(|fd| directory::read(fd.as_fd()));
        if directory == Some(None) {
            // Another version of this program may be able to read it: it stays in the store.
            self.unread.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let stored = StoredBox {
            number,
            tokens: files.keys().copied().collect(),
            shared: Arc::clone(&self.shared),
        };
        // Without a directory it was never sealed: dropping it here removes it from the store.
        let directory = directory.flatten()?;
        let entry = |listed: Listed| Entry {
            file: files.remove(&listed.token).ok_or(Lost {
                errno: Errno::NOENT,
                message: "the service manager did not keep it: see its log",
            }),
            name: listed.name,
            kind: listed.kind,
        };
        Some(Arrived {
            name: directory.name,
            owner: directory.owner,
            incoming: Incoming::Stored {
                entries: directory.fds.into_iter().map(entry).collect(),
                kept: Kept::by(stored),
            },
        })
    }

    pub(super) fn features(&self) -> u64 {
        match self.unread.load(Ordering::Relaxed) {
            0 => 0,
            _ => abi::FDBOX_FEATURE_REFUSED,
        }
    }
}

impl StoredBox {
    fn store(&self, files: &[BorrowedFd<'_>], directory: &Directory) -> Result<(), Errno> {
        let manager = &self.shared.manager;
        for (token, fd) in self.tokens.iter().zip(files) {
            manager.store(&name(self.number, *token), *fd)?;
        }
        let directory = directory.memfd()?;
        manager.store(&name(self.number, DIRECTORY), directory.as_fd())?;
        manager.synchronize()
    }
}

#[cfg(test)]
mod tests;
