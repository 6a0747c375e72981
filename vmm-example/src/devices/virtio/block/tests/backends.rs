//! The real backends: io_uring and a thread.

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
