//! Writes the archive format of an initramfs ("newc" cpio), uncompressed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040755;
const FILE: u32 = 0o100000;
const SYMLINK: u32 = 0o120777;
const CHARACTER_DEVICE: u32 = 0o020600;

/// An archive being written. Everything in it belongs to root; parent directories are added as
/// needed.
#[derive(Debug)]
pub(crate) struct Cpio<W> {
    out: W,
    inode: u32,
    made: BTreeSet<String>,
}

impl<W: Write> Cpio<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            made: BTreeSet::new(),
        }
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> io::Result<()> {
        let mode = FILE | if executable { 0o755 } else { 0o644 };
        self.parents(path)?;
        self.entry(path.trim_matches('/'), mode, (0, 0), content)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path.trim_matches('/'), SYMLINK, (0, 0), target.as_bytes())
    }

    pub(crate) fn character_device(
        &mut self,
        path: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.parents(path)?;
        self.entry(
            path.trim_matches('/'),
            CHARACTER_DEVICE,
            (major, minor),
            &[],
        )
    }

    /// Writes the end of the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match Path::new(path.trim_matches('/'))
            .parent()
            .and_then(Path::to_str)
        {
            Some(parent) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is larger than 4 GiB")))?;
        let name_size = path.len() as u32 + 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(path);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Entries and their contents are aligned to four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (name, mode, content) of each entry, parsed like in the kernel's init/initramfs.c.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = &archive[110..110 + name_size - 1];
            assert_eq!(archive[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            let content = archive[start..start + size].to_vec();
            let name = String::from_utf8(name.to_vec()).unwrap();
            archive = &archive[(start + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(archive.is_empty());
                return entries;
            }
            entries.push((name, mode as u32, content));
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("/bin/a", true, b"hello").unwrap();
        cpio.file("bin/b", false, b"").unwrap();
        cpio.symlink("/sbin/c", "/bin/a").unwrap();
        cpio.directory("/var/empty").unwrap();
        cpio.directory("/var/empty/").unwrap();
        let entries = read(&cpio.finish().unwrap());
        let names: Vec<_> = entries
            .iter()
            .map(|(name, mode, _)| (name.as_str(), *mode))
            .collect();
        assert_eq!(
            names,
            [
                ("bin", 0o040755),
                ("bin/a", 0o100755),
                ("bin/b", 0o100644),
                ("sbin", 0o040755),
                ("sbin/c", 0o120777),
                ("var", 0o040755),
                ("var/empty", 0o040755),
            ]
        );
        assert_eq!(entries[1].2, b"hello");
        assert_eq!(entries[4].2, b"/bin/a");
    }
}
