//! The block device: a disk in a file or on a block device of the host.
//!
//! Crosses an update: where the disk is and what the guest knows of it. Does not: its
//! content, which is the host's to keep, and requests, for all are answered before.
//!
//! The disk is a write-back cache to the guest: data is safe once a flush is answered.

mod request;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vmm_fdbox::Finding;

use super::device::{Device, bits};
use super::device_state::{BlockStateV1, DeviceStateV1};
use super::fd_names::DISK;
use super::kind::Kind;
use super::ring::{RingError, Rings};
use crate::files;
use request::Disk;

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// All of a ring but a request's header and its status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// The largest discard: 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// File systems that end with the kernel: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The live device.
#[derive(Debug)]
pub(super) struct Block {
    disk: Disk,
    path: PathBuf,
    id: String,
}

impl Block {
    /// Opens the disk of a new guest.
    pub(super) fn open(path: &Path, readonly: bool, id: String) -> io::Result<Self> {
        // Wherever the guest's next VMM is started.
        let path = path.canonicalize()?;
        let (file, sectors) = open(&path, readonly)?;
        Ok(Self {
            disk: Disk::new(file, sectors, readonly),
            path,
            id,
        })
    }

    /// Opens a disk again. It must be as large as the guest knows it, or larger.
    pub(super) fn reopen(state: &BlockStateV1) -> io::Result<Self> {
        let (file, found) = open(&state.path, state.readonly)?;
        Self::with(state, file, found)
    }

    /// Takes a disk that another process has open, with its lock.
    pub(super) fn inherit(state: &BlockStateV1, disk: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(disk);
        let found = sectors(&mut file)?;
        Self::with(state, file, found)
    }

    fn with(state: &BlockStateV1, file: File, found: u64) -> io::Result<Self> {
        if found < state.sectors {
            return Err(io::Error::other(format!(
                "it has {found} sectors, the guest's disk has {}",
                state.sectors
            )));
        }
        Ok(Self {
            disk: Disk::new(file, state.sectors, state.readonly),
            path: state.path.clone(),
            id: state.id.clone(),
        })
    }

    /// What becomes of the disk when the kernel ends, if it is not kept.
    fn volatile(&self) -> Option<Finding> {
        let file = self.disk.file();
        let in_file = !file.metadata().ok()?.file_type().is_block_device();
        let kind = rustix::fs::fstatfs(file).ok()?.f_type.cast_unsigned();
        (in_file && IN_MEMORY.contains(&kind)).then(|| {
            Finding::warning(
                "",
                format!(
                    "{} lies in memory, which no kexec keeps",
                    self.path.display()
                ),
                "have the next host put it there again, as it is now, or use a disk",
            )
        })
    }

    /// Whether the path leads somewhere else by now.
    fn moved(&self) -> Option<Finding> {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let opened = self.disk.file().metadata().map(identity);
        match (opened, self.path.metadata().map(identity)) {
            (Ok(opened), Ok(found)) if opened == found => None,
            // This process may not look: it has given that up.
            (_, Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => None,
            _ => Some(Finding::blocker(
                "",
                format!(
                    "{} is not the disk that the guest has open",
                    self.path.display()
                ),
                "put the disk back where it was: it is opened by its path again",
            )),
        }
    }
}

/// Opens a disk for this process alone and returns its sectors.
fn open(path: &Path, readonly: bool) -> io::Result<(File, u64)> {
    let mut file = files::disk(path, readonly)?;
    let lock = if readonly {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    if let Err(error) = flock(&file, lock) {
        let taken = error == rustix::io::Errno::WOULDBLOCK;
        return Err(match taken {
            true => io::Error::new(io::ErrorKind::ResourceBusy, "another process has it locked"),
            false => error.into(),
        });
    }
    let sectors = sectors(&mut file)?;
    Ok((file, sectors))
}

/// The length of a block device is where its end is, not in its inode.
fn sectors(file: &mut File) -> io::Result<u64> {
    Ok(file.seek(SeekFrom::End(0))? / SECTOR)
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        let common = bits(&[
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
        ]);
        common
            | if self.disk.is_readonly() {
                bits(&[VIRTIO_BLK_F_RO])
            } else {
                bits(&[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES])
            }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config`
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
        put(0, &self.disk.sectors().to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // One segment per discard and per zeroing, aligned to a sector.
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &1u32.to_le_bytes());
        put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }

    fn activate(&mut self, features: u64) {
        let flushes = features & bits(&[VIRTIO_BLK_F_FLUSH]) != 0;
        self.disk.write_through(!flushes);
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(ring) else {
            return Ok(());
        };
        ring.serve(|request| self.disk.answer(request, &self.id, counters))
    }

    /// Writes that the guest has not flushed yet are in the host's cache. The guest continues
    /// and relies on them: its disk must not lose its cache as if the power had failed.
    fn flush(&mut self) -> io::Result<()> {
        match self.disk.is_readonly() {
            true => Ok(()),
            false => self.disk.file().sync_data(),
        }
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Block(BlockStateV1 {
            path: self.path.clone(),
            readonly: self.disk.is_readonly(),
            sectors: self.disk.sectors(),
            id: self.id.clone(),
        })
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(vec![(DISK, self.disk.file().try_clone()?.into())])
    }

    fn findings(&self, carried: bool) -> Vec<Finding> {
        if carried {
            return Vec::new();
        }
        self.moved().into_iter().chain(self.volatile()).collect()
    }
}

#[cfg(test)]
mod tests;
