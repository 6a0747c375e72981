//! Guests that nobody here made: Debian's kernel and user space, as its packages have them, on a disk.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use fdbox_lab::scenario::Debian;

use crate::cache::KeyBuilder;
use crate::cpio::Cpio;
use crate::drive;
use crate::image::add;
use crate::lab::Lab;
use crate::programs::{self, Programs};
use crate::progress::Progress;
use crate::{command, debian, machine};

/// What is in the guest beside Debian's minimum. Its kernel is the one for clouds, which is the smallest.
const PACKAGES: &[&str] = &[
    "dbus",
    "e2fsprogs",
    "fio",
    "kmod",
    "linux-image-cloud-amd64",
    "sqlite3",
    "systemd",
    "systemd-sysv",
    "udev",
];
/// What its kernel has as modules, and needs before it has a root file system.
const MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "ext4"];
/// Units of which a guest without a network, and without anybody to log in, has no use.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty.target",
    "serial-getty@ttyS0.service",
];
/// Units of the lab, with what wants them.
const UNITS: [(&str, &str); 2] = [
    ("lab-stages.service", "sysinit.target"),
    ("lab-witness.service", "multi-user.target"),
];
/// Lines that mmdebstrap prints, roughly.
const LINES: u64 = 700;
const IMAGE_MIB: u64 = 1024;

/// The files of a Debian guest, with their local paths.
#[derive(Debug, Clone)]
pub(crate) struct DebianGuest {
    dir: PathBuf,
    initramfs: PathBuf,
}

impl DebianGuest {
    pub(crate) fn get(lab: &Lab, programs: &Programs, release: Debian) -> Result<Self> {
        let scripts = lab.checkout.join("tests/debian");
        let prepare = scripts.join("prepare");
        let key = KeyBuilder::new("debian guest 1")
            .text("suite", release.suite())
            .text("packages", &PACKAGES.join(","))
            .text("modules", &MODULES.join(","))
            .text("size", &IMAGE_MIB.to_string())
            .file(&prepare)?;
        let key = key.build();
        let kind = format!("debian-guest-{}", release.suite());
        let dir = lab
            .cache
            .get(&kind, &key, |dir| make(lab, release, &prepare, dir))?;
        let witness = programs.path(programs::WITNESS);
        let key = KeyBuilder::new("debian initramfs 1")
            .text("disk", key.as_str())
            .text("masked", &MASKED.join(","))
            .tree(&scripts)?
            .file(&witness)?;
        let place = lab.cache.get("guest", &key.build(), |place| {
            let busybox = lab.busybox();
            initramfs(
                &dir,
                &scripts,
                &busybox,
                &witness,
                &place.join("guest.cpio"),
            )
        })?;
        Ok(Self {
            dir,
            initramfs: place.join("guest.cpio"),
        })
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.initramfs.clone()
    }

    /// Makes a copy of its disk the drive of its host, whose folder is `run`. Returns where that is.
    pub(crate) fn put_disk(&self, run: &Path) -> Result<PathBuf> {
        let place = drive::image(run, 0);
        let mut cp = Command::new("cp");
        cp.args(["--reflink=auto", "--sparse=always"]);
        command::output(cp.arg(self.dir.join("root.img")).arg(&place)).context("Copy the disk")?;
        Ok(place)
    }
}

fn make(lab: &Lab, release: Debian, prepare: &Path, dir: &Path) -> Result<()> {
    machine::install_mmdebstrap(&lab.cache)?;
    let (suite, root) = (release.suite(), dir.join("root"));
    let log = lab
        .cache
        .dir("logs")?
        .join(format!("debian-guest-{suite}.log"));
    let mut progress = Progress::start(&format!("Debian guest: {suite}"), Some(LINES));
    let mut mmdebstrap = debian::bootstrap(suite, PACKAGES, &root);
    command::counted(&mut mmdebstrap, &log, &mut progress).context("Make a Debian guest")?;
    let mut sh = Command::new("sh");
    sh.arg(prepare).arg(&root).arg(dir);
    sh.arg(IMAGE_MIB.to_string()).args(MODULES);
    command::output(&mut sh).context("Make its disk (mke2fs is in e2fsprogs)")?;
    fs::remove_dir_all(&root)?;
    progress.done();
    Ok(())
}

/// Writes the initramfs: what mounts the disk, the witness, and what it needs to be a service of Debian's.
fn initramfs(
    guest: &Path,
    scripts: &Path,
    busybox: &Path,
    witness: &Path,
    out: &Path,
) -> Result<()> {
    let file = File::create(out).with_context(|| format!("Create {}", out.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    for directory in ["dev", "proc", "sys", "root"] {
        cpio.directory(directory)?;
    }
    cpio.character_device("dev/console", 5, 1)?;
    add(&mut cpio, busybox, "bin/busybox")?;
    cpio.file("init", true, &fs::read(scripts.join("init"))?)?;
    let order = fs::read_to_string(guest.join("modules/order"))?;
    add(&mut cpio, &guest.join("modules/order"), "modules/order")?;
    for module in order.lines() {
        let place = format!("modules/{module}");
        add(&mut cpio, &guest.join(&place), &place)?;
    }
    add(&mut cpio, witness, "lab/lab-witness")?;
    for script in ["stage", "database", "database-check", "fio", "pressure"] {
        add(&mut cpio, &scripts.join(script), &format!("lab/{script}"))?;
    }
    for unit in MASKED {
        cpio.symlink(&format!("units/{unit}"), "/dev/null")?;
    }
    for (unit, wanted_by) in UNITS {
        let place = format!("units/{unit}");
        add(&mut cpio, &scripts.join(&place), &place)?;
        cpio.symlink(
            &format!("units/{wanted_by}.wants/{unit}"),
            &format!("../{unit}"),
        )?;
    }
    cpio.finish()?;
    Ok(())
}
