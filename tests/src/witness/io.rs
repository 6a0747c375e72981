//! Disk and network of the guest, if it has them: work for both, and what came of it.

use std::thread::Scope;

use anyhow::Result;
use fdbox_lab::net;
use fdbox_lab::witness::Io as Done;

use crate::disk::Disk;
use crate::talk::Talk;

#[derive(Debug)]
pub(crate) struct Io {
    guest: u8,
    disk: Disk,
    talk: Talk,
}

impl Io {
    /// `None` for a guest whose command line gives it no number.
    pub(crate) fn open() -> Result<Option<Self>> {
        let cmdline = std::fs::read_to_string("/proc/cmdline")?;
        let Some(guest) = net::guest_of(&cmdline) else {
            return Ok(None);
        };
        Ok(Some(Self {
            guest,
            disk: Disk::open()?,
            talk: Talk::open(guest)?,
        }))
    }

    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        scope.spawn(|| self.disk.write());
        scope.spawn(|| self.disk.read());
        scope.spawn(|| self.talk.serve());
    }

    /// Reads all that was written to the disk.
    pub(crate) fn check(&self) {
        self.disk.check();
    }

    /// Ends both in good order.
    pub(crate) fn end(&self) {
        self.talk.end();
        self.disk.end();
        self.disk.check();
    }

    pub(crate) fn done(&self) -> Done {
        Done {
            guest: self.guest,
            disk: self.disk.done(),
            tcp: self.talk.done(),
        }
    }
}
