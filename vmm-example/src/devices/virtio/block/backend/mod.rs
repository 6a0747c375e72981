//! Carries out the requests of a disk without blocking anyone.
//!
//! A job owns its buffer until it is finished, so the kernel never accesses guest memory: meanwhile
//! the guest may use its memory freely, and reset the device.

mod thread;
mod uring;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use super::buffer::Buffer;
pub(super) use thread::ThreadBackend;
pub(super) use uring::UringBackend;
pub(in super::super) use uring::reserve;

/// The maximum number of unfinished jobs.
pub(super) const MAX_JOBS: usize = 64;

/// An operation on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Fills the buffer.
    Read,
    /// Writes the buffer; with `durable` the data is safe when the job is finished.
    Write { durable: bool },
    /// Syncs what was written.
    Sync,
    /// Clears a range: returned to the file system, or kept as zeroes.
    Clear { punch: bool, len: u64 },
}

/// Identifies the part of a request that a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The index of the request among those in flight.
    pub(super) request: usize,
    /// Offset from the start of its data.
    pub(super) offset: u64,
}

/// A part of a request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) op: Op,
    /// Offset in the disk, in bytes.
    pub(super) at: u64,
    pub(super) buffer: Buffer,
}

/// A finished job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) token: Token,
    pub(super) buffer: Buffer,
    /// Success if all of it was done, or the error.
    pub(super) result: io::Result<()>,
}

/// See the module's documentation.
pub(super) trait Backend: Debug + Send {
    /// The name in status reports.
    fn name(&self) -> &'static str;

    /// Starts its threads, if any. No job has begun yet.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Begins a job; at most [`MAX_JOBS`] at a time. It may have to wait for
    /// [`submit`](Self::submit).
    fn begin(&mut self, job: Job);

    /// Makes everything that was begun be carried out.
    fn submit(&mut self);

    /// The next finished job.
    fn finished(&mut self) -> Option<Done>;

    /// Becomes readable when a job is finished after [`submit`](Self::submit) has returned.
    fn event(&self) -> BorrowedFd<'_>;

    fn file(&self) -> &File;
}
