//! Requests whose jobs finish when the test says so.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};
use vmm_fdbox::Deadline;

use super::super::backend::{Done, Job, Op};
use super::super::flight::{MAX_BYTES, MAX_JOB, MAX_REQUESTS};
use super::*;
use crate::devices::virtio::VirtioError;
use crate::devices::virtio::live::LiveDevice;
use crate::devices::virtio::open::Opened;
use crate::devices::virtio::prepared_slot::PreparedSlot;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::testing::{BUFFERS, descriptor};

const SECTORS: u64 = 1 << 22;

#[derive(Debug, Default)]
struct Jobs {
    begun: Vec<Job>,
    over: Vec<Done>,
}

/// A disk that does nothing by itself.
#[derive(Clone, Debug)]
struct Held {
    jobs: Arc<Mutex<Jobs>>,
    file: Arc<File>,
}

impl Held {
    fn new() -> Self {
        Self {
            jobs: Arc::default(),
            file: Arc::new(tempfile::tempfile().unwrap()),
        }
    }

    fn disk(&self) -> Block {
        Block::on(Box::new(self.clone()), SECTORS)
    }

    fn count(&self) -> usize {
        self.jobs.lock().unwrap().begun.len()
    }

    /// Finishes the oldest jobs.
    fn end(&self, count: usize, result: impl Fn(&mut Job) -> io::Result<()>) {
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

fn fine(_: &mut Job) -> io::Result<()> {
    Ok(())
}

fn offer_read(driver: &mut Driver, sector: u64, len: u32) {
    let header = header(VIRTIO_BLK_T_IN, sector);
    driver.offer(
        0,
        &[Buffer::Says(&header), Buffer::Room(len), Buffer::Room(1)],
    );
}

/// A request whose data is in many buffers, all at the same address.
fn offer_large(driver: &mut Driver, kind: u32, buffers: u16) {
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

#[test]
fn a_guest_does_not_decide_how_much_is_in_flight() {
    let (held, mut driver) = (Held::new(), Driver::new(1));
    let mut block = held.disk();
    for sector in 0..MAX_REQUESTS as u64 + 5 {
        offer_read(&mut driver, sector, 512);
    }
    driver.serve(&mut block, 0).unwrap();
    assert_eq!(
        (block.in_flight(), held.count()),
        (MAX_REQUESTS, MAX_REQUESTS)
    );
    held.end(3, fine);
    driver.with(|rings| block.serve_source(rings)).unwrap();
    assert_eq!((driver.used(0).len(), block.in_flight()), (3, MAX_REQUESTS));
    held.end(MAX_REQUESTS, fine);
    driver.with(|rings| block.serve_source(rings)).unwrap();
    held.end(2, fine);
    driver.with(|rings| block.serve_source(rings)).unwrap();
    assert_eq!(
        (driver.used(0).len(), block.in_flight()),
        (MAX_REQUESTS + 5, 0)
    );
    assert_eq!(
        driver.interrupt.counters.read("blk0").requests,
        MAX_REQUESTS as u64 + 5
    );
}

#[test]
fn a_large_request_is_carried_out_in_parts_and_alone() {
    let (held, mut driver) = (Held::new(), Driver::new(1));
    let mut block = held.disk();
    let buffers = 40;
    offer_large(&mut driver, VIRTIO_BLK_T_OUT, buffers);
    driver.serve(&mut block, 0).unwrap();
    let total = u64::from(buffers) * 0x8_0000;
    let jobs = (MAX_BYTES / MAX_JOB) as usize;
    assert_eq!((block.in_flight(), held.count()), (1, jobs));
    let mut ended = 0;
    while held.count() > 0 {
        held.end(1, |job| {
            assert_eq!(job.at, ended);
            Ok(())
        });
        ended += MAX_JOB;
        driver.with(|rings| block.serve_source(rings)).unwrap();
        assert!(held.count() <= jobs);
    }
    assert_eq!((ended, driver.used(0)), (total, vec![(0, 1)]));
    assert_eq!(driver.interrupt.counters.read("blk0").bytes, total);
}

#[test]
fn a_large_request_goes_back_to_the_ring() {
    let (held, mut driver) = (Held::new(), Driver::new(1));
    let mut block = held.disk();
    offer_large(&mut driver, VIRTIO_BLK_T_IN, 40);
    driver.serve(&mut block, 0).unwrap();
    let begun = held.count();
    driver
        .stop
        .store(true, std::sync::atomic::Ordering::Release);
    held.end(begun, fine);
    driver.with(|rings| block.settle(rings, true)).unwrap();
    assert_eq!((block.in_flight(), held.count()), (0, 0));
    assert!(driver.used(0).is_empty());
    assert_eq!(driver.queues[0].next_avail(), 0);
    // It is done again, from its start.
    driver
        .stop
        .store(false, std::sync::atomic::Ordering::Release);
    driver.serve(&mut block, 0).unwrap();
    held.end(1, |job| {
        assert_eq!((job.at, job.op), (0, Op::Read));
        Err(io::Error::from_raw_os_error(libc::EIO))
    });
    let rest = held.count();
    held.end(rest, fine);
    driver.with(|rings| block.serve_source(rings)).unwrap();
    assert_eq!((driver.used(0), block.in_flight()), (vec![(0, 1)], 0));
    let mut status = [0];
    let at = GuestAddress(BUFFERS + 0x1000);
    driver.memory.read_slice(&mut status, at).unwrap();
    assert_eq!(status, [IOERR]);
}

#[test]
fn what_was_in_flight_at_a_reset_comes_before_what_is_asked_for_then() {
    let (held, mut driver) = (Held::new(), Driver::new(1));
    let mut block = held.disk();
    offer_read(&mut driver, 1, 512);
    driver.serve(&mut block, 0).unwrap();
    block.reset();
    let mut driver = Driver::new(1);
    offer_read(&mut driver, 2, 512);
    driver.serve(&mut block, 0).unwrap();
    assert_eq!((held.count(), block.in_flight()), (1, 1));
    held.end(1, |job| {
        job.buffer.bytes_mut().fill(0xee);
        Ok(())
    });
    driver.with(|rings| block.serve_source(rings)).unwrap();
    // Nobody gets the old answer, and the new request has begun.
    assert!(driver.used(0).is_empty());
    assert_eq!(driver.bytes(0, 1, 4), [0; 4]);
    assert_eq!((held.count(), block.in_flight()), (1, 1));
}

#[test]
fn zeroes_are_written_where_a_range_cannot_be_cleared() {
    let (held, mut driver) = (Held::new(), Driver::new(1));
    let mut block = held.disk();
    let mut segment = 8u64.to_le_bytes().to_vec();
    segment.extend(16u32.to_le_bytes());
    segment.extend([0; 4]);
    let header = header(VIRTIO_BLK_T_WRITE_ZEROES, 0);
    driver.offer(
        0,
        &[
            Buffer::Says(&header),
            Buffer::Says(&segment),
            Buffer::Room(1),
        ],
    );
    driver.serve(&mut block, 0).unwrap();
    held.end(1, |_| Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    driver.with(|rings| block.serve_source(rings)).unwrap();
    held.end(1, |job| {
        assert_eq!(job.op, Op::Write { durable: false });
        assert_eq!((job.at, job.buffer.bytes()), (8 * 512, &[0; 16 * 512][..]));
        Ok(())
    });
    driver.with(|rings| block.serve_source(rings)).unwrap();
    assert_eq!(driver.used(0), [(0, 1)]);
    assert_eq!(driver.bytes(0, 2, 1), [OK]);
}

/// A disk in a machine, with `requests` of its guest in its ring.
fn live(held: &Held, requests: u64) -> (LiveDevice, Driver) {
    let opened = Opened {
        slot: Slot::new(0).unwrap(),
        device: Box::new(held.disk()),
        transport: None,
    };
    let bay = PreparedSlot::of_no_vm(opened.slot, opened.layout().rings).unwrap();
    let mut driver = Driver::new(1);
    let memory = driver.memory.clone();
    let device = LiveDevice::new("blk0".into(), opened, memory, bay.line, bay.kicks).unwrap();
    device.unpark();
    let put = |offset, value: u32| device.write(offset, &value.to_le_bytes());
    put(VIRTIO_MMIO_STATUS, 3);
    put(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    put(VIRTIO_MMIO_DRIVER_FEATURES, 1 << (VIRTIO_F_VERSION_1 - 32));
    put(VIRTIO_MMIO_STATUS, 11);
    put(VIRTIO_MMIO_QUEUE_NUM, driver.queues[0].size().into());
    put(
        VIRTIO_MMIO_QUEUE_DESC_LOW,
        driver.queues[0].desc_table() as u32,
    );
    put(
        VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        driver.queues[0].avail_ring() as u32,
    );
    put(
        VIRTIO_MMIO_QUEUE_USED_LOW,
        driver.queues[0].used_ring() as u32,
    );
    put(VIRTIO_MMIO_QUEUE_READY, 1);
    put(VIRTIO_MMIO_STATUS, 15);
    for sector in 0..requests {
        offer_read(&mut driver, sector, 512);
    }
    device.on_kick(0);
    (device, driver)
}

fn status(device: &LiveDevice) -> u32 {
    let mut word = [0; 4];
    device.read(VIRTIO_MMIO_STATUS, &mut word);
    u32::from_le_bytes(word)
}

#[test]
fn registers_answer_while_the_disk_does_not() {
    let held = Held::new();
    let (device, driver) = live(&held, 16);
    assert_eq!(held.count(), 16);
    assert_eq!(status(&device), 15);
    // Also a reset, and what follows it.
    device.write(VIRTIO_MMIO_STATUS, &[0; 4]);
    assert_eq!(status(&device), 0);
    held.end(16, fine);
    device.on_source();
    assert!(driver.used(0).is_empty());
}

#[test]
fn a_device_comes_to_rest_within_a_limit_or_not_at_all() {
    let held = Held::new();
    let (device, mut driver) = live(&held, 4);
    device.quiesce();
    let short = Deadline::within(Duration::from_millis(1));
    let busy = device.drain(short).unwrap_err();
    let text = busy.to_string();
    assert!(
        matches!(busy, VirtioError::Busy { requests: 4, .. }),
        "{text}"
    );
    assert!(text.starts_with("blk0 has 4 requests"), "{text}");
    // It answers what it has taken, and takes nothing more.
    offer_read(&mut driver, 9, 512);
    device.on_kick(0);
    held.end(3, fine);
    device.on_source();
    assert_eq!((driver.used(0).len(), held.count()), (3, 1));
    let long = Deadline::within(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let quiet = scope.spawn(|| device.drain(long));
        held.end(1, fine);
        device.on_source();
        quiet.join().unwrap().unwrap();
    });
    device.park();
    let state = device.save();
    assert_eq!(state.transport.queues[0].next_avail, 4);
    assert_eq!(state.transport.queues[0].next_used, 4);
    // The device takes the rest when it continues.
    device.unpark();
    device.on_kick(0);
    assert_eq!(held.count(), 1);
}

#[test]
fn a_ring_that_breaks_keeps_nobody_waiting() {
    let held = Held::new();
    let (device, mut driver) = live(&held, 2);
    // A chain that leaves its table.
    driver.offer_raw(0, &[descriptor(BUFFERS, 32, 3, 999)], 6);
    device.on_kick(0);
    assert_ne!(status(&device) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    device.quiesce();
    held.end(2, fine);
    device.on_source();
    device.drain(Deadline::within(Duration::ZERO)).unwrap();
    assert!(driver.used(0).is_empty());
}

/// Both backends, for real.
#[test]
fn many_writes_at_a_time_are_read_back() {
    for io in [IoMode::Uring, IoMode::Thread] {
        for direct in [false, true] {
            let image = image();
            image.as_file().set_len(1 << 20).unwrap();
            let opened = Block::open(
                &DiskSpec {
                    io,
                    direct,
                    ..spec(&image)
                },
                String::new(),
            );
            let mut block = match opened {
                Ok(block) => block,
                // Not every file system and kernel of a build machine supports both.
                Err(error) if direct || io == IoMode::Uring => {
                    println!("{io:?}, direct {direct}: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            block.start().unwrap();
            for round in 0..8u8 {
                let mut driver = Driver::new(1);
                let headers = (0..14).map(|number| header(VIRTIO_BLK_T_OUT, number * 8));
                for (number, header) in (0u8..).zip(headers) {
                    let data = [round * 16 + number; 4096];
                    driver.offer(
                        0,
                        &[Buffer::Says(&header), Buffer::Says(&data), Buffer::Room(1)],
                    );
                    // There are few buffers: each has to be taken before the next one is put there.
                    driver.serve(&mut block, 0).unwrap();
                }
                serve(&mut driver, &mut block).unwrap();
                assert_eq!(driver.used(0).len(), 14);
            }
            for number in 0..14u64 {
                let mut driver = Driver::new(1);
                offer_read(&mut driver, number * 8, 4096);
                serve(&mut driver, &mut block).unwrap();
                assert_eq!(driver.bytes(0, 1, 4096), [7 * 16 + number as u8; 4096]);
            }
            let flushed = request(&mut block, VIRTIO_BLK_T_FLUSH, 0, Buffer::Room(0));
            assert_eq!(flushed.0, OK);
        }
    }
}
