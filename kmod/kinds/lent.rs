// SPDX-License-Identifier: GPL-2.0

//! A file of the host's memory, or of a device of the host's, in the boat that has borrowed it.
//!
//! In the boat it can be in a box like any other file, so that a VMM there is replaced as in a host.
//! It is not handed over: the boat's kernel has no next one, and the memory is the host's in any case.
//!
//! While sealed: nothing changes, because the file has a fixed size and its pages stay where they are.

use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::kho;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::objects::lent;
use crate::seal_cx::SealCx;
use crate::take_cx::TakeCx;
use kernel::{
    fs::File,
    prelude::*, //
};

pub(crate) struct Lent;

impl Kind for Lent {
    fn compatible(&self) -> &[u8] {
        b"fdbox,lent-v1"
    }

    fn matches(&self, file: &File) -> bool {
        lent::is(file)
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    fn seal(&self, _cx: &mut SealCx<'_>) -> Result {
        match kho::enabled() {
            true => Err(EOPNOTSUPP),
            false => Ok(()),
        }
    }

    fn write(&self, _cx: &SealCx<'_>, _record: &mut Record) -> Result {
        Err(EOPNOTSUPP)
    }

    fn unseal(&self, _file: &File, _record: Option<&Record>) {}

    fn restore(
        &self,
        _cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        _record: &Record,
        _progress: &mut Progress,
    ) -> Result<FileRef> {
        Err(EOPNOTSUPP)
    }
}
