//! The requests of a disk (virtio specification, 5.2.6).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::{Reader, Writer};

use super::super::counters::Counters;
use super::super::ring::{Request, RingError};
use super::{MAX_DISCARD_SECTORS, SECTOR};

/// Bytes that go through the VMM at a time.
const CHUNK: usize = 128 << 10;

/// Why a request failed, as the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum RequestError {
    Io = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

impl From<io::Error> for RequestError {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// The disk's file and what the guest knows of it.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    sectors: u64,
    readonly: bool,
    /// The driver does not flush: what it is told was written must be safe.
    write_through: bool,
    buffer: Vec<u8>,
}

/// A request's first 16 bytes.
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn read(from: &mut Reader<'_>) -> Result<Self, RequestError> {
        let mut bytes = [0; 16];
        from.read_exact(&mut bytes)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = bytes;
        Ok(Self {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes(sector),
        })
    }
}

impl Disk {
    pub(super) fn new(file: File, sectors: u64, readonly: bool) -> Self {
        Self {
            file,
            sectors,
            readonly,
            write_through: false,
            buffer: vec![0; CHUNK],
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(super) fn is_readonly(&self) -> bool {
        self.readonly
    }

    pub(super) fn write_through(&mut self, on: bool) {
        self.write_through = on;
    }

    /// Carries out a request and returns how many bytes of it were written.
    pub(super) fn answer(
        &mut self,
        request: &mut Request<'_>,
        id: &str,
        counters: &Counters,
    ) -> Result<usize, RingError> {
        let output = &mut request.output;
        // The status is the last byte. Without one there is no way to answer.
        let status_at = output.available_bytes().checked_sub(1);
        let mut status = output
            .split_at(status_at.ok_or(RingError::Incomplete)?)
            .map_err(|_| RingError::BrokenChain)?;
        let done = self.execute(&mut request.input, output, id);
        let byte = match done {
            Ok(bytes) => {
                counters.bytes(bytes);
                VIRTIO_BLK_S_OK as u8
            }
            Err(failure) => {
                counters.error();
                failure as u8
            }
        };
        status
            .write_all(&[byte])
            .map_err(|_| RingError::BrokenChain)?;
        Ok(output.bytes_written() + 1)
    }

    /// Returns how many bytes of data it moved.
    fn execute(
        &mut self,
        input: &mut Reader<'_>,
        output: &mut Writer<'_>,
        id: &str,
    ) -> Result<usize, RequestError> {
        let header = Header::read(input)?;
        match header.kind {
            VIRTIO_BLK_T_IN => self.read(header.sector, output),
            VIRTIO_BLK_T_OUT => {
                let done = self.write(header.sector, input)?;
                self.settle(done)
            }
            VIRTIO_BLK_T_FLUSH => Ok(self.file.sync_data().map(|()| 0)?),
            VIRTIO_BLK_T_GET_ID => get_id(id, output),
            VIRTIO_BLK_T_DISCARD => self.clear(input, true),
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let done = self.clear(input, false)?;
                self.settle(done)
            }
            _ => Err(RequestError::Unsupported),
        }
    }

    /// Makes a write safe that nobody flushes (5.2.6.2).
    fn settle(&self, done: usize) -> Result<usize, RequestError> {
        if self.write_through {
            self.file.sync_data()?;
        }
        Ok(done)
    }

    /// Where so many bytes from a sector on lie, if all of them are on the disk.
    fn place(&self, sector: u64, bytes: usize) -> Result<u64, RequestError> {
        let bytes = bytes as u64;
        let end = bytes.div_ceil(SECTOR).checked_add(sector);
        if bytes.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.sectors) {
            Ok(sector * SECTOR)
        } else {
            Err(RequestError::Io)
        }
    }

    fn read(&mut self, sector: u64, output: &mut Writer<'_>) -> Result<usize, RequestError> {
        let total = output.available_bytes();
        let mut at = self.place(sector, total)?;
        let mut left = total;
        while left > 0 {
            let chunk = &mut self.buffer[..left.min(CHUNK)];
            self.file.read_exact_at(chunk, at)?;
            output.write_all(chunk)?;
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(total)
    }

    fn write(&mut self, sector: u64, input: &mut Reader<'_>) -> Result<usize, RequestError> {
        if self.readonly {
            return Err(RequestError::Io);
        }
        let total = input.available_bytes();
        let mut at = self.place(sector, total)?;
        let mut left = total;
        while left > 0 {
            let chunk = &mut self.buffer[..left.min(CHUNK)];
            input.read_exact(chunk)?;
            self.file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(total)
    }

    /// Discards a range (its content is then anything) or makes it zeroes.
    fn clear(&mut self, input: &mut Reader<'_>, discard: bool) -> Result<usize, RequestError> {
        let mut segment = [0; 16];
        // The configuration says: one segment at a time.
        if input.available_bytes() != segment.len() {
            return Err(RequestError::Unsupported);
        }
        input.read_exact(&mut segment)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        let allowed = if discard {
            0
        } else {
            VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
        };
        if flags & !allowed != 0 {
            return Err(RequestError::Unsupported);
        }
        if self.readonly || count > MAX_DISCARD_SECTORS {
            return Err(RequestError::Io);
        }
        let bytes = count as usize * SECTOR as usize;
        let at = self.place(sector, bytes)?;
        let punch = discard || flags != 0;
        match (self.deallocate(at, bytes as u64, punch), discard) {
            (Ok(()), _) => Ok(0),
            // A discard is a hint: what cannot be given back stays.
            (Err(Errno::OPNOTSUPP), true) => Ok(0),
            (Err(Errno::OPNOTSUPP), false) => self.write_zeroes(at, bytes),
            (Err(_), _) => Err(RequestError::Io),
        }
    }

    fn deallocate(&self, at: u64, bytes: u64, punch: bool) -> Result<(), Errno> {
        let mode = if punch {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match bytes {
            0 => Ok(()),
            _ => fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, at, bytes),
        }
    }

    fn write_zeroes(&mut self, mut at: u64, bytes: usize) -> Result<usize, RequestError> {
        self.buffer.fill(0);
        let mut left = bytes;
        while left > 0 {
            let chunk = &self.buffer[..left.min(CHUNK)];
            self.file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(0)
    }
}

/// The disk's name, cut or filled up with zeroes.
fn get_id(id: &str, output: &mut Writer<'_>) -> Result<usize, RequestError> {
    let mut bytes = id.as_bytes().to_vec();
    bytes.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
    let room = output.available_bytes().min(bytes.len());
    output.write_all(&bytes[..room])?;
    Ok(0)
}
