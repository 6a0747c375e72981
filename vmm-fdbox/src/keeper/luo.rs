//! Boxes in LUO, the kernel's Live Update Orchestrator.
//!
//! LUO keeps *sessions* of numbered files as long as a process has the session open, which must be
//! the case until the jump. Each sealed box is a session; file number 0 is the box's
//! [directory](super::directory). LUO cannot list sessions: a keeper tries each possible name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::KeeperError;
use super::arrival::{Arrived, Incoming};
use super::directory::{self, Directory, Listed};
use super::entry::{Entry, Refusal};
use super::lock::lock;
use crate::abi;
use crate::name::BoxName;
use crate::owner::Owner;
use crate::sys;

/// LUO's node. Only one process at a time can have it open.
pub(super) const DEVICE: &str = "/dev/liveupdate";
/// The number of a box's directory in its session.
const DIRECTORY: u64 = 0;
/// The maximum number of boxes.
pub(super) const MAX_BOXES: u32 = 256;
/// The session for testing whether LUO accepts a file.
const TRIAL: &str = "vmm-fdbox.trial";

/// Why the node cannot be opened, and what to do.
pub(super) fn why_not_open(errno: Errno) -> String {
    let why = match errno {
        Errno::NOENT => "this kernel has no LUO, or was booted without kho=on liveupdate=on",
        Errno::BUSY => "another process has it, and only one can: end that one",
        Errno::IO => {
            "the kernel cannot read what the last one left: see the kernel log, and reboot"
        }
        errno => return std::io::Error::from(errno).to_string(),
    };
    why.to_owned()
}

/// LUO, opened by this process.
#[derive(Debug)]
pub(super) struct Luo {
    device: OwnedFd,
    /// The numbers of the existing sessions.
    used: Arc<Mutex<Vec<u32>>>,
    /// Sessions that arrived but cannot be read: their files are lost when they are closed.
    unread: Mutex<Vec<OwnedFd>>,
}

/// A box held by LUO, until this is dropped.
#[derive(Debug)]
pub(super) struct LuoBox {
    session: Option<OwnedFd>,
    number: u32,
    used: Arc<Mutex<Vec<u32>>>,
}

impl Drop for LuoBox {
    fn drop(&mut self) {
        // The name is free once the session is closed.
        drop(self.session.take());
        lock(&self.used).retain(|used| *used != self.number);
    }
}

fn session_name(number: u32) -> String {
    format!("vmm-fdbox.{number}")
}

impl Luo {
    pub(super) fn open() -> Result<Self, KeeperError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device =
            rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(KeeperError::OpenLuo)?;
        let luo = Self {
            device,
            used: Default::default(),
            unread: Mutex::default(),
        };
        let memfd = directory::filled_memfd(&[0]).map_err(KeeperError::NoMemfd)?;
        luo.takes(memfd.as_fd()).map_err(KeeperError::NoMemfd)?;
        Ok(luo)
    }

    pub(super) fn features(&self) -> u64 {
        let refused = match lock(&self.unread).is_empty() {
            true => 0,
            false => abi::FDBOX_FEATURE_REFUSED,
        };
        abi::FDBOX_FEATURE_KHO | abi::FDBOX_FEATURE_MEMFD | refused
    }

    /// Whether LUO can keep a file; determined by trying.
    pub(super) fn takes(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // Only one trial at a time can use the name.
        let _turn = lock(&self.used);
        let trial = sys::luo_create(self.device.as_fd(), TRIAL)?;
        sys::luo_preserve(trial.as_fd(), fd, DIRECTORY).map_err(|errno| match errno {
            Errno::NOENT => Errno::OPNOTSUPP,
            errno => errno,
        })
    }

    pub(super) fn keep(
        &self,
        (name, owner): (&BoxName, Owner),
        entries: &[Entry],
    ) -> Result<LuoBox, Refusal> {
        let whole = |errno| Refusal {
            errno,
            name: None,
            reason: abi::FDBOX_REASON_OTHER,
            message: String::new(),
        };
        let kept = self.new_session().map_err(whole)?;
        let session = kept.session.as_ref().ok_or_else(|| whole(Errno::NODEV))?;
        let mut fds = Vec::with_capacity(entries.len());
        for (token, entry) in (DIRECTORY + 1..).zip(entries) {
            let file = entry.file.as_ref();
            let kept = file
                .map_err(|lost| lost.errno)
                .and_then(|fd| sys::luo_preserve(session.as_fd(), fd.as_fd(), token));
            kept.map_err(|errno| refusal(entry, errno))?;
            fds.push(Listed {
                token,
                name: entry.name.clone(),
                kind: entry.kind.clone(),
            });
        }
        let name = name.clone();
        let memfd = Directory { name, owner, fds }.memfd().map_err(whole)?;
        sys::luo_preserve(session.as_fd(), memfd.as_fd(), DIRECTORY).map_err(whole)?;
        Ok(kept)
    }

    fn new_session(&self) -> Result<LuoBox, Errno> {
        let mut used = lock(&self.used);
        let is_free = |number: &u32| !used.contains(number);
        let number = (0..MAX_BOXES).find(is_free).ok_or(Errno::NOSPC)?;
        let session = sys::luo_create(self.device.as_fd(), &session_name(number))?;
        used.push(number);
        Ok(LuoBox {
            session: Some(session),
            number,
            used: self.used.clone(),
        })
    }

    /// The boxes of the last kernel.
    pub(super) fn arrivals(&self) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        for number in 0..MAX_BOXES {
            let Ok(session) = sys::luo_retrieve(self.device.as_fd(), &session_name(number)) else {
                continue;
            };
            match read_directory(session.as_fd()) {
                Some(Directory { name, owner, fds }) => {
                    let incoming = Incoming::Luo { session, fds };
                    arrived.push(Arrived {
                        name,
                        owner,
                        incoming,
                    });
                }
                None => lock(&self.unread).push(session),
            }
        }
        arrived
    }
}

fn refusal(entry: &Entry, errno: Errno) -> Refusal {
    let (errno, reason, message) = match errno {
        Errno::NOENT => (
            Errno::OPNOTSUPP,
            abi::FDBOX_REASON_UNSUPPORTED_STATE,
            "this kernel's LUO does not support this kind of file: leave it out",
        ),
        Errno::BUSY => (
            errno,
            abi::FDBOX_REASON_SHARED_FILE,
            "another box or session has it: take it out there",
        ),
        Errno::NOMEM => (
            errno,
            abi::FDBOX_REASON_NO_MEMORY,
            "the kernel is out of memory: free some and try again",
        ),
        errno => (
            errno,
            abi::FDBOX_REASON_OTHER,
            "LUO refuses it: see the kernel log",
        ),
    };
    Refusal {
        errno,
        name: Some(entry.name.clone()),
        reason,
        message: message.to_owned(),
    }
}

fn read_directory(session: BorrowedFd<'_>) -> Option<Directory> {
    directory::read(sys::luo_take(session, DIRECTORY).ok()?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::content::Content;
    use crate::keeper::entry::Lost;
    use crate::keeper::held::Held;
    use crate::name::FdName;

    /// Files that LUO does not return are named, and the rest of the box is usable.
    #[test]
    fn what_does_not_arrive_is_lost() {
        let name = FdName::new("ram").unwrap();
        let incoming = Incoming::Luo {
            // Not a session of LUO.
            session: directory::filled_memfd(b"x").unwrap(),
            fds: vec![Listed {
                token: 1,
                name: name.clone(),
                kind: "keeper,memfd-v1".into(),
            }],
        };
        let box_name = BoxName::new("vm0").unwrap();
        let held = Held::new(box_name, Owner::ROOT, Content::incoming(incoming));
        let mut content = held.content();
        assert_eq!(content.entries().unwrap().len(), 1);
        assert_eq!(content.is_sealed(), Ok(true));
        assert_eq!(content.unseal(), Err(Errno::NODATA));
        let lost: Vec<_> = content
            .lost()
            .map(|(at, entry, _)| (at, &entry.name))
            .collect();
        assert_eq!(lost, [(0, &name)]);
        content.salvage().unwrap();
        assert_eq!(content.find(&name).unwrap_err(), Errno::NOTTY);
        content.delete().unwrap();
        assert_eq!(content.is_sealed(), Err(Errno::NODEV));
    }

    #[test]
    fn a_refusal_names_the_descriptor_and_what_to_do() {
        let entry = Entry {
            name: FdName::new("gpu").unwrap(),
            kind: "keeper,file-v1".into(),
            file: directory::filled_memfd(b"x").map_err(|errno| Lost { errno, message: "" }),
        };
        // LUO's error for a kind that it has no handler for.
        let refused = refusal(&entry, Errno::NOENT);
        assert_eq!(refused.errno, Errno::OPNOTSUPP);
        assert_eq!(refused.name, Some(entry.name));
        assert!(
            refused.message.contains("this kind of file"),
            "{}",
            refused.message
        );
    }
}
