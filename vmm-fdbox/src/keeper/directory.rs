//! What a keeper records about a box for a later keeper, because LUO and the service manager know files only by number.
//!
//! The record is a separate memfd beside the box's files. Its fields have fixed widths and are
//! little-endian; docs/keeper-protocol.md has the layout.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::abi::{FDBOX_COMPATIBLE_LEN, FDBOX_NAME_LEN};
use crate::bytes::{array, text, text_into, u32_at};
use crate::name::{BoxName, FdName};
use crate::owner::Owner;

use super::entry::MAX_FDS;

/// The version of a directory.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"FDBOXDIR";
const NAME_AT: usize = 40;
const HEADER_BYTES: usize = NAME_AT + FDBOX_NAME_LEN;
const FD_BYTES: usize = 8 + FDBOX_NAME_LEN + FDBOX_COMPATIBLE_LEN;
/// The maximum size of a directory.
const MAX_BYTES: usize = HEADER_BYTES + MAX_FDS * FD_BYTES;

const CHECKSUM: std::ops::Range<usize> = 16..20;

/// A file of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its number in LUO.
    pub(super) token: u64,
    pub(super) name: FdName,
    pub(super) kind: String,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) name: BoxName,
    pub(super) owner: Owner,
    pub(super) fds: Vec<Listed>,
}

/// Why some bytes are not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DirectoryError {
    #[error("it is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("it is not what was written")]
    Damaged,
}

impl Directory {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.fds.len() * FD_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(count(self.fds.len()).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend([0; 4]);
        bytes.extend(self.owner.uid.to_le_bytes());
        bytes.extend(self.owner.gid.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.name.to_kernel());
        for fd in &self.fds {
            bytes.extend(fd.token.to_le_bytes());
            bytes.extend(fd.name.to_kernel());
            bytes.extend(text_into::<FDBOX_COMPATIBLE_LEN>(&fd.kind));
        }
        let checksum = crc32fast::hash(&bytes);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// A new memfd with it.
    pub(super) fn memfd(&self) -> Result<OwnedFd, Errno> {
        filled_memfd(&self.encode())
    }

    /// Reads what [`encode`](Self::encode) wrote. The bytes end where the directory does.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DirectoryError> {
        use DirectoryError::Damaged;
        let (header, table) = bytes.split_at_checked(HEADER_BYTES).ok_or(Damaged)?;
        if header[..8] != MAGIC {
            return Err(Damaged);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(DirectoryError::Version(version));
        }
        let mut copy = bytes.to_vec();
        copy[CHECKSUM].fill(0);
        let is_whole = crc32fast::hash(&copy) == u32_at(header, CHECKSUM.start);
        let fds = u32_at(header, 12) as usize;
        let reserved = [&header[20..24], &header[32..NAME_AT]].concat();
        let is_zero = reserved.iter().all(|byte| *byte == 0);
        if !is_whole || !is_zero || fds > MAX_FDS || table.len() != fds * FD_BYTES {
            return Err(Damaged);
        }
        let fds: Option<Vec<_>> = table.chunks_exact(FD_BYTES).map(listed).collect();
        Ok(Self {
            name: BoxName::from_kernel(&array(header, NAME_AT)).map_err(|_| Damaged)?,
            owner: Owner {
                uid: u32_at(header, 24),
                gid: u32_at(header, 28),
            },
            fds: fds.ok_or(Damaged)?,
        })
    }
}

/// The directory in a memfd, if it is one.
pub(super) fn read(memfd: BorrowedFd<'_>) -> Option<Directory> {
    let mut bytes = vec![0; MAX_BYTES + 1];
    let mut done = 0;
    loop {
        match rustix::io::pread(memfd, &mut bytes[done..], done as u64).ok()? {
            0 => break,
            more => done += more,
        }
    }
    Directory::decode(&bytes[..done]).ok()
}

pub(super) fn filled_memfd(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let memfd = memfd_create("vmm-fdbox-directory", MemfdFlags::CLOEXEC)?;
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(&memfd, &bytes[done..], done as u64)?;
    }
    Ok(memfd)
}

fn listed(bytes: &[u8]) -> Option<Listed> {
    let (token, rest) = bytes.split_first_chunk::<8>()?;
    let (name, kind) = rest.split_first_chunk::<FDBOX_NAME_LEN>()?;
    Some(Listed {
        token: u64::from_le_bytes(*token),
        name: FdName::from_kernel(name).ok()?,
        kind: text(kind),
    })
}

fn count(fds: usize) -> u32 {
    u32::try_from(fds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Directory {
        let fd = |token, name: &str| Listed {
            token,
            name: FdName::new(name).unwrap(),
            kind: "keeper,memfd-v1".into(),
        };
        Directory {
            name: BoxName::new("vm0").unwrap(),
            owner: Owner { uid: 990, gid: 991 },
            fds: vec![fd(1, "ram"), fd(2, "vm-state")],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = sample();
        assert_eq!(Directory::decode(&directory.encode()), Ok(directory));
    }

    /// Version 1 remains readable forever.
    #[test]
    fn the_golden_one_is_as_it_was() {
        let golden = include_bytes!("../../tests/golden/keeper-directory-v1.bin");
        assert_eq!(sample().encode(), golden);
    }

    #[test]
    fn no_byte_can_change_unnoticed() {
        let whole = sample().encode();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(Directory::decode(&bytes).is_err(), "byte {at}");
        }
        for len in 0..whole.len() {
            assert!(Directory::decode(&whole[..len]).is_err(), "{len} bytes");
        }
        let mut newer = whole;
        newer[8] = 2;
        assert_eq!(Directory::decode(&newer), Err(DirectoryError::Version(2)));
    }

    #[test]
    fn fuzz_directory() {
        crate::fuzz::run("directory", &[&sample().encode()], |input| {
            let mut sealed = input.to_vec();
            if let Some(checksum) = sealed.get_mut(CHECKSUM) {
                checksum.fill(0);
                let sum = crc32fast::hash(&sealed);
                sealed[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            }
            for bytes in [input, &sealed] {
                if let Ok(directory) = Directory::decode(bytes) {
                    assert_eq!(Directory::decode(&directory.encode()), Ok(directory));
                }
            }
        });
    }
}
