//! The block device: a disk in a file or on a block device of the host.
//!
//! Crosses an update: the path of the disk and what the guest knows about it. Does not cross: its
//! content, which the host keeps, and requests, because all that were taken have been answered.
//!
//! To the guest, the disk is a write-back cache: data is safe once a flush is answered.
//!
//! | module | content |
//! |---|---|
//! | `request` | what a request asks for |
//! | `flight` | requests that were taken and not answered yet |
//! | `backend` | what carries them out: io_uring, or a thread |
//! | `buffer` | memory for their data |

mod backend;
mod buffer;
mod flight;
mod request;
mod taken;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, fcntl_getfl, fcntl_setfl, flock};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vmm_fdbox::Finding;

use super::device::{Device, bits};
use super::device_state::{BlockStateV1, DeviceStateV1, IoMode};
use super::fd_names::DISK;
use super::kind::Kind;
use super::ring::{RingError, Rings};
use super::spec::DiskSpec;
use crate::files;
pub(super) use backend::reserve;
use backend::{Backend, ThreadBackend, UringBackend};
use buffer::Pool;
use flight::{Disk, Flight};
use request::Geometry;

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// All of a ring except a request's header and its status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// The largest discard: 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// File systems that end with the kernel: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

pub(super) const RINGS: &[u16] = &[QUEUE_SIZE];

pub(super) fn features(readonly: bool) -> u64 {
    let common = bits(&[
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_FLUSH,
    ]);
    common
        | match readonly {
            true => bits(&[VIRTIO_BLK_F_RO]),
            false => bits(&[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]),
        }
}

/// `struct virtio_blk_config`
pub(super) fn config(sectors: u64) -> Vec<u8> {
    let mut config = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
    put(0, &sectors.to_le_bytes());
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

/// How a disk is accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Access {
    readonly: bool,
    /// Bypasses the host's page cache.
    direct: bool,
    io: IoMode,
}

/// The live device.
#[derive(Debug)]
pub(super) struct Block {
    flight: Flight,
    disk: Disk,
    path: PathBuf,
    access: Access,
}

impl Block {
    /// Opens the disk of a new guest.
    pub(super) fn open(spec: &DiskSpec, id: String) -> io::Result<Self> {
        // Absolute, wherever the guest's next VMM is started.
        let path = spec.path.canonicalize()?;
        let access = Access {
            readonly: spec.readonly,
            direct: spec.direct,
            io: spec.io,
        };
        let (file, sectors) = open(&path, spec.readonly)?;
        Self::with(path, id, sectors, access, file)
    }

    /// Reopens a disk. It must be at least as large as the guest knows it.
    pub(super) fn reopen(state: &BlockStateV1) -> io::Result<Self> {
        let (file, found) = open(&state.path, state.readonly)?;
        Self::again(state, file, found)
    }

    /// Takes over a disk that another process has open, including its lock.
    pub(super) fn inherit(state: &BlockStateV1, disk: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(disk);
        let found = sectors(&mut file)?;
        Self::again(state, file, found)
    }

    fn again(state: &BlockStateV1, file: File, found: u64) -> io::Result<Self> {
        if found < state.sectors {
            return Err(io::Error::other(format!(
                "it has {found} sectors, the guest's disk has {}",
                state.sectors
            )));
        }
        let access = Access {
            readonly: state.readonly,
            direct: state.direct,
            io: state.io,
        };
        let (path, id) = (state.path.clone(), state.id.clone());
        Self::with(path, id, state.sectors, access, file)
    }

    fn with(
        path: PathBuf,
        id: String,
        sectors: u64,
        access: Access,
        file: File,
    ) -> io::Result<Self> {
        set_flags(&file, access.direct)?;
        if access.direct {
            check_direct(&file)?;
        }
        let geometry = Geometry {
            sectors,
            readonly: access.readonly,
        };
        Ok(Self {
            flight: Flight::new(choose(access.io, file)?),
            disk: Disk {
                geometry,
                id,
                write_through: false,
            },
            path,
            access,
        })
    }

    /// A disk whose requests are carried out by a test.
    #[cfg(test)]
    fn on(backend: Box<dyn Backend>, sectors: u64) -> Self {
        Self {
            flight: Flight::new(backend),
            disk: Disk {
                geometry: Geometry {
                    sectors,
                    readonly: false,
                },
                id: "test".into(),
                write_through: false,
            },
            path: PathBuf::new(),
            access: Access::default(),
        }
    }

    fn file(&self) -> &File {
        self.flight.backend().file()
    }

    /// What happens to the disk when the kernel ends, if it is lost.
    fn volatile(&self) -> Option<Finding> {
        let file = self.file();
        let in_file = !file.metadata().ok()?.file_type().is_block_device();
        let kind = rustix::fs::fstatfs(file).ok()?.f_type.cast_unsigned();
        (in_file && IN_MEMORY.contains(&kind)).then(|| {
            Finding::warning(
                "",
                format!("{} is in memory, which no kexec keeps", self.path.display()),
                "have the next host put it there again, as it is now, or use a disk",
            )
        })
    }

    /// Whether the path now leads somewhere else.
    fn moved(&self) -> Option<Finding> {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let opened = self.file().metadata().map(identity);
        match (opened, self.path.metadata().map(identity)) {
            (Ok(opened), Ok(found)) if opened == found => None,
            // This process has dropped the right to look.
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

/// Opens a disk exclusively and returns its number of sectors.
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

/// Selects what carries requests out: io_uring if it is available, unless the operator chose
/// otherwise.
fn choose(io: IoMode, file: File) -> io::Result<Box<dyn Backend>> {
    let uring = match io {
        IoMode::Thread => return Ok(Box::new(ThreadBackend::new(file)?)),
        IoMode::Auto | IoMode::Uring => UringBackend::new(&file),
    };
    match uring {
        Ok(uring) => Ok(Box::new(uring)),
        Err(_) if io == IoMode::Auto => Ok(Box::new(ThreadBackend::new(file)?)),
        Err(error) => {
            let what = format!("io=uring is not available here: {error}");
            Err(io::Error::new(error.kind(), what))
        }
    }
}

/// With O_NONBLOCK, io_uring would not wait for a block device. The flag is only for opening.
fn set_flags(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)? & !OFlags::NONBLOCK;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags).map_err(|error| match direct {
        true => io::Error::other(format!("direct=on is not available here: {error}")),
        false => error.into(),
    })
}

/// Reads a sector: some disks have larger ones.
fn check_direct(file: &File) -> io::Result<()> {
    let mut sector = Pool::default().take(SECTOR as usize);
    match file.read_at(sector.bytes_mut(), 0) {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::other(format!(
            "direct=on does not work with sectors of {SECTOR} bytes here: {error}"
        ))),
    }
}

/// For a block device the length is where it ends, not in its inode.
fn sectors(file: &mut File) -> io::Result<u64> {
    Ok(file.seek(SeekFrom::End(0))? / SECTOR)
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        features(self.access.readonly)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        RINGS
    }

    fn config(&self) -> Vec<u8> {
        config(self.disk.geometry.sectors)
    }

    fn activate(&mut self, features: u64) {
        let flushes = features & bits(&[VIRTIO_BLK_F_FLUSH]) != 0;
        self.disk.write_through = !flushes;
    }

    fn reset(&mut self) {
        self.flight.abandon();
    }

    fn start(&mut self) -> io::Result<()> {
        self.flight.start()
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        match rings.ring(ring) {
            Some(mut ring) => self.flight.serve(&mut ring, &self.disk, counters),
            None => Ok(()),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.flight.backend().event())
    }

    fn serve_source(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        self.settle(rings, true)?;
        self.serve(0, rings)
    }

    fn settle(&mut self, rings: &mut Rings<'_>, wanted: bool) -> Result<(), RingError> {
        let counters = rings.counters();
        let mut ring = rings.ring(0).filter(|_| wanted);
        self.flight.settle(ring.as_mut(), &self.disk, counters)
    }

    fn takes_time(&self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        self.flight.count()
    }

    fn io(&self) -> Option<&'static str> {
        Some(self.flight.backend().name())
    }

    /// Writes that the guest has not flushed yet are in the host's cache. The guest continues and
    /// relies on them: its disk must not lose its cache as in a power failure.
    fn unsynced(&self) -> io::Result<Option<File>> {
        match self.access.readonly {
            true => Ok(None),
            false => self.file().try_clone().map(Some),
        }
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Block(BlockStateV1 {
            path: self.path.clone(),
            readonly: self.access.readonly,
            sectors: self.disk.geometry.sectors,
            id: self.disk.id.clone(),
            direct: self.access.direct,
            io: self.access.io,
        })
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(vec![(DISK, self.file().try_clone()?.into())])
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
