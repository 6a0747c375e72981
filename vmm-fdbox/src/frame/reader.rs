//! Reading a frame: everything is checked before anything is used.

use serde::de::DeserializeOwned;

use super::description::{unreadable, wrong_architecture};
use super::known::KnownSection;
use super::layout::{Entry, Header};
use super::{CborError, FrameError, Need};
use crate::finding::Finding;

/// A section as described by the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether a reader must know it.
    pub need: Need,
    /// Its payload's length in bytes.
    pub bytes: usize,
}

/// A frame whose header, table and checksums have been verified.
///
/// `B` holds the bytes: a slice, or a `Vec<u8>` to own them.
#[derive(Debug, Clone)]
pub struct Frame<B> {
    bytes: B,
    header: Header,
    entries: Vec<Entry>,
}

impl<B: AsRef<[u8]>> Frame<B> {
    /// Verifies a frame at the start of `bytes`; what follows it is ignored.
    ///
    /// # Errors
    /// [`FrameError`] distinguishes a missing frame, an incomplete one, one of another format, and
    /// a corrupt one.
    pub fn parse(bytes: B) -> Result<Self, FrameError> {
        let frame = bytes.as_ref();
        let header = Header::decode(frame)?;
        let table = &frame[header.table_at..header.frame_bytes];
        let mut entries: Vec<Entry> = Vec::with_capacity(header.sections);
        for raw in table.chunks_exact(header.entry_bytes) {
            let entry = Entry::decode(raw, &header)?;
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(FrameError::DuplicateSection { name: entry.name });
            }
            if crc32fast::hash(&frame[entry.at..entry.at + entry.bytes]) != entry.checksum {
                return Err(FrameError::BadSectionChecksum { name: entry.name });
            }
            entries.push(entry);
        }
        Ok(Self {
            bytes,
            header,
            entries,
        })
    }

    /// The architecture of the writer, in the notation of Rust and Linux: `x86_64`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.header.architecture
    }

    /// The program that wrote the frame, and its version.
    #[must_use]
    pub fn producer(&self) -> &str {
        &self.header.producer
    }

    /// How often this state has been written.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.header.generation
    }

    /// The format, as major and minor version.
    #[must_use]
    pub fn format(&self) -> (u16, u16) {
        (super::FORMAT_MAJOR, self.header.minor)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn size(&self) -> usize {
        self.header.frame_bytes
    }

    /// The sections in the table.
    pub fn sections(&self) -> impl Iterator<Item = Section> + '_ {
        self.entries.iter().map(|entry| Section {
            name: entry.name.clone(),
            version: entry.version,
            need: entry.need,
            bytes: entry.bytes,
        })
    }

    /// Whether a program that knows `known` can resume from this frame. Uses the table only, so a
    /// new binary can be checked before anything is paused.
    ///
    /// # Errors
    /// One blocker per required section that is unknown or has an unknown version, and one for
    /// another architecture.
    pub fn check(&self, known: &[KnownSection]) -> Result<(), Vec<Finding>> {
        let mut blockers: Vec<_> = wrong_architecture(self.architecture())
            .into_iter()
            .collect();
        let required = self
            .entries
            .iter()
            .filter(|entry| entry.need == Need::Required);
        blockers
            .extend(required.filter_map(|entry| {
                unreadable(&entry.name, entry.version, self.producer(), known)
            }));
        if blockers.is_empty() {
            Ok(())
        } else {
            Err(blockers)
        }
    }

    /// A section's version, if it exists.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<u32> {
        self.entry(name).map(|entry| entry.version)
    }

    /// A section's payload, if it exists.
    #[must_use]
    pub fn payload(&self, name: &str) -> Option<&[u8]> {
        let entry = self.entry(name)?;
        self.bytes.as_ref().get(entry.at..entry.at + entry.bytes)
    }

    /// Decodes a section.
    ///
    /// # Errors
    /// [`FrameError::MissingSection`], [`FrameError::Decode`] or
    /// [`FrameError::TrailingBytes`].
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, FrameError> {
        let missing = || FrameError::MissingSection {
            name: name.to_owned(),
        };
        let mut rest = self.payload(name).ok_or_else(missing)?;
        let value = ciborium::from_reader(&mut rest).map_err(|error| FrameError::Decode {
            name: name.to_owned(),
            source: CborError::new(error),
        })?;
        if rest.is_empty() {
            Ok(value)
        } else {
            Err(FrameError::TrailingBytes {
                name: name.to_owned(),
                bytes: rest.len(),
            })
        }
    }

    /// Decodes a section that may be missing, or have a version that the program does not know: a
    /// writer that depends on it marks it required, and [`check`](Self::check) then reports it.
    ///
    /// # Errors
    /// As for [`read`](Self::read), except for a missing section.
    pub fn read_optional<T: DeserializeOwned>(
        &self,
        known: KnownSection,
    ) -> Result<Option<T>, FrameError> {
        match self.version(known.name) {
            Some(version) if (known.oldest..=known.newest).contains(&version) => {
                self.read(known.name).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}
