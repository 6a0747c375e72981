//! What carries out the requests of a disk, while nobody waits for it.
//!
//! A job has its memory until it is finished, so nothing of the guest's is in the kernel's hands: a
//! guest may do with its memory what it likes meanwhile, and reset the device.

mod thread;
mod uring;
mod wake;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use super::buffer::Buffer;
pub(super) use thread::ThreadBackend;
pub(super) use uring::UringBackend;
pub(in super::super) use uring::reserve;

/// The most jobs that are begun and not finished.
pub(super) const MAX_JOBS: usize = 64;

/// What is to be done with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Fills the buffer.
    Read,
    /// Writes the buffer; `durable` ones are safe when they are finished.
    Write { durable: bool },
    /// Makes safe what was written.
    Sync,
    /// Takes the content of a range away: given back to the file system, or kept as zeroes.
    Clear { punch: bool, len: u64 },
}

/// Which part of which request a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The place of the request among those in flight.
    pub(super) request: usize,
    /// From the start of its data.
    pub(super) offset: u64,
}

/// A part of a request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) op: Op,
    /// In the disk, in bytes.
    pub(super) at: u64,
    pub(super) buffer: Buffer,
}

/// A job that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) token: Token,
    pub(super) buffer: Buffer,
    /// All of it was done, or why not.
    pub(super) result: io::Result<()>,
}

/// See the module's documentation.
pub(super) trait Backend: Debug + Send {
    /// As in status reports.
    fn name(&self) -> &'static str;

    /// Starts what threads it has. Nothing was begun before.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Begins a job, of which there are [`MAX_JOBS`] at a time; it may wait for [`submit`](Self::submit).
    fn begin(&mut self, job: Job);

    /// Has all that was begun carried out.
    fn submit(&mut self);

    /// The next job that is over.
    fn finished(&mut self) -> Option<Done>;

    /// Readable when there is one.
    fn event(&self) -> BorrowedFd<'_>;

    fn file(&self) -> &File;
}
