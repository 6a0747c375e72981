//! The host's initramfs: busybox, the project's programs, the plan, and the next stage.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use fdbox_lab::plan::{self, Plan};
use fdbox_lab::witness;

use crate::command;
use crate::cpio::Cpio;

/// The contents of one stage's initramfs.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    /// A static busybox.
    pub busybox: &'a Path,
    pub init: &'a Path,
    pub plan: &'a Plan,
    /// (local path, path in the host).
    pub files: &'a [(PathBuf, String)],
    /// The next stage's kernel and initramfs.
    pub next: Option<(&'a Path, &'a Path)>,
}

impl Image<'_> {
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let file = File::create(out).with_context(|| format!("Create {}", out.display()))?;
        let mut cpio = Cpio::new(BufWriter::new(file));
        for directory in ["dev", "proc", "sys", "tmp", "run", "root", "etc"] {
            cpio.directory(directory)?;
        }
        cpio.character_device("dev/console", 5, 1)?;
        cpio.file("etc/passwd", false, b"root:x:0:0:root:/root:/bin/sh\n")?;
        add(&mut cpio, self.busybox, "bin/busybox")?;
        for applet in command::output(Command::new(self.busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                cpio.symlink(&format!("bin/{applet}"), "busybox")?;
            }
        }
        add(&mut cpio, self.init, "init")?;
        cpio.file(plan::PATH, false, &serde_json::to_vec(self.plan)?)?;
        for (source, place) in self.files {
            add(&mut cpio, source, place)?;
        }
        if let Some((kernel, initramfs)) = self.next {
            add(&mut cpio, kernel, plan::NEXT_KERNEL)?;
            add(&mut cpio, initramfs, plan::NEXT_INITRAMFS)?;
        }
        cpio.finish()?;
        Ok(())
    }
}

/// Writes an initramfs of a host with only these files (local path, path in the host), beside the usual devices.
pub(crate) fn write_small(files: &[(PathBuf, String)], out: &Path) -> Result<()> {
    let file = File::create(out).with_context(|| format!("Create {}", out.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    for directory in ["dev", "proc", "sys", "run"] {
        cpio.directory(directory)?;
    }
    cpio.character_device("dev/console", 5, 1)?;
    cpio.character_device("dev/null", 1, 3)?;
    for (source, place) in files {
        add(&mut cpio, source, place)?;
    }
    cpio.finish()?;
    Ok(())
}

/// Writes the guest's initramfs: the witness, and the modules that it may load, or has to load at once in this order.
pub(crate) fn write_guest(
    witness: &Path,
    modules: &[PathBuf],
    at_once: bool,
    out: &Path,
) -> Result<()> {
    let file = File::create(out).with_context(|| format!("Create {}", out.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    for directory in ["dev", "proc", "sys"] {
        cpio.directory(directory)?;
    }
    cpio.character_device("dev/console", 5, 1)?;
    add(&mut cpio, witness, "init")?;
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let place = format!("lib/modules/{name}");
        add(&mut cpio, module, &place)?;
        order += &format!("/{place}\n");
    }
    if at_once {
        cpio.file(witness::MODULES, false, order.as_bytes())?;
    }
    cpio.finish()?;
    Ok(())
}

/// Adds a file to an image.
pub(crate) fn add(cpio: &mut Cpio<BufWriter<File>>, source: &Path, place: &str) -> Result<()> {
    let read = || -> std::io::Result<_> {
        let mode = fs::metadata(source)?.permissions().mode();
        Ok((mode & 0o111 != 0, fs::read(source)?))
    };
    let (executable, content) = read().with_context(|| format!("Read {}", source.display()))?;
    cpio.file(place, executable, &content)?;
    Ok(())
}
