//! The real backends: io_uring and a thread.

use super::super::flight::MAX_REQUESTS;
use super::held::offer_read;
use super::*;

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

/// Whether the host has reported a finished job.
fn is_reported(block: &Block) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let (event, now) = (block.source().unwrap(), Timespec::default());
    poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&now)).unwrap() > 0
}

#[test]
fn reads_from_the_page_cache_are_answered_without_an_event() {
    let image = image();
    let uring = DiskSpec {
        io: IoMode::Uring,
        ..spec(&image)
    };
    let Ok(mut block) = Block::open(&uring, String::new()) else {
        return println!("there is no io_uring here");
    };
    let mut driver = Driver::new(1);
    let reads = MAX_REQUESTS + 5;
    for number in 0..reads as u64 {
        offer_read(&mut driver, number % 8, 512);
    }
    driver.serve(&mut block, 0).unwrap();
    assert_eq!((driver.used(0).len(), block.in_flight()), (reads, 0));
    assert!(!is_reported(&block), "the thread would wake up for nothing");
}

#[test]
fn a_read_beyond_the_end_of_a_disk_that_has_shrunk_fails() {
    for io in [IoMode::Uring, IoMode::Thread] {
        let image = image();
        let Ok(mut block) = Block::open(&DiskSpec { io, ..spec(&image) }, String::new()) else {
            continue;
        };
        block.start().unwrap();
        image.as_file().set_len(5 * SECTOR + 100).unwrap();
        let read = |block: &mut Block, sector| {
            request(block, VIRTIO_BLK_T_IN, sector, Buffer::Room(512)).0
        };
        assert_eq!(read(&mut block, 4), OK);
        assert_eq!(read(&mut block, 5), IOERR);
        assert_eq!(read(&mut block, 6), IOERR);
    }
}
