//! Writing a frame.

use std::env::consts::ARCH;

use serde::Serialize;

use super::layout::{Entry, Header, is_section_name};
use super::{
    CborError, ENTRY_BYTES, FrameError, HEADER_BYTES, MAX_FRAME_BYTES, MAX_SECTIONS, Need,
};

/// Payloads start at multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// Writes a frame into a buffer of fixed size, the header last.
///
/// ```
/// use vmm_fdbox::frame::{Frame, FrameWriter, Need};
///
/// let mut buffer = vec![0; 4096];
/// let mut writer = FrameWriter::new(&mut buffer, "my-vmm 1.0")?;
/// writer.add("clock", 1, Need::Required, &[("tsc", 7u64)])?;
/// let bytes = writer.finish()?;
///
/// let frame = Frame::parse(&buffer[..bytes])?;
/// let clock: Vec<(String, u64)> = frame.read("clock")?;
/// assert_eq!(clock, [("tsc".to_owned(), 7)]);
/// # Ok::<(), vmm_fdbox::frame::FrameError>(())
/// ```
#[derive(Debug)]
pub struct FrameWriter<'a> {
    buffer: &'a mut [u8],
    end: usize,
    entries: Vec<Entry>,
    producer: String,
    architecture: String,
    generation: u64,
}

/// The size of a frame, for sizing a [`Plan`](crate::update::Plan): `fill` adds the sections that
/// it would add now. Leave room for what may grow until the pause.
///
/// ```
/// use vmm_fdbox::frame::{FrameError, Need, measure};
///
/// let bytes = measure::<FrameError>(|frame| frame.add("vcpus", 1, Need::Required, &vec![0u64; 100]))?;
/// assert!(bytes < 1024, "{bytes}");
/// # Ok::<(), FrameError>(())
/// ```
///
/// # Errors
/// Those of `fill`, or [`FrameError`].
pub fn measure<E: From<FrameError>>(
    fill: impl FnOnce(&mut FrameWriter<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    // Pages that are never written take no memory.
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    let mut writer = FrameWriter::new(&mut buffer, "")?;
    fill(&mut writer)?;
    Ok(writer.finish()?)
}

impl<'a> FrameWriter<'a> {
    /// Clears the header, so that `buffer` holds no frame until [`finish`](Self::finish).
    /// `producer` names the writing program and its version; it is truncated to 48 bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] if not even the header fits.
    pub fn new(buffer: &'a mut [u8], producer: &str) -> Result<Self, FrameError> {
        let capacity = buffer.len();
        let Some(header) = buffer.get_mut(..HEADER_BYTES) else {
            return Err(FrameError::TooLarge {
                needed: HEADER_BYTES,
                capacity,
            });
        };
        header.fill(0);
        Ok(Self {
            buffer,
            end: HEADER_BYTES,
            entries: Vec::new(),
            producer: producer.to_owned(),
            architecture: ARCH.to_owned(),
            generation: 1,
        })
    }

    /// Sets an architecture other than this program's.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Sets how often this state has been written, this time included.
    #[must_use]
    pub fn generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// Adds a section whose payload is `value` in CBOR.
    ///
    /// Derive `Serialize` on a struct with named fields: they become a map.
    ///
    /// # Errors
    /// A bad or repeated name, a value that CBOR cannot express, or not enough space.
    pub fn add<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        version: u32,
        need: Need,
        value: &T,
    ) -> Result<(), FrameError> {
        let mut payload = Vec::new();
        ciborium::into_writer(value, &mut payload).map_err(|error| FrameError::Encode {
            name: name.to_owned(),
            source: CborError::new(error),
        })?;
        self.add_bytes(name, version, need, &payload)
    }

    /// Adds a section with an arbitrary payload.
    ///
    /// # Errors
    /// A bad or repeated name, or not enough space.
    pub fn add_bytes(
        &mut self,
        name: &str,
        version: u32,
        need: Need,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        if !is_section_name(name) {
            return Err(FrameError::BadSectionName {
                name: name.escape_debug().to_string(),
            });
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(FrameError::DuplicateSection {
                name: name.to_owned(),
            });
        }
        if self.entries.len() == MAX_SECTIONS {
            return Err(FrameError::TooManySections);
        }
        let at = self.write(payload)?;
        self.entries.push(Entry {
            name: name.to_owned(),
            version,
            need,
            at,
            bytes: payload.len(),
            checksum: crc32fast::hash(payload),
        });
        Ok(())
    }

    /// Writes table and header and returns the length of the whole frame.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] if the table does not fit; the buffer then holds no frame.
    pub fn finish(mut self) -> Result<usize, FrameError> {
        let table: Vec<u8> = self.entries.iter().flat_map(Entry::encode).collect();
        let table_at = self.write(&table)?;
        let header = Header {
            minor: super::FORMAT_MINOR,
            header_bytes: HEADER_BYTES,
            architecture: self.architecture,
            producer: self.producer,
            generation: self.generation,
            table_at,
            frame_bytes: self.end,
            sections: self.entries.len(),
            entry_bytes: ENTRY_BYTES,
        };
        self.buffer[..HEADER_BYTES].copy_from_slice(&header.encode(&table));
        Ok(self.end)
    }

    /// Appends bytes, aligned, and returns their offset.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let at = self.end.next_multiple_of(ALIGNMENT);
        let capacity = self.buffer.len().min(MAX_FRAME_BYTES);
        let end = at.saturating_add(bytes.len());
        if end > capacity {
            return Err(FrameError::TooLarge {
                needed: end,
                capacity,
            });
        }
        self.buffer[self.end..at].fill(0);
        self.buffer[at..end].copy_from_slice(bytes);
        self.end = end;
        Ok(at)
    }
}
