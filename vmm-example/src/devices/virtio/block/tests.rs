//! A disk's requests on a test driver's ring.

mod at_rest;
mod backends;
mod fuzz;
mod held;
mod in_flight;

use std::io::Write;
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk::*;

use super::*;
use crate::devices::virtio::testing::{Buffer, Driver, survives_nonsense};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// A disk of 8 sectors; each byte is its sector's number.
fn image() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..8 {
        file.write_all(&[sector; SECTOR as usize]).unwrap();
    }
    file
}

fn spec(image: &tempfile::NamedTempFile) -> DiskSpec {
    DiskSpec {
        path: image.path().into(),
        ..DiskSpec::default()
    }
}

fn started(spec: &DiskSpec) -> Block {
    let mut block = Block::open(spec, "disk-id".into()).unwrap();
    block.start().unwrap();
    block
}

fn disk(image: &tempfile::NamedTempFile, readonly: bool) -> Block {
    started(&DiskSpec {
        readonly,
        ..spec(image)
    })
}

/// Serves the ring until nothing is in flight.
fn serve(driver: &mut Driver, block: &mut Block) -> Result<(), RingError> {
    driver.serve(block, 0)?;
    while block.in_flight() > 0 {
        wait(block);
        driver.with(|rings| block.serve_source(rings))?;
    }
    Ok(())
}

/// Waits until the host reports a finished job.
fn wait(block: &Block) {
    use rustix::event::{PollFd, PollFlags, poll};
    let event = block.source().unwrap();
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit));
    assert_eq!(ready.unwrap(), 1, "no job is over");
    rustix::io::read(event, &mut [0; 8]).unwrap();
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// Carries out a request with header, data and status; returns the status and the used length.
fn request(block: &mut Block, kind: u32, sector: u64, data: Buffer<'_>) -> (u8, u32) {
    let mut driver = Driver::new(1);
    let header = header(kind, sector);
    driver.offer(0, &[Buffer::Says(&header), data, Buffer::Room(1)]);
    serve(&mut driver, block).unwrap();
    let used = driver.used(0);
    assert_eq!((used.len(), used[0].0), (1, 0));
    (driver.bytes(0, 2, 1)[0], used[0].1)
}

#[test]
fn sectors_are_read_and_written() {
    let image = image();
    let mut block = disk(&image, false);
    let mut driver = Driver::new(1);
    let header = header(VIRTIO_BLK_T_IN, 3);
    driver.offer(
        0,
        &[Buffer::Says(&header), Buffer::Room(1024), Buffer::Room(1)],
    );
    serve(&mut driver, &mut block).unwrap();
    let data = driver.bytes(0, 1, 1024);
    assert_eq!((data[0], data[511], data[512], data[1023]), (3, 3, 4, 4));
    assert_eq!(driver.used(0), [(0, 1025)]);
    assert_eq!(driver.interrupt.status(), 1);

    let new = [0xab; 512];
    let written = request(&mut block, VIRTIO_BLK_T_OUT, 7, Buffer::Says(&new));
    assert_eq!(written, (OK, 1));
    let mut back = [0; 512];
    image.as_file().read_exact_at(&mut back, 7 * 512).unwrap();
    assert_eq!(back, new);
    let flushed = request(&mut block, VIRTIO_BLK_T_FLUSH, 0, Buffer::Room(0));
    assert_eq!(flushed.0, OK);
}

#[test]
fn what_is_not_on_the_disk_fails() {
    let image = image();
    let mut block = disk(&image, false);
    for (sector, len) in [
        (8, 512),
        (7, 1024),
        (u64::MAX, 512),
        (1 << 55, 512),
        (0, 100),
    ] {
        let read = request(&mut block, VIRTIO_BLK_T_IN, sector, Buffer::Room(len));
        assert_eq!(read, (IOERR, 1), "sector {sector}, {len} bytes");
    }
    let odd = request(&mut block, 999, 0, Buffer::Room(512));
    assert_eq!(odd.0, UNSUPP);
}

#[test]
fn a_disk_that_is_only_read_is_not_written() {
    let image = image();
    let mut block = disk(&image, true);
    assert_ne!(block.features() & bits(&[VIRTIO_BLK_F_RO]), 0);
    let data = [1; 512];
    let write = request(&mut block, VIRTIO_BLK_T_OUT, 0, Buffer::Says(&data));
    assert_eq!(write.0, IOERR);
    assert_eq!(image.as_file().metadata().unwrap().len(), 4096);
}

#[test]
fn ranges_are_cleared() {
    let image = image();
    let mut block = disk(&image, false);
    let mut segment = 2u64.to_le_bytes().to_vec();
    segment.extend(3u32.to_le_bytes());
    segment.extend([0; 4]);
    let data = Buffer::Says(&segment);
    assert_eq!(
        request(&mut block, VIRTIO_BLK_T_WRITE_ZEROES, 0, data).0,
        OK
    );
    let mut sectors = [0; 4096];
    image.as_file().read_exact_at(&mut sectors, 0).unwrap();
    assert_eq!((sectors[1023], sectors[1024], sectors[2559]), (1, 0, 0));
    assert_eq!(sectors[2560], 5);
    assert_eq!(request(&mut block, VIRTIO_BLK_T_DISCARD, 0, data).0, OK);
    segment[0] = 7;
    let beyond = Buffer::Says(&segment);
    assert_eq!(
        request(&mut block, VIRTIO_BLK_T_DISCARD, 0, beyond).0,
        IOERR
    );
    let short = Buffer::Says(&segment[..8]);
    assert_eq!(
        request(&mut block, VIRTIO_BLK_T_DISCARD, 0, short).0,
        UNSUPP
    );
}

#[test]
fn the_id_is_reported() {
    let image = image();
    let mut block = disk(&image, false);
    let mut driver = Driver::new(1);
    let header = header(VIRTIO_BLK_T_GET_ID, 0);
    driver.offer(
        0,
        &[Buffer::Says(&header), Buffer::Room(20), Buffer::Room(1)],
    );
    serve(&mut driver, &mut block).unwrap();
    assert_eq!(&driver.bytes(0, 1, 20)[..8], b"disk-id\0");
}

#[test]
fn a_request_without_a_status_breaks_the_device() {
    let image = image();
    let mut block = disk(&image, false);
    let mut driver = Driver::new(1);
    driver.offer(0, &[Buffer::Says(&header(VIRTIO_BLK_T_IN, 0))]);
    let served = driver.serve(&mut block, 0);
    assert!(matches!(served, Err(RingError::Incomplete)), "{served:?}");
    assert!(driver.used(0).is_empty());
}

#[test]
fn a_header_that_is_cut_fails_the_request() {
    let image = image();
    let mut block = disk(&image, false);
    let mut driver = Driver::new(1);
    driver.offer(0, &[Buffer::Says(&[0; 15]), Buffer::Room(1)]);
    serve(&mut driver, &mut block).unwrap();
    assert_eq!(driver.bytes(0, 1, 1), [IOERR]);
}

#[test]
fn nonsense_is_survived() {
    let image = image();
    survives_nonsense(&mut disk(&image, false), 1);
    let len = image.as_file().metadata().unwrap().len();
    assert_eq!(len, 4096, "a guest made the disk larger");
}

#[test]
fn a_disk_is_opened_again_as_it_was() {
    let image = image();
    let block = disk(&image, false);
    let DeviceStateV1::Block(state) = block.state() else {
        panic!("not a disk's state");
    };
    let busy = Block::reopen(&state).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    drop(block);
    let again = Block::reopen(&state).unwrap();
    assert_eq!(again.state(), DeviceStateV1::Block(state.clone()));
    drop(again);
    image.as_file().set_len(1024).unwrap();
    let error = Block::reopen(&state).unwrap_err().to_string();
    assert!(error.contains("2 sectors"), "{error}");
}

#[test]
fn a_disk_that_has_gone_blocks_an_update() {
    let image = image();
    let block = disk(&image, false);
    assert!(!block.findings(false).iter().any(Finding::is_blocker));
    std::fs::remove_file(image.path()).unwrap();
    assert!(block.findings(false).iter().any(Finding::is_blocker));
}
