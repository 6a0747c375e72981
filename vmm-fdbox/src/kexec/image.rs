//! Reads the header of a bzImage and checks whether `kexec_file_load` would accept it: before
//! anything is changed, and with the file's name in the error, which the system call does not know.
//!
//! The layout is that of `Documentation/arch/x86/boot.rst`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::image_error::ImageError;
use super::takeover::{self, KernelInfo};
use crate::bytes::{array, u32_at};

/// The start of the setup header, and the end of the part that is used.
const HEADER_AT: usize = 0x1f1;
const HEADER_END: usize = 0x26c;
const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
/// The first protocol with `xloadflags`, which kexec requires.
const VERSION_MIN: u16 = 0x020c;
/// The first protocol with `kernel_info`.
const VERSION_KERNEL_INFO: u16 = 0x020f;
/// `loadflags`: the protected-mode kernel is loaded at 1 MiB, as in all kernels since 1996.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: can be loaded anywhere in memory.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// `xloadflags`: can be entered with five levels of page tables.
const XLF_5LEVEL: u16 = 1 << 5;
/// An upper limit for the version string, the kernel's banner.
const MAX_VERSION_BYTES: usize = 512;

/// A kernel image, as described by its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BzImage {
    /// The release as in `uname -r`; `None` if the image does not have it.
    pub(super) release: Option<String>,
    /// The maximum length of the command line, including its NUL.
    pub(super) cmdline_bytes: usize,
    /// Whether it has a signature, by whatever key.
    pub(super) is_signed: bool,
    /// Whether it can be entered from a kernel with five levels of page tables.
    pub(super) takes_five_levels: bool,
    /// What it declares about handovers.
    pub(super) info: KernelInfo,
}

/// The header's bytes, accessed by their offsets in the file.
struct Header([u8; HEADER_END - HEADER_AT]);

impl Header {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        array(&self.0, at - HEADER_AT)
    }

    fn u8(&self, at: usize) -> u8 {
        self.bytes::<1>(at)[0]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    /// The offset of the protected-mode kernel.
    fn kernel_at(&self) -> u64 {
        let setup_sectors = match self.u8(0x1f1) {
            0 => 4,
            sectors => u64::from(sectors),
        };
        (setup_sectors + 1) * SECTOR_BYTES
    }

    /// The checks of `bzImage64_probe()` that a file on disk can fail.
    fn check_kind(&self) -> Result<(), ImageError> {
        if self.u16(0x1fe) != 0xaa55 || self.bytes(0x202) != *b"HdrS" {
            return Err(ImageError::NoImage);
        }
        let is_high = self.u8(0x211) & LOADED_HIGH != 0;
        let (version, flags) = (self.u16(0x206), self.u16(0x236));
        if version < VERSION_MIN || !is_high || flags & XLF_KERNEL_64 == 0 {
            return Err(ImageError::No64Bit);
        }
        if flags & XLF_CAN_BE_LOADED_ABOVE_4G == 0 {
            return Err(ImageError::NotRelocatable);
        }
        Ok(())
    }

    /// Whether the file is complete. The kernel's loader only checks the setup sectors; the rest
    /// would be missed when the kernel decompresses itself.
    fn check_length(&self, bytes: u64) -> Result<(), ImageError> {
        let kernel_bytes = u64::from(self.u32(0x1f4)) * 16;
        let expected_bytes = self.kernel_at() + kernel_bytes;
        if bytes < expected_bytes {
            return Err(ImageError::Truncated {
                bytes,
                expected_bytes,
            });
        }
        let payload_end = u64::from(self.u32(0x248)) + u64::from(self.u32(0x24c));
        if payload_end > kernel_bytes {
            return Err(ImageError::Damaged("compressed kernel"));
        }
        let init_bytes = u64::from(self.u32(0x260)).next_multiple_of(PAGE_BYTES);
        if init_bytes < bytes - self.kernel_at() {
            return Err(ImageError::Damaged("end in memory (init_size)"));
        }
        Ok(())
    }
}

impl BzImage {
    /// Reads a kernel image: only its header and the few bytes that the header refers to.
    ///
    /// # Errors
    /// The reason why it cannot be loaded.
    pub(super) fn read(file: &File) -> Result<Self, ImageError> {
        let mut header = Header([0; HEADER_END - HEADER_AT]);
        file.read_exact_at(&mut header.0, HEADER_AT as u64)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ImageError::TooShort,
                _ => error.into(),
            })?;
        header.check_kind()?;
        header.check_length(file.metadata()?.len())?;
        let info = if header.u16(0x206) < VERSION_KERNEL_INFO {
            KernelInfo::default()
        } else {
            let at = header.kernel_at() + u64::from(header.u32(0x268));
            takeover::read(file, at)?
        };
        Ok(Self {
            release: release(file, &header)?,
            cmdline_bytes: usize::try_from(header.u32(0x238)).unwrap_or(usize::MAX),
            is_signed: is_signed(file)?,
            takes_five_levels: header.u16(0x236) & XLF_5LEVEL != 0,
            info,
        })
    }
}

/// Reads as many of `bytes` as there are, and leaves the rest 0.
fn read_some(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The first word of the version string, if it can be part of a path.
fn release(file: &File, header: &Header) -> io::Result<Option<String>> {
    let at = header.u16(0x20e);
    if at == 0 {
        return Ok(None);
    }
    let mut bytes = [0; MAX_VERSION_BYTES];
    read_some(file, &mut bytes, 0x200 + u64::from(at))?;
    let end = bytes.iter().position(|b| matches!(b, 0 | b' '));
    let word = &bytes[..end.unwrap_or(0)];
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"._+~-".contains(b);
    let is_release = word.first().is_some_and(u8::is_ascii_digit) && word.iter().all(is_plain);
    Ok(is_release.then(|| String::from_utf8_lossy(word).into_owned()))
}

/// Whether the image, which is also a PE file, has a certificate table.
fn is_signed(file: &File) -> io::Result<bool> {
    /// In the PE header: its magic, the magic of PE32+ and the entry for certificates.
    const PE_BYTES: usize = 24 + 152;
    let mut start = [0; 64];
    read_some(file, &mut start, 0)?;
    let mut pe = [0; PE_BYTES];
    let at = u32_at(&start, 0x3c);
    read_some(file, &mut pe, u64::from(at))?;
    let is_pe = start.starts_with(b"MZ") && pe.starts_with(b"PE\0\0") && pe[24..26] == [0x0b, 2];
    let size = &pe[24 + 148..];
    Ok(is_pe && size != [0; 4])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::kexec::testing::{assert_documented, bzimage};

    fn read(change: impl FnOnce(&mut Vec<u8>)) -> Result<BzImage, ImageError> {
        let mut bytes = bzimage(None);
        change(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        BzImage::read(&file)
    }

    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> String {
        read(change).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_image_tells_of_itself() {
        let expected = BzImage {
            release: Some("7.3.4-next+".into()),
            cmdline_bytes: 2047,
            is_signed: false,
            takes_five_levels: true,
            info: KernelInfo {
                knows_kho: true,
                takes: None,
            },
        };
        assert_eq!(read(|_| {}).unwrap(), expected);
        // Other data may follow, such as a signature.
        assert_eq!(read(|bytes| bytes.extend([0; 100])).unwrap(), expected);
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 7] = [
            ("it is not a kernel image", |bytes| bytes.fill(b'x')),
            ("it is not a kernel image", |bytes| bytes[0x1fe] = 0),
            ("it is too short for a kernel image", |bytes| {
                bytes.truncate(0x210)
            }),
            ("it is a kernel without a 64-bit entry point", |bytes| {
                bytes[0x236] = 2
            }),
            ("it is a kernel without a 64-bit entry point", |bytes| {
                bytes[0x206] = 0x0b
            }),
            ("it is a kernel without a 64-bit entry point", |bytes| {
                bytes[0x211] = 0
            }),
            ("it is a kernel that is not relocatable", |bytes| {
                bytes[0x236] = 1
            }),
        ];
        for (problem, change) in cases {
            assert_eq!(refused(change), problem);
            assert_documented(problem);
        }
    }

    #[test]
    fn an_image_that_is_cut_short_is_named_wherever_it_was_cut() {
        let whole = bzimage(None).len();
        for bytes in [0x26c, 1024, 3000, whole / 2, whole - 1] {
            let problem = refused(|image| image.truncate(bytes));
            let expected =
                format!("it is cut short: it has {bytes} bytes, and its header says {whole}");
            assert_eq!(problem, expected);
        }
        assert_documented("it is cut short");
        // 0 setup sectors stand for 4.
        let problem = refused(|image| {
            image[0x1f1] = 0;
            image.truncate(whole - 513);
        });
        assert!(problem.starts_with("it is cut short"), "{problem}");
    }

    #[test]
    fn a_header_that_contradicts_itself_is_named() {
        let problem = refused(|bytes| bytes[0x24f] = 1);
        assert_eq!(
            problem,
            "it is damaged: its compressed kernel is outside of it"
        );
        let problem = refused(|bytes| bytes[0x260..0x264].fill(0));
        assert!(problem.contains("init_size"), "{problem}");
        let problem = refused(|bytes| bytes[0x26b] = 0x7f);
        assert!(problem.contains("kernel_info"), "{problem}");
        assert_documented("it is damaged");
    }

    #[test]
    fn a_release_that_is_no_name_of_a_file_is_left_out() {
        for (text, expected) in [
            ("6.12.1-amd64 (x@y) #1", Some("6.12.1-amd64")),
            ("../../etc/passwd x", None),
            ("7.3/4 x", None),
            ("", None),
            ("7.3.4\0", Some("7.3.4")),
        ] {
            let image = read(|bytes| {
                bytes[0x400..0x440].fill(0);
                bytes[0x400..][..text.len()].copy_from_slice(text.as_bytes());
            });
            assert_eq!(image.unwrap().release.as_deref(), expected, "{text:?}");
        }
        assert_eq!(
            read(|bytes| bytes[0x20e..0x210].fill(0)).unwrap().release,
            None
        );
        // At the end of the file.
        let late = read(|bytes| bytes[0x20e..0x210].fill(0xff)).unwrap();
        assert_eq!(late.release, None);
    }

    #[test]
    fn a_signature_is_seen() {
        let sign = |bytes: &mut Vec<u8>| {
            bytes[..2].copy_from_slice(b"MZ");
            bytes[0x3c] = 0x40;
            bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
            bytes[0x58..0x5a].copy_from_slice(&[0x0b, 2]);
            bytes[0x40 + 24 + 144..][..8].copy_from_slice(&[0, 0x10, 0, 0, 0x08, 6, 0, 0]);
        };
        assert!(read(sign).unwrap().is_signed);
        let unsigned = |bytes: &mut Vec<u8>| {
            sign(bytes);
            bytes[0x40 + 24 + 144..][..8].fill(0);
        };
        assert!(!read(unsigned).unwrap().is_signed);
        let far = |bytes: &mut Vec<u8>| bytes[0x3c..0x40].fill(0xff);
        assert!(!read(far).unwrap().is_signed);
    }

    #[test]
    fn fuzz_bzimage() {
        let info = b"LToP\x10\0\0\0\x1c\0\0\0\x0a\0\0\x80FDBx\x0c\0\0\0\x7d\0\0\0";
        let file = tempfile::tempfile().unwrap();
        crate::fuzz::run(
            "bzimage",
            &[&bzimage(None), &bzimage(Some(info))],
            |input| {
                file.set_len(0).unwrap();
                file.write_all_at(input, 0).unwrap();
                if let Ok(image) = BzImage::read(&file) {
                    let plain = |c: char| c.is_ascii_graphic() && c != '/';
                    assert!(
                        image
                            .release
                            .is_none_or(|release| release.chars().all(plain))
                    );
                }
            },
        );
    }
}
