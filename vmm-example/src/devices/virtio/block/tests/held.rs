//! A disk whose jobs finish when the test says so, and requests for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::super::backend::{Done, Job};
use super::*;
use crate::devices::virtio::testing::{BUFFERS, descriptor};

const SECTORS: u64 = 1 << 22;

#[derive(Debug, Default)]
struct Jobs {
    begun: Vec<Job>,
    over: Vec<Done>,
}

/// A disk that does nothing by itself.
#[derive(Clone, Debug)]
pub(super) struct Held {
    jobs: Arc<Mutex<Jobs>>,
    file: Arc<File>,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            jobs: Arc::default(),
            file: Arc::new(tempfile::tempfile().unwrap()),
        }
    }

    pub(super) fn disk(&self) -> Block {
        Block::on(Box::new(self.clone()), SECTORS)
    }

    pub(super) fn count(&self) -> usize {
        self.jobs.lock().unwrap().begun.len()
    }

    /// Finishes the oldest jobs.
    pub(super) fn end(&self, count: usize, result: impl Fn(&mut Job) -> io::Result<()>) {
        let mut jobs = self.jobs.lock().unwrap();
        for _ in 0..count {
            let mut job = jobs.begun.remove(0);
            let result = result(&mut job);
            let (token, buffer) = (job.token, job.buffer);
            jobs.over.push(Done {
                token,
                buffer,
                result,
            });
        }
    }
}

impl Backend for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn begin(&mut self, job: Job) {
        self.jobs.lock().unwrap().begun.push(job);
    }

    fn submit(&mut self) {}

    fn finished(&mut self) -> Option<Done> {
        let over = &mut self.jobs.lock().unwrap().over;
        (!over.is_empty()).then(|| over.remove(0))
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn file(&self) -> &File {
        &self.file
    }
}

pub(super) fn fine(_: &mut Job) -> io::Result<()> {
    Ok(())
}

pub(super) fn offer_read(driver: &mut Driver, sector: u64, len: u32) {
    let header = header(VIRTIO_BLK_T_IN, sector);
    driver.offer(
        0,
        &[Buffer::Says(&header), Buffer::Room(len), Buffer::Room(1)],
    );
}

/// A request whose data is in many buffers, all at the same address.
pub(super) fn offer_large(driver: &mut Driver, kind: u32, buffers: u16) {
    let header = header(kind, 0);
    let at = GuestAddress(BUFFERS);
    driver.memory.write_slice(&header, at).unwrap();
    let (next, write) = (1, if kind == VIRTIO_BLK_T_IN { 2 } else { 0 });
    let mut chain = vec![descriptor(BUFFERS, 16, next, 1)];
    for number in 0..buffers {
        chain.push(descriptor(
            BUFFERS + 0x1_0000,
            0x8_0000,
            next | write,
            number + 2,
        ));
    }
    chain.push(descriptor(BUFFERS + 0x1000, 1, 2, 0));
    driver.offer_raw(0, &chain, 0);
}
