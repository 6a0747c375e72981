//! Kernels to jump into, valid and invalid ones: loaded with either system call.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::kexec;
use fdbox_lab::plan::{NEXT_CMDLINE, NEXT_INITRAMFS, NEXT_KERNEL};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::check::fails;
use crate::host;

/// `KEXEC_ARCH_X86_64`.
const ARCH_X86_64: u64 = 62 << 16;
/// The address of the only segment that is loaded by kexec_load(2): memory that every host has.
const SEGMENT_AT: u64 = 32 << 20;
const SEGMENT_LEN: usize = 4096;
/// The instruction `ud2`: a jump to it resets the machine, because there is no exception handler.
const UD2: [u8; 2] = [0x0f, 0x0b];

/// `struct kexec_segment`.
#[repr(C)]
struct Segment {
    buf: *const u8,
    bufsz: usize,
    mem: u64,
    memsz: usize,
}

/// The bytes of a bzImage that describe what its kernel takes over.
pub(crate) struct Image {
    bytes: Vec<u8>,
    /// The offset of kernel_info in them.
    info: usize,
}

impl Image {
    /// The next stage's image.
    pub(crate) fn next() -> Result<Self> {
        let bytes = std::fs::read(NEXT_KERNEL).context("Read the next kernel")?;
        let at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        ensure!(bytes.len() > 0x270, "The next kernel is too short");
        let setup_sectors = match bytes[0x1f1] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let info = (setup_sectors + 1) * 512 + at(0x268) as usize;
        ensure!(
            bytes.get(info..info + 4) == Some(b"LToP"),
            "The next kernel has no kernel_info"
        );
        Ok(Self { bytes, info })
    }

    /// As in a kernel without the patches: no chunk after the fixed part of kernel_info.
    pub(crate) fn unpatched(mut self) -> Self {
        self.bytes
            .copy_within(self.info + 4..self.info + 8, self.info + 8);
        self
    }

    /// As in a kernel with older patches: it does not take over these parts.
    pub(crate) fn without(mut self, parts: u32) -> Result<Self> {
        let chunks = self.u32_at(self.info + 4) as usize;
        let chunk = self.info + chunks;
        ensure!(
            self.bytes.get(chunk..chunk + 4) == Some(b"FDBx"),
            "The next kernel does not say what it takes over"
        );
        let takes = self.u32_at(chunk + 8) & !parts;
        self.bytes[chunk + 8..chunk + 12].copy_from_slice(&takes.to_le_bytes());
        Ok(self)
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap_or_default())
    }

    /// As in a kernel without KHO: the maximum type of setup_data is one lower.
    pub(crate) fn without_kho(mut self) -> Self {
        self.bytes[self.info + 12..self.info + 16].copy_from_slice(&0x8000_0009_u32.to_le_bytes());
        self
    }

    /// Loads it with kexec_file_load(2).
    pub(crate) fn load(&self) -> Result<()> {
        let kernel: OwnedFd = memfd_create(c"kernel", MemfdFlags::CLOEXEC)?;
        let kernel = File::from(kernel);
        kernel.write_all_at(&self.bytes, 0)?;
        let initramfs = File::open(NEXT_INITRAMFS).context("Open the next initramfs")?;
        let cmdline = std::env::var(NEXT_CMDLINE)?;
        kexec::load(&kernel, &initramfs, &cmdline)
    }
}

/// Loads something with kexec_load(2), as old tools do: it gets no handover.
pub(crate) fn load_legacy() -> Result<()> {
    let page = UD2.repeat(SEGMENT_LEN / UD2.len());
    let segment = Segment {
        buf: page.as_ptr(),
        bufsz: page.len(),
        mem: SEGMENT_AT,
        memsz: SEGMENT_LEN,
    };
    legacy(1, &raw const segment).context("kexec_load")
}

/// Unloads what [`load_legacy`] loaded.
pub(crate) fn unload_legacy() -> Result<()> {
    legacy(0, std::ptr::null()).context("kexec_load of nothing")
}

fn legacy(segments: usize, first: *const Segment) -> Result<()> {
    // SAFETY: `first` points at this many segments, and their buffers are valid.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            SEGMENT_AT,
            segments,
            first,
            ARCH_X86_64,
        )
    };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// The kernel's description of the loaded one.
pub(crate) fn handover() -> Result<String> {
    let text = std::fs::read_to_string("/sys/kernel/kexec/handover");
    Ok(text
        .context("What the loaded kernel takes")?
        .trim()
        .to_owned())
}

/// Checks that the jump into the loaded image is refused, and that the log gives a reason with
/// `words`.
pub(crate) fn is_refused(words: &str) -> Result<()> {
    let count = |log: &[String]| log.iter().filter(|line| line.contains(words)).count();
    let before = count(&host::whole_kernel_log()?);
    fails("The kexec", jump(), Errno::OPNOTSUPP)?;
    host::wait_for_log(|log| count(log) > before).with_context(|| format!("A line with {words:?}"))
}

/// Jumps; returns only if the jump fails.
pub(crate) fn jump() -> Result<(), Errno> {
    // SAFETY: the call takes a number. If it succeeds, it does not return.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
