//! Disk and network of the guest, if it has them: starts work on both and collects the results.

use std::path::Path;
use std::thread::Scope;

use anyhow::Result;
use fdbox_lab::witness::Io as Done;

use crate::disk::Disk;
use crate::talk::Talk;

const DISK: &str = "/dev/vda";

#[derive(Debug)]
pub(crate) struct Io {
    guest: u8,
    disk: Disk,
    talk: Talk,
}

impl Io {
    /// Those of guest `guest`.
    pub(crate) fn open(guest: u8) -> Result<Self> {
        Ok(Self {
            guest,
            disk: Disk::open(Path::new(DISK))?,
            talk: Talk::open(guest)?,
        })
    }

    /// Starts to work, slower than usual by the factor `pace`.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, pace: u32) {
        scope.spawn(move || self.disk.write(pace));
        scope.spawn(move || self.disk.read(pace));
        scope.spawn(move || self.talk.serve(pace));
    }

    /// Reads everything that was written to the disk.
    pub(crate) fn check(&self) {
        self.disk.check();
    }

    /// Stops both in an orderly way.
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
