//! A thread that carries out one job at a time, for kernels without io_uring.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rustix::fs::{FallocateFlags, fallocate};

use super::{Backend, Done, Job, Op};
use crate::devices::virtio::wake::Wake;
use crate::sandbox;

/// See the module's documentation. It ends with its last job.
#[derive(Debug)]
pub(in super::super) struct ThreadBackend {
    file: File,
    wake: Wake,
    begun: VecDeque<Job>,
    jobs: Option<Sender<Job>>,
    done: Option<Receiver<Done>>,
}

impl ThreadBackend {
    pub(in super::super) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file,
            wake: Wake::new()?,
            begun: VecDeque::new(),
            jobs: None,
            done: None,
        })
    }
}

impl Backend for ThreadBackend {
    fn name(&self) -> &'static str {
        "thread"
    }

    fn start(&mut self) -> io::Result<()> {
        let (file, wake) = (self.file.try_clone()?, self.wake.duplicate()?);
        let (jobs, todo) = mpsc::channel::<Job>();
        let (finished, done) = mpsc::channel();
        thread::Builder::new().name("disk".into()).spawn(move || {
            sandbox::confine(sandbox::Thread::Device);
            while let Ok(mut job) = todo.recv() {
                let result = carry_out(&file, &mut job);
                let (token, buffer) = (job.token, job.buffer);
                let done = Done {
                    token,
                    buffer,
                    result,
                };
                if finished.send(done).is_err() {
                    return;
                }
                wake.wake();
            }
        })?;
        (self.jobs, self.done) = (Some(jobs), Some(done));
        Ok(())
    }

    fn begin(&mut self, job: Job) {
        self.begun.push_back(job);
    }

    fn submit(&mut self) {
        if let Some(jobs) = &self.jobs {
            // The thread waits for nothing else.
            self.begun.drain(..).for_each(|job| drop(jobs.send(job)));
        }
    }

    fn finished(&mut self) -> Option<Done> {
        self.done.as_ref()?.try_recv().ok()
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn file(&self) -> &File {
        &self.file
    }
}

fn carry_out(file: &File, job: &mut Job) -> io::Result<()> {
    match job.op {
        Op::Read => file.read_exact_at(job.buffer.bytes_mut(), job.at),
        Op::Write { durable } => {
            file.write_all_at(job.buffer.bytes(), job.at)?;
            match durable {
                true => file.sync_data(),
                false => Ok(()),
            }
        }
        Op::Sync => file.sync_data(),
        Op::Clear { punch, len } => {
            let mode = FallocateFlags::from_bits_retain(clear_mode(punch).cast_unsigned());
            Ok(fallocate(file, mode, job.at, len)?)
        }
    }
}

/// The mode of fallocate(2).
pub(super) fn clear_mode(punch: bool) -> i32 {
    let mode = match punch {
        true => libc::FALLOC_FL_PUNCH_HOLE,
        false => libc::FALLOC_FL_ZERO_RANGE,
    };
    mode | libc::FALLOC_FL_KEEP_SIZE
}
