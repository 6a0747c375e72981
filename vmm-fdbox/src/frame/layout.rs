//! The bytes of header and table, without their interpretation.

use crate::bytes::{cut, put, text, u16_at, u32_at, u64_at};

use super::{ENTRY_BYTES, FORMAT_MAJOR, FORMAT_MINOR, FrameError, HEADER_BYTES, Need};
use super::{MAX_FRAME_BYTES, MAX_PRODUCER_BYTES, MAX_SECTION_NAME_BYTES, MAX_SECTIONS};

pub(super) const MAGIC: [u8; 8] = *b"FDBXVMST";
const COMPLETE: u32 = u32::from_le_bytes(*b"DONE");
const FLAG_REQUIRED: u32 = 1;
const ARCHITECTURE_BYTES: usize = 16;
/// The position of the checksum, and so the length of the part of the header that it covers.
const CHECKSUM_AT: usize = 124;

#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) minor: u16,
    pub(super) header_bytes: usize,
    pub(super) architecture: String,
    pub(super) producer: String,
    pub(super) generation: u64,
    pub(super) table_at: usize,
    pub(super) frame_bytes: usize,
    pub(super) sections: usize,
    pub(super) entry_bytes: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) need: Need,
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) checksum: u32,
}

/// A u64 that must not exceed a bound.
fn bounded(
    bytes: &[u8],
    at: usize,
    at_most: usize,
    what: &'static str,
) -> Result<usize, FrameError> {
    let value = u64_at(bytes, at);
    match usize::try_from(value) {
        Ok(small) if small <= at_most => Ok(small),
        _ => Err(FrameError::BadLayout { what, value }),
    }
}

/// A u32 that must be within a range.
fn within(
    bytes: &[u8],
    at: usize,
    range: std::ops::RangeInclusive<usize>,
    what: &'static str,
) -> Result<usize, FrameError> {
    let value = u32_at(bytes, at);
    match usize::try_from(value) {
        Ok(size) if range.contains(&size) => Ok(size),
        _ => Err(FrameError::BadLayout {
            what,
            value: value.into(),
        }),
    }
}

/// The length of the frame as given in `header`; only checks that `header` is long enough. For
/// reading no more than the frame.
pub(crate) fn announced_bytes(header: &[u8]) -> usize {
    let announced = header.get(96..104).map_or(0, |bytes| u64_at(bytes, 0));
    usize::try_from(announced)
        .unwrap_or(usize::MAX)
        .max(HEADER_BYTES)
}

pub(super) fn is_section_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
    (1..=MAX_SECTION_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

impl Header {
    pub(super) fn encode(&self, table: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &FORMAT_MAJOR.to_le_bytes());
        put(&mut bytes, 10, &FORMAT_MINOR.to_le_bytes());
        put(&mut bytes, 12, &(HEADER_BYTES as u32).to_le_bytes());
        put(
            &mut bytes,
            16,
            cut(&self.architecture, ARCHITECTURE_BYTES).as_bytes(),
        );
        put(
            &mut bytes,
            32,
            cut(&self.producer, MAX_PRODUCER_BYTES).as_bytes(),
        );
        put(&mut bytes, 80, &self.generation.to_le_bytes());
        put(&mut bytes, 88, &(self.table_at as u64).to_le_bytes());
        put(&mut bytes, 96, &(self.frame_bytes as u64).to_le_bytes());
        put(&mut bytes, 104, &(self.sections as u32).to_le_bytes());
        put(&mut bytes, 108, &(self.entry_bytes as u32).to_le_bytes());
        put(&mut bytes, 120, &COMPLETE.to_le_bytes());
        let checksum = header_checksum(&bytes, table);
        put(&mut bytes, CHECKSUM_AT, &checksum.to_le_bytes());
        bytes
    }

    /// Reads a header and checks everything except the payloads.
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        if frame.len() < HEADER_BYTES {
            let value = frame.len() as u64;
            return Err(FrameError::BadLayout {
                what: "the number of bytes",
                value,
            });
        }
        if frame[..HEADER_BYTES].iter().all(|&b| b == 0) {
            return Err(FrameError::Empty);
        }
        if frame[..8] == [0; 8] {
            return Err(FrameError::Incomplete);
        }
        if frame[..8] != MAGIC {
            return Err(FrameError::BadMagic);
        }
        let major = u16_at(frame, 8);
        let minor = u16_at(frame, 10);
        if major != FORMAT_MAJOR {
            return Err(FrameError::UnknownFormat { major, minor });
        }
        if u32_at(frame, 120) != COMPLETE {
            return Err(FrameError::Incomplete);
        }
        let header = Self::decode_lengths(frame, minor)?;
        let table = &frame[header.table_at..header.frame_bytes];
        let found = u32_at(frame, CHECKSUM_AT);
        let computed = header_checksum(frame, table);
        if found != computed {
            return Err(FrameError::BadHeaderChecksum { found, computed });
        }
        Ok(header)
    }

    fn decode_lengths(frame: &[u8], minor: u16) -> Result<Self, FrameError> {
        let most = frame.len().min(MAX_FRAME_BYTES);
        let header_bytes = within(frame, 12, HEADER_BYTES..=4096, "the header's size")?;
        let frame_bytes = bounded(frame, 96, most, "the frame's size")?;
        let table_at = bounded(frame, 88, frame_bytes, "the table's offset")?;
        let sections = within(frame, 104, 0..=MAX_SECTIONS, "the number of sections")?;
        let entry_bytes = within(frame, 108, ENTRY_BYTES..=4096, "the size of a table entry")?;
        if table_at < header_bytes {
            let value = table_at as u64;
            return Err(FrameError::BadLayout {
                what: "the table's offset",
                value,
            });
        }
        if frame_bytes - table_at != sections * entry_bytes {
            let value = (frame_bytes - table_at) as u64;
            return Err(FrameError::BadLayout {
                what: "the table's size",
                value,
            });
        }
        Ok(Self {
            minor,
            header_bytes,
            architecture: text(&frame[16..32]),
            producer: text(&frame[32..80]),
            generation: u64_at(frame, 80),
            table_at,
            frame_bytes,
            sections,
            entry_bytes,
        })
    }
}

fn header_checksum(header: &[u8], table: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..CHECKSUM_AT]);
    crc.update(table);
    crc.finalize()
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let flags = if self.need == Need::Required {
            FLAG_REQUIRED
        } else {
            0
        };
        put(&mut bytes, 0, self.name.as_bytes());
        put(&mut bytes, 32, &self.version.to_le_bytes());
        put(&mut bytes, 36, &flags.to_le_bytes());
        put(&mut bytes, 40, &(self.at as u64).to_le_bytes());
        put(&mut bytes, 48, &(self.bytes as u64).to_le_bytes());
        put(&mut bytes, 56, &self.checksum.to_le_bytes());
        bytes
    }

    /// Reads an entry, whose payload must be between header and table.
    pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Self, FrameError> {
        let name = text(&bytes[..MAX_SECTION_NAME_BYTES]);
        if !is_section_name(&name) {
            return Err(FrameError::BadSectionName {
                name: name.escape_debug().to_string(),
            });
        }
        let at = bounded(bytes, 40, header.table_at, "a section's offset")?;
        if at < header.header_bytes {
            return Err(FrameError::BadLayout {
                what: "a section's offset",
                value: at as u64,
            });
        }
        let length = bounded(bytes, 48, header.table_at - at, "a section's length")?;
        let required = u32_at(bytes, 36) & FLAG_REQUIRED != 0;
        Ok(Self {
            name,
            version: u32_at(bytes, 32),
            need: if required {
                Need::Required
            } else {
                Need::Optional
            },
            at,
            bytes: length,
            checksum: u32_at(bytes, 56),
        })
    }
}
