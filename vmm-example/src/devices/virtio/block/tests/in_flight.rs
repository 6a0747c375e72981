//! Requests in flight: their number, and the outcome of each.

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::super::backend::Op;
use super::super::flight::{MAX_BYTES, MAX_JOB, MAX_REQUESTS};
use super::held::{Held, fine, offer_large, offer_read};
use super::*;
use crate::devices::virtio::testing::BUFFERS;

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
