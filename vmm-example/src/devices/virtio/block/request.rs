//! The requests of a disk (virtio specification, 5.2.6) and their answers.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::ring::{Chain, RingError, Span};
use super::{MAX_DISCARD_SECTORS, SECTOR};

/// The status of a request that the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    Io = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// The requested operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Reads from the disk into the output.
    Read {
        at: u64,
        len: u64,
    },
    /// Writes the input to the disk.
    Write {
        at: u64,
        len: u64,
    },
    /// Writes zeroes to the disk.
    Zero {
        at: u64,
        len: u64,
    },
    Flush,
    /// Discards the content of a range.
    Discard {
        at: u64,
        len: u64,
    },
    /// Makes a range read as zeroes, kept or returned.
    WriteZeroes {
        at: u64,
        len: u64,
        punch: bool,
    },
    Id,
}

impl Ask {
    /// The size of the data that it transfers.
    pub(super) fn data_len(self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } | Self::Zero { len, .. } => len,
            _ => 0,
        }
    }

    /// Whether it is about a range without any bytes.
    pub(super) fn is_nothing(self) -> bool {
        match self {
            Self::Read { len, .. }
            | Self::Write { len, .. }
            | Self::Zero { len, .. }
            | Self::Discard { len, .. }
            | Self::WriteZeroes { len, .. } => len == 0,
            Self::Flush | Self::Id => false,
        }
    }
}

/// The disk's properties known to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) sectors: u64,
    pub(super) readonly: bool,
}

/// A request without its header and its status.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: u16,
    pub(super) data: Vec<Span>,
    status_at: GuestAddress,
    pub(super) ask: Result<Ask, Status>,
}

const HEADER: usize = 16;

impl Request {
    /// Parses the request in a chain. Without a byte for the status it cannot be answered.
    pub(super) fn parse(
        mut chain: Chain,
        geometry: Geometry,
        memory: &GuestMemoryMmap,
    ) -> Result<Self, RingError> {
        let status_at = take_last(&mut chain.output).ok_or(RingError::Incomplete)?;
        let mut new = Self {
            head: chain.head,
            data: Vec::new(),
            status_at,
            ask: Err(Status::Io),
        };
        let mut header = [0; HEADER];
        if gather(memory, &chain.input, 0, &mut header)? < HEADER {
            return Ok(new);
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (
            u32::from_le_bytes([k0, k1, k2, k3]),
            u64::from_le_bytes(sector),
        );
        let input = behind(&chain.input, HEADER);
        new.ask = match kind {
            VIRTIO_BLK_T_IN => {
                let place = geometry.place(sector, total(&chain.output));
                place.map(|(at, len)| Ask::Read { at, len })
            }
            VIRTIO_BLK_T_OUT => {
                let place = geometry.writable_place(sector, total(&input));
                place.map(|(at, len)| Ask::Write { at, len })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Ask::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Ask::Id),
            VIRTIO_BLK_T_DISCARD => geometry.clear(memory, &input, true)?,
            VIRTIO_BLK_T_WRITE_ZEROES => geometry.clear(memory, &input, false)?,
            _ => Err(Status::Unsupported),
        };
        new.data = match kind {
            VIRTIO_BLK_T_OUT => input,
            _ => chain.output,
        };
        Ok(new)
    }

    /// Writes the status, the last byte.
    pub(super) fn tell(&self, status: Status, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        let written = memory.write_obj(status as u8, self.status_at);
        written.map_err(|_| RingError::BrokenChain)
    }
}

impl Geometry {
    /// The offset and length of a range, if all of it is on the disk.
    fn place(self, sector: u64, len: u64) -> Result<(u64, u64), Status> {
        let end = len.div_ceil(SECTOR).checked_add(sector);
        if len.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.sectors) {
            Ok((sector * SECTOR, len))
        } else {
            Err(Status::Io)
        }
    }

    fn writable_place(self, sector: u64, len: u64) -> Result<(u64, u64), Status> {
        match self.readonly {
            true => Err(Status::Io),
            false => self.place(sector, len),
        }
    }

    /// The range of a discard (its content is then arbitrary), or of a request to write zeroes.
    fn clear(
        self,
        memory: &GuestMemoryMmap,
        input: &[Span],
        discard: bool,
    ) -> Result<Result<Ask, Status>, RingError> {
        let mut segment = [0; 16];
        // The configuration space says: one segment at a time.
        if total(input) != segment.len() as u64 {
            return Ok(Err(Status::Unsupported));
        }
        gather(memory, input, 0, &mut segment)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        let allowed = match discard {
            true => 0,
            false => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
        };
        if flags & !allowed != 0 {
            return Ok(Err(Status::Unsupported));
        }
        if count > MAX_DISCARD_SECTORS {
            return Ok(Err(Status::Io));
        }
        let place = self.writable_place(sector, u64::from(count) * SECTOR);
        Ok(place.map(|(at, len)| match discard {
            true => Ask::Discard { at, len },
            false => Ask::WriteZeroes {
                at,
                len,
                punch: flags != 0,
            },
        }))
    }
}

/// Writes the disk's name, truncated or padded with zeroes; returns the number of bytes written.
pub(super) fn give_id(
    memory: &GuestMemoryMmap,
    id: &str,
    output: &[Span],
) -> Result<usize, RingError> {
    let mut bytes = id.as_bytes().to_vec();
    bytes.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
    scatter(memory, output, 0, &bytes)
}

pub(super) fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.len as u64).sum()
}

/// Removes the last byte of some spans.
fn take_last(spans: &mut Vec<Span>) -> Option<GuestAddress> {
    loop {
        let last = spans.last_mut()?;
        if let Some(len) = last.len.checked_sub(1) {
            last.len = len;
            return Some(GuestAddress(last.at.0 + len as u64));
        }
        spans.pop();
    }
}

/// The parts of some spans after `skip` bytes.
fn behind(spans: &[Span], mut skip: usize) -> Vec<Span> {
    let cut = |span: &Span| {
        let less = skip.min(span.len);
        skip -= less;
        Span {
            at: GuestAddress(span.at.0 + less as u64),
            len: span.len - less,
        }
    };
    spans.iter().map(cut).filter(|span| span.len > 0).collect()
}

/// Visits the parts of guest memory that contain this many bytes from an offset on, each with its
/// position among these bytes; returns their number.
fn visit(
    spans: &[Span],
    mut offset: u64,
    len: usize,
    mut each: impl FnMut(GuestAddress, std::ops::Range<usize>) -> Result<(), RingError>,
) -> Result<usize, RingError> {
    let mut done = 0;
    for span in spans {
        let skip = offset.min(span.len as u64);
        offset -= skip;
        let count = (span.len - skip as usize).min(len - done);
        if count > 0 {
            each(GuestAddress(span.at.0 + skip), done..done + count)?;
            done += count;
        }
    }
    Ok(done)
}

/// Reads from some spans, starting at an offset.
pub(super) fn gather(
    memory: &GuestMemoryMmap,
    spans: &[Span],
    offset: u64,
    to: &mut [u8],
) -> Result<usize, RingError> {
    visit(spans, offset, to.len(), |at, part| {
        let read = memory.read_slice(&mut to[part], at);
        read.map_err(|_| RingError::BrokenChain)
    })
}

/// Writes to some spans, starting at an offset.
pub(super) fn scatter(
    memory: &GuestMemoryMmap,
    spans: &[Span],
    offset: u64,
    from: &[u8],
) -> Result<usize, RingError> {
    visit(spans, offset, from.len(), |at, part| {
        let written = memory.write_slice(&from[part], at);
        written.map_err(|_| RingError::BrokenChain)
    })
}
