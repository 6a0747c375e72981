//! Loads a Linux kernel into guest RAM, ready for its 64-bit entry.

mod acpi;
mod cpu;
mod image;
mod params;

use std::io;
use std::path::PathBuf;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{self, KernelLoader, KernelLoaderResult, bzimage::BzImage};
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, ReadVolatile,
};

use crate::devices::virtio::slot::Slot;
use crate::memory::GuestRam;
use crate::memory::layout::{CMDLINE, CMDLINE_MAX, HIGH_MEMORY};

pub(crate) use cpu::{BootCpuError, setup_cpu};
use image::Source;
pub(crate) use image::{BootImage, BootStateV1};

/// Offset of the 64-bit entry in a loaded kernel (Documentation/arch/x86/boot.rst).
const ENTRY_64: u64 = 0x200;
/// XLF_KERNEL_64 of `xloadflags`: the 64-bit entry exists.
const XLF_KERNEL_64: u16 = 1 << 0;
const PAGE: u64 = 0x1000;

/// Why a kernel cannot be booted.
#[derive(Debug, Error)]
pub(crate) enum BootError {
    #[error("Cannot open the {what} {}", path.display())]
    Open {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} is not a kernel this VMM can load: it takes an x86-64 bzImage, such as /boot/vmlinuz-*",
        path.display()
    )]
    NotBzImage {
        path: PathBuf,
        source: loader::Error,
    },
    #[error("{} has no 64-bit entry: it takes an x86-64 bzImage", path.display())]
    Not64Bit { path: PathBuf },
    #[error("The kernel needs {need_mib} MiB and the guest has {have_mib}: give it more --memory")]
    KernelTooLarge { need_mib: u64, have_mib: u64 },
    #[error("The initramfs of {bytes} bytes does not fit into {have_mib} MiB beside the kernel")]
    InitramfsTooLarge { bytes: u64, have_mib: u64 },
    #[error("Cannot read the initramfs {} into guest RAM", path.display())]
    ReadInitramfs {
        path: PathBuf,
        source: vm_memory::VolatileMemoryError,
    },
    #[error("The command line is longer than {} bytes or holds a NUL", CMDLINE_MAX - 1)]
    Cmdline,
    #[error("Cannot write the {what} into guest RAM")]
    Write {
        what: &'static str,
        source: GuestMemoryError,
    },
}

/// The machine that the kernel is going to find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootSpec<'a> {
    pub(crate) cpus: u8,
    /// The slots of its virtio devices.
    pub(crate) devices: &'a [Slot],
    /// Whether it has a PCI bus.
    pub(crate) has_pci: bool,
}

/// Loads everything and returns the address at which the first CPU starts.
pub(crate) fn load(
    ram: &GuestRam,
    image: &BootImage,
    spec: BootSpec<'_>,
) -> Result<u64, BootError> {
    let memory = ram.mapped();
    let kernel = load_kernel(memory, &image.kernel)?;
    let header = kernel.setup_header.unwrap_or_default();
    let low_ram = ram.ranges().first().map_or(0, |range| range.len);
    let kernel_end = end_of_kernel(&kernel, &header);
    if kernel_end > low_ram {
        return Err(BootError::KernelTooLarge {
            need_mib: kernel_end.div_ceil(1 << 20),
            have_mib: low_ram >> 20,
        });
    }
    let initramfs = match &image.initramfs {
        Some(file) => Some(load_initramfs(memory, file, kernel_end, low_ram, &header)?),
        None => None,
    };
    write_cmdline(memory, &image.cmdline)?;
    params::write(memory, ram.ranges(), header, initramfs)?;
    acpi::write(memory, &spec)?;
    cpu::write_tables(memory)?;
    Ok(kernel.kernel_load.0 + ENTRY_64)
}

impl Source {
    fn unreadable(&self, what: &'static str) -> impl Fn(io::Error) -> BootError {
        let path = self.path.clone();
        move |source| BootError::Open {
            what,
            path: path.clone(),
            source,
        }
    }
}

fn load_kernel(memory: &GuestMemoryMmap, kernel: &Source) -> Result<KernelLoaderResult, BootError> {
    let path = &kernel.path;
    let mut file = kernel.rewound().map_err(kernel.unreadable("kernel"))?;
    let kernel = BzImage::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY))).map_err(
        |source| BootError::NotBzImage {
            path: path.into(),
            source,
        },
    )?;
    let xloadflags = kernel.setup_header.map_or(0, |header| header.xloadflags);
    match xloadflags & XLF_KERNEL_64 {
        0 => Err(BootError::Not64Bit { path: path.into() }),
        _ => Ok(kernel),
    }
}

/// The end of the memory the kernel uses: it unpacks itself at its preferred address.
fn end_of_kernel(kernel: &KernelLoaderResult, header: &setup_header) -> u64 {
    let start = header.pref_address.max(kernel.kernel_load.0);
    // A size that no guest can have is refused; the sum must not wrap.
    let unpacked = start.saturating_add(u64::from(header.init_size));
    unpacked.max(kernel.kernel_end)
}

/// The location of an initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Initramfs {
    addr: u64,
    len: u64,
}

/// As high as the kernel allows, so that nothing it does early overwrites it.
fn place_initramfs(len: u64, kernel_end: u64, low_ram: u64, max_addr: u64) -> Option<Initramfs> {
    let top = low_ram.min(max_addr.saturating_add(1));
    let addr = top.checked_sub(len)? & !(PAGE - 1);
    (addr >= kernel_end).then_some(Initramfs { addr, len })
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    initramfs: &Source,
    kernel_end: u64,
    low_ram: u64,
    header: &setup_header,
) -> Result<Initramfs, BootError> {
    let unreadable = initramfs.unreadable("initramfs");
    let bytes = initramfs.len().map_err(&unreadable)?;
    let mut file = initramfs.rewound().map_err(&unreadable)?;
    let place = place_initramfs(bytes, kernel_end, low_ram, header.initrd_addr_max.into()).ok_or(
        BootError::InitramfsTooLarge {
            bytes,
            have_mib: low_ram >> 20,
        },
    )?;
    let to_usize = |_| BootError::InitramfsTooLarge {
        bytes,
        have_mib: low_ram >> 20,
    };
    let len = usize::try_from(bytes).map_err(to_usize)?;
    let mut slice = memory
        .get_slice(GuestAddress(place.addr), len)
        .map_err(|source| BootError::Write {
            what: "initramfs",
            source,
        })?;
    file.read_exact_volatile(&mut slice)
        .map_err(|source| BootError::ReadInitramfs {
            path: initramfs.path.clone(),
            source,
        })?;
    Ok(place)
}

fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= CMDLINE_MAX || cmdline.contains('\0') {
        return Err(BootError::Cmdline);
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(CMDLINE))
        .map_err(|source| BootError::Write {
            what: "command line",
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_initramfs_lies_page_aligned_at_the_top() {
        let place = place_initramfs(5000, 32 * MIB, 256 * MIB, 0x7fff_ffff).unwrap();
        assert_eq!(
            place,
            Initramfs {
                addr: 256 * MIB - 2 * PAGE,
                len: 5000
            }
        );
    }

    #[test]
    fn the_initramfs_stays_below_what_the_kernel_can_reach() {
        let place = place_initramfs(PAGE, 32 * MIB, 3 << 30, 0x7fff_ffff).unwrap();
        assert_eq!(place.addr + place.len, 0x8000_0000);
    }

    #[test]
    fn an_initramfs_that_would_hit_the_kernel_is_refused() {
        assert_eq!(
            place_initramfs(40 * MIB, 32 * MIB, 64 * MIB, u64::MAX),
            None
        );
        assert_eq!(
            place_initramfs(100 * MIB, 32 * MIB, 64 * MIB, u64::MAX),
            None
        );
    }

    #[test]
    fn a_kernel_that_needs_more_than_there_is_does_not_wrap() {
        let header = setup_header {
            pref_address: u64::MAX - 0xffff,
            init_size: 0x1_0000,
            ..Default::default()
        };
        let end = end_of_kernel(&KernelLoaderResult::default(), &header);
        assert_eq!(end, u64::MAX);
    }

    #[test]
    fn a_file_that_is_no_kernel_is_named() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; 4096]).unwrap();
        let image = BootImage::open(file.path(), None, "").unwrap();
        let error = load_kernel(&memory, &image.kernel).unwrap_err();
        assert!(error.to_string().contains("bzImage"), "{error}");
        let error = BootImage::open(Path::new("/nonexistent"), None, "").unwrap_err();
        assert!(matches!(error, BootError::Open { .. }));
    }

    #[test]
    fn a_command_line_ends_with_nul_and_has_a_limit() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_cmdline(&memory, "console=ttyS0").unwrap();
        let mut got = [1; 14];
        memory.read_slice(&mut got, GuestAddress(CMDLINE)).unwrap();
        assert_eq!(&got, b"console=ttyS0\0");
        assert!(write_cmdline(&memory, &"x".repeat(CMDLINE_MAX)).is_err());
        assert!(write_cmdline(&memory, "a\0b").is_err());
    }
}
