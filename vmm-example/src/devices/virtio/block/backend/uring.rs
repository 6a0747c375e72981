//! io_uring: the kernel carries out many jobs at a time.
//!
//! What is in the page cache is read at once, without the ring: the ring reports each of its jobs
//! by an event, even if the kernel has finished it before it returns, and the device's thread would
//! wake up once more for each of them.
//!
//! A ring bypasses a process's seccomp filter, so each ring is created before the filter is
//! installed, and is restricted for good to reading, writing, syncing and clearing files that are
//! open. Once the filter is installed no ring can be created.

#![allow(
    unsafe_code,
    reason = "the kernel reads and writes the buffers of jobs"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::thread::clear_mode;
use super::{Backend, Done, Job, MAX_JOBS, Op};
use crate::devices::virtio::wake::Wake;
use crate::sandbox;

/// The maximum size of a job that is read from the page cache at once: the device is locked
/// meanwhile.
const MAX_CACHED: usize = 128 << 10;

/// A ring that has no file yet.
#[derive(Debug)]
struct Ready {
    ring: Ring,
    wake: Wake,
}

/// `IoUring` has no `Debug`.
struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

/// Rings for devices that are opened when no ring can be created any more.
static RESERVED: Mutex<Vec<Ready>> = Mutex::new(Vec::new());

/// Creates rings in advance, for this many disks. Without io_uring it creates none.
pub(in super::super::super) fn reserve(count: usize) {
    let rings = (0..count).map_while(|_| Ready::new().ok());
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    reserved.extend(rings);
}

impl Ready {
    fn new() -> io::Result<Self> {
        let wake = Wake::new()?;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_r_disabled();
        let ring = builder.build(MAX_JOBS as u32)?;
        let submitter = ring.submitter();
        submitter.register_eventfd(wake.as_fd().as_raw_fd())?;
        let mut allowed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ]
        .map(Restriction::sqe_op);
        submitter.register_restrictions(&mut allowed)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring: Ring(ring),
            wake,
        })
    }

    fn take() -> io::Result<Self> {
        let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        match reserved.pop() {
            Some(ready) => Ok(ready),
            // The seccomp filter would kill this process.
            None if sandbox::is_entered() => Err(Errno::PERM.into()),
            None => Self::new(),
        }
    }
}

/// A job, and how much of it is done.
#[derive(Debug)]
struct Begun {
    job: Job,
    done: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(in super::super) struct UringBackend {
    file: File,
    ring: Ring,
    wake: Wake,
    /// Indexed by the number that the kernel returns.
    begun: Vec<Option<Begun>>,
    /// Whether reads from the page cache are tried.
    has_cache: bool,
    /// Finished without the ring.
    done: VecDeque<Done>,
    /// Whether the ring has entries that the kernel has not taken.
    is_ahead: bool,
}

impl UringBackend {
    pub(in super::super) fn new(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let has_cache = !fcntl_getfl(&file)?.contains(OFlags::DIRECT);
        let Ready { ring, wake } = Ready::take()?;
        Ok(Self {
            file,
            ring,
            wake,
            begun: (0..MAX_JOBS).map(|_| None).collect(),
            has_cache,
            done: VecDeque::new(),
            is_ahead: false,
        })
    }

    /// Reads what is in the page cache, without waiting for the disk; returns how much it is.
    fn read_cached(&mut self, job: &mut Job) -> usize {
        if !self.has_cache || job.op != Op::Read || job.buffer.len() > MAX_CACHED {
            return 0;
        }
        let mut to = [IoSliceMut::new(job.buffer.bytes_mut())];
        match preadv2(&self.file, &mut to, job.at, ReadWriteFlags::NOWAIT) {
            Ok(read) => read,
            Err(error) => {
                // Not every file system can do it.
                self.has_cache = error != Errno::OPNOTSUPP;
                0
            }
        }
    }

    /// Pushes the rest of a job into the ring.
    fn push(&mut self, number: usize) {
        let Some(Some(begun)) = self.begun.get_mut(number) else {
            return;
        };
        let entry = entry(&self.file, begun).user_data(number as u64);
        // SAFETY: The entry refers to a part of the job's buffer, whose bytes do not move, and
        // which stays in `begun` until the kernel has returned its number; and to `file`, which is
        // not closed before the ring is. Dropping this while the kernel has a buffer leaks the
        // buffer.
        let pushed = unsafe { self.ring.0.submission().push(&entry) };
        // There is space for as many entries as there are jobs.
        debug_assert!(pushed.is_ok());
        self.is_ahead = true;
    }

    /// The result of a job according to the kernel's result; `None` if it has to continue.
    fn judge(&mut self, number: usize, result: i32) -> Option<io::Result<()>> {
        let begun = self.begun.get_mut(number)?.as_mut()?;
        let transfers = matches!(begun.job.op, Op::Read | Op::Write { .. });
        match result {
            _ if result == -libc::EINTR || result == -libc::EAGAIN => None,
            ..0 => Some(Err(io::Error::from_raw_os_error(-result))),
            _ if !transfers => Some(Ok(())),
            // Beyond the end of the file.
            0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => {
                begun.done += result.unsigned_abs() as usize;
                (begun.done >= begun.job.buffer.len()).then_some(Ok(()))
            }
        }
    }
}

fn entry(file: &File, begun: &mut Begun) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    let (at, job) = (begun.job.at + begun.done as u64, &mut begun.job);
    match job.op {
        Op::Read => {
            let to = &mut job.buffer.bytes_mut()[begun.done..];
            let len = to.len() as u32;
            opcode::Read::new(fd, to.as_mut_ptr(), len)
                .offset(at)
                .build()
        }
        Op::Write { durable } => {
            let from = &job.buffer.bytes()[begun.done..];
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            opcode::Write::new(fd, from.as_ptr(), from.len() as u32)
                .offset(at)
                .rw_flags(flags)
                .build()
        }
        Op::Sync => opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Op::Clear { punch, len } => opcode::Fallocate::new(fd, len)
            .offset(at)
            .mode(clear_mode(punch))
            .build(),
    }
}

impl Backend for UringBackend {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn begin(&mut self, mut job: Job) {
        let done = self.read_cached(&mut job);
        if done > 0 && done == job.buffer.len() {
            return self.done.push_back(Done {
                token: job.token,
                buffer: job.buffer,
                result: Ok(()),
            });
        }
        let free = self.begun.iter().position(Option::is_none);
        // The owner limits the number of jobs.
        let number = free.unwrap_or_else(|| {
            self.begun.push(None);
            self.begun.len() - 1
        });
        self.begun[number] = Some(Begun { job, done });
        self.push(number);
    }

    fn submit(&mut self) {
        // What the kernel does not accept now stays in the ring for the next time.
        while self.is_ahead {
            match self.ring.0.submit() {
                Ok(1..) => self.is_ahead = !self.ring.0.submission().is_empty(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return self.wake.wake(),
            }
        }
    }

    fn finished(&mut self) -> Option<Done> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        let mut goes_on = false;
        let done = loop {
            let Some(entry) = self.ring.0.completion().next() else {
                break None;
            };
            let number = entry.user_data() as usize;
            let Some(result) = self.judge(number, entry.result()) else {
                self.push(number);
                goes_on = true;
                continue;
            };
            if let Some(Begun { job, .. }) = self.begun.get_mut(number).and_then(Option::take) {
                break Some(Done {
                    token: job.token,
                    buffer: job.buffer,
                    result,
                });
            }
        };
        if goes_on {
            self.submit();
        }
        done
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for UringBackend {
    fn drop(&mut self) {
        // The kernel may still write to these.
        self.begun.drain(..).for_each(std::mem::forget);
    }
}
