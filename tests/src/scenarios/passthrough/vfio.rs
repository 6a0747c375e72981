//! iommufd and VFIO, as far as the scenarios need them.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::uapi::{self, Plain};

/// `_IO(';', nr)`: both use this type, iommufd with numbers from 0x80, VFIO from 100.
const fn io(nr: u32) -> u32 {
    ((b';' as u32) << 8) | nr
}

const DESTROY: u32 = io(0x80);
const IOAS_ALLOC: u32 = io(0x81);
const IOAS_MAP: u32 = io(0x85);
const IOAS_UNMAP: u32 = io(0x86);
const IOAS_MAP_FILE: u32 = io(0x8f);
const DEVICE_GET_REGION_INFO: u32 = io(100 + 8);
const DEVICE_BIND_IOMMUFD: u32 = io(100 + 18);
const DEVICE_ATTACH_IOMMUFD_PT: u32 = io(100 + 19);

/// `IOMMU_IOAS_MAP_FIXED_IOVA`, `_WRITEABLE` and `_READABLE`.
const MAP_FLAGS: u32 = 1 | 2 | 4;

/// A region of a PCI device.
const BAR0: u32 = 0;
const CONFIG: u32 = 7;

#[derive(Clone, Copy)]
#[repr(C)]
struct Destroy {
    size: u32,
    id: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    /// `IOAS_MAP_FILE`: the file; `IOAS_MAP`: 0.
    fd: i32,
    /// `IOAS_MAP_FILE`: the offset in the file; `IOAS_MAP`: the address.
    start: u64,
    length: u64,
    iova: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct IoasUnmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Bind {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Attach {
    argsz: u32,
    flags: u32,
    pt_id: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

// SAFETY: integers without padding between them (the sizes are checked below).
unsafe impl Plain for Destroy {}
// SAFETY: as above.
unsafe impl Plain for IoasAlloc {}
// SAFETY: as above.
unsafe impl Plain for IoasMap {}
// SAFETY: as above.
unsafe impl Plain for IoasUnmap {}
// SAFETY: as above.
unsafe impl Plain for Bind {}
// SAFETY: as above.
unsafe impl Plain for Attach {}
// SAFETY: as above.
unsafe impl Plain for RegionInfo {}
const _: () = {
    assert!(size_of::<Destroy>() == 2 * 4);
    assert!(size_of::<IoasAlloc>() == 3 * 4);
    assert!(size_of::<IoasMap>() == 4 * 4 + 3 * 8);
    assert!(size_of::<IoasUnmap>() == 2 * 4 + 2 * 8);
    assert!(size_of::<Bind>() == 4 * 4);
    assert!(size_of::<Attach>() == 3 * 4);
    assert!(size_of::<RegionInfo>() == 4 * 4 + 2 * 8);
};

/// An iommufd.
#[derive(Debug)]
pub(crate) struct Iommufd(OwnedFd);

impl Iommufd {
    pub(crate) fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/iommu");
        Ok(Self(file.context("Open /dev/iommu")?.into()))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Another descriptor of the same iommufd.
    pub(crate) fn another(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Allocates an IOAS; returns its id.
    pub(crate) fn ioas(&self) -> Result<u32, Errno> {
        let mut alloc = IoasAlloc {
            size: size_of::<IoasAlloc>() as u32,
            flags: 0,
            out_ioas_id: 0,
        };
        uapi::call(&self.0, IOAS_ALLOC, &mut alloc)?;
        Ok(alloc.out_ioas_id)
    }

    /// Destroys an object.
    pub(crate) fn destroy(&self, id: u32) -> Result<(), Errno> {
        let mut destroy = Destroy {
            size: size_of::<Destroy>() as u32,
            id,
        };
        uapi::call(&self.0, DESTROY, &mut destroy).map(drop)
    }

    /// Maps the first `length` bytes of `file`.
    pub(crate) fn map(&self, ioas: u32, file: &File, length: u64, iova: u64) -> Result<(), Errno> {
        let mut map = IoasMap {
            size: size_of::<IoasMap>() as u32,
            flags: MAP_FLAGS,
            ioas_id: ioas,
            fd: file.as_raw_fd(),
            start: 0,
            length,
            iova,
        };
        uapi::call(&self.0, IOAS_MAP_FILE, &mut map).map(drop)
    }

    /// Maps memory of this process, which must not move.
    pub(crate) fn map_memory(&self, ioas: u32, memory: &[u8], iova: u64) -> Result<(), Errno> {
        let mut map = IoasMap {
            size: size_of::<IoasMap>() as u32,
            // Not writable: the device must not change what Rust considers constant.
            flags: 1 | 4,
            ioas_id: ioas,
            fd: 0,
            start: memory.as_ptr() as u64,
            length: memory.len() as u64,
            iova,
        };
        uapi::call(&self.0, IOAS_MAP, &mut map).map(drop)
    }

    pub(crate) fn unmap(&self, ioas: u32, iova: u64, length: u64) -> Result<(), Errno> {
        let mut unmap = IoasUnmap {
            size: size_of::<IoasUnmap>() as u32,
            ioas_id: ioas,
            iova,
            length,
        };
        uapi::call(&self.0, IOAS_UNMAP, &mut unmap).map(drop)
    }
}

/// An open VFIO device.
#[derive(Debug)]
pub(crate) struct VfioDevice {
    file: File,
    bar0: u64,
    config: u64,
}

impl VfioDevice {
    /// Opens a device's node and binds it to `iommufd`.
    pub(crate) fn open(node: &str, iommufd: &Iommufd) -> Result<Self> {
        let file = open_node(node)?;
        bind(&file, iommufd).with_context(|| format!("Bind {node}"))?;
        Self::from_fd(file.into())
    }

    /// A descriptor that is already bound.
    pub(crate) fn from_fd(fd: OwnedFd) -> Result<Self> {
        let file = File::from(fd);
        let bar0 = region(&file, BAR0).context("Find BAR 0")?;
        let config = region(&file, CONFIG).context("Find the config space")?;
        Ok(Self { file, bar0, config })
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// Another descriptor of the same open device.
    pub(crate) fn another(&self) -> Result<Self> {
        Self::from_fd(self.file.try_clone()?.into())
    }

    /// Attaches it to an IOAS.
    pub(crate) fn attach(&self, ioas: u32) -> Result<(), Errno> {
        let mut attach = Attach {
            argsz: size_of::<Attach>() as u32,
            flags: 0,
            pt_id: ioas,
        };
        uapi::call(&self.file, DEVICE_ATTACH_IOMMUFD_PT, &mut attach).map(drop)
    }

    pub(crate) fn register(&self, at: u64) -> Result<u32> {
        read_u32(&self.file, self.bar0 + at)
    }

    pub(crate) fn set_register(&self, at: u64, value: u32) -> Result<()> {
        let written = self.file.write_all_at(&value.to_le_bytes(), self.bar0 + at);
        written.with_context(|| format!("Write register {at:#x}"))
    }

    /// PCI_COMMAND.
    pub(crate) fn command(&self) -> Result<u16> {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, self.config + 4)?;
        Ok(u16::from_le_bytes(bytes))
    }

    pub(crate) fn set_command(&self, value: u16) -> Result<()> {
        Ok(self
            .file
            .write_all_at(&value.to_le_bytes(), self.config + 4)?)
    }
}

/// Opens a device's node, which does not affect the device.
pub(crate) fn open_node(node: &str) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(node);
    file.with_context(|| format!("Open {node}"))
}

/// Binds an open node.
pub(crate) fn bind(node: impl AsFd, iommufd: &Iommufd) -> Result<(), Errno> {
    let mut bind = Bind {
        argsz: size_of::<Bind>() as u32,
        flags: 0,
        iommufd: iommufd.0.as_raw_fd(),
        out_devid: 0,
    };
    uapi::call(node, DEVICE_BIND_IOMMUFD, &mut bind).map(drop)
}

fn region(device: &File, index: u32) -> Result<u64, Errno> {
    let mut info = RegionInfo {
        argsz: size_of::<RegionInfo>() as u32,
        flags: 0,
        index,
        cap_offset: 0,
        size: 0,
        offset: 0,
    };
    uapi::call(device, DEVICE_GET_REGION_INFO, &mut info)?;
    Ok(info.offset)
}

fn read_u32(file: &File, at: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    let read = file.read_exact_at(&mut bytes, at);
    read.with_context(|| format!("Read at {at:#x} of the device"))?;
    Ok(u32::from_le_bytes(bytes))
}
