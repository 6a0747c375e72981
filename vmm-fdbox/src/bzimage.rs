//! Whether a file is a kernel that `kexec_file_load` takes: asked before anything is changed, and
//! told with the file's name, which the system call does not know.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::finding::Finding;

/// Where the setup header begins, and how much of it is looked at
/// (`Documentation/arch/x86/boot.rst`).
const HEADER_AT: u64 = 0x1f1;
const HEADER_LEN: usize = 0x238 - HEADER_AT as usize;
/// Fields, by their offset in the file.
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const XLOADFLAGS: usize = 0x236;
/// The first protocol with `xloadflags`.
const VERSION_MIN: u16 = 0x020c;
/// `xloadflags`: has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;

/// Blockers of a kernel image. On machines other than x86-64 the kernel itself is left to judge.
pub(crate) fn check(path: &Path, file: &File) -> Option<Finding> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let mut header = [0; HEADER_LEN];
    let problem = match file.read_exact_at(&mut header, HEADER_AT) {
        Ok(()) => problem_of(&header)?.to_owned(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it is too short for a kernel image".into()
        }
        Err(error) => format!("it cannot be read ({error})"),
    };
    let remedy = "name a bzImage for x86-64, such as /boot/vmlinuz-VERSION";
    Some(Finding::blocker(
        path.display().to_string(),
        problem,
        remedy,
    ))
}

/// The checks of `bzImage64_probe()` that a file on disk can fail.
fn problem_of(header: &[u8; HEADER_LEN]) -> Option<&'static str> {
    let at = |offset: usize| offset - HEADER_AT as usize;
    let u16_at = |offset| u16::from_le_bytes([header[at(offset)], header[at(offset) + 1]]);
    if u16_at(BOOT_FLAG) != 0xaa55 || &header[at(MAGIC)..at(MAGIC) + 4] != b"HdrS" {
        Some("it is not a kernel image")
    } else if u16_at(VERSION) < VERSION_MIN || u16_at(XLOADFLAGS) & XLF_KERNEL_64 == 0 {
        Some("it is a kernel without a 64-bit entry point")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(change: impl FnOnce(&mut Vec<u8>)) -> Option<String> {
        let mut bytes = vec![0; 4096];
        bytes[BOOT_FLAG..][..2].copy_from_slice(&0xaa55_u16.to_le_bytes());
        bytes[MAGIC..][..4].copy_from_slice(b"HdrS");
        bytes[VERSION..][..2].copy_from_slice(&0x020f_u16.to_le_bytes());
        bytes[XLOADFLAGS..][..2].copy_from_slice(&0x7f_u16.to_le_bytes());
        change(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        check(Path::new("/boot/image"), &file).map(|finding| finding.to_string())
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        assert_eq!(image(|_| {}), None);
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 5] = [
            ("not a kernel image", |bytes| bytes.fill(b'x')),
            ("not a kernel image", |bytes| bytes[BOOT_FLAG] = 0),
            ("too short", |bytes| bytes.truncate(0x210)),
            ("64-bit", |bytes| bytes[XLOADFLAGS] = 2),
            ("64-bit", |bytes| bytes[VERSION] = 0),
        ];
        for (problem, change) in cases {
            let found = image(change).unwrap();
            assert!(found.starts_with("/boot/image: it is"), "{found}");
            assert!(found.contains(problem), "{found}");
        }
    }
}
