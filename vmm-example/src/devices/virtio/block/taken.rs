//! A request that was taken from the ring, and the jobs that carry it out.

use std::io;

use vm_memory::GuestMemoryMmap;

use super::super::ring::RingError;
use super::backend::Op;
use super::buffer::{Buffer, Pool};
use super::request::{Ask, Request, Status, gather};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) request: Request,
    pub(super) ask: Ask,
    /// The offset in its data at which its next job begins.
    pub(super) next: u64,
    /// Number of unfinished jobs.
    pub(super) jobs: usize,
    pub(super) status: Status,
    /// Whether the guest has since reset the device or broken its ring.
    pub(super) is_stale: bool,
}

impl Taken {
    pub(super) fn new(request: Request, ask: Ask) -> Self {
        Self {
            request,
            ask,
            next: 0,
            jobs: 0,
            status: Status::Ok,
            is_stale: false,
        }
    }

    pub(super) fn end(&self) -> u64 {
        // What has no data is one job.
        self.ask.data_len().max(1)
    }

    /// Whether more jobs are to be begun for it.
    pub(super) fn goes_on(&self) -> bool {
        self.next < self.end() && self.status == Status::Ok && !self.is_stale
    }

    /// The next job, of so many bytes: where in the file, what, and with which data. Writes are safe
    /// when they are finished if they are `durable`.
    pub(super) fn job(
        &self,
        len: u64,
        pool: &mut Pool,
        memory: &GuestMemoryMmap,
        durable: bool,
    ) -> Result<(u64, Op, Buffer), RingError> {
        let offset = self.next;
        let mut transfer = |at: u64, op| (at + offset, op, pool.take(len as usize));
        let clear = |at, len, punch| (at, Op::Clear { punch, len }, Buffer::default());
        let mut job = match self.ask {
            Ask::Read { at, .. } => transfer(at, Op::Read),
            Ask::Write { at, .. } | Ask::Zero { at, .. } => transfer(at, Op::Write { durable }),
            Ask::Discard { at, len } => clear(at, len, true),
            Ask::WriteZeroes { at, len, punch } => clear(at, len, punch),
            Ask::Flush | Ask::Id => (0, Op::Sync, Buffer::default()),
        };
        match self.ask {
            Ask::Write { .. } => {
                gather(memory, &self.request.data, offset, job.2.bytes_mut())?;
            }
            Ask::Zero { .. } => job.2.bytes_mut().fill(0),
            _ => {}
        }
        Ok(job)
    }

    /// One of its jobs has failed.
    pub(super) fn fail(&mut self, error: &io::Error) {
        let is_unsupported = error.raw_os_error() == Some(libc::EOPNOTSUPP);
        match self.ask {
            // A discard is a hint: what cannot be returned stays.
            Ask::Discard { .. } if is_unsupported => {}
            Ask::WriteZeroes { at, len, .. } if is_unsupported => {
                self.ask = Ask::Zero { at, len };
                self.next = 0;
            }
            _ => self.status = Status::Io,
        }
    }
}
