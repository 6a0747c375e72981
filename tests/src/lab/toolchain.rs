//! The toolchain: a Debian system in a directory, with everything that the lab needs to build and
//! run.
//!
//! It is made once by mmdebstrap. Programs run in it by chroot, in a mount namespace of their own,
//! so that no mount can be left behind. Nothing else is needed on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::progress::Progress;
use crate::{command, debian, machine};

/// The Debian release of the toolchain; the kernel accepts its rustc and bindgen.
pub(crate) const SUITE: &str = "trixie";

/// Its packages: compilers for the kernel and its Rust code, QEMU for the host, busybox for its
/// shell.
const PACKAGES: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "busybox-static",
    "ca-certificates",
    "clang",
    "cpio",
    "file",
    "flex",
    "gcc",
    "git",
    "kexec-tools",
    "kmod",
    "libc6-dev",
    "libcap-dev",
    "libelf-dev",
    "libnuma-dev",
    "libssl-dev",
    "linux-libc-dev",
    "lld",
    "llvm",
    "make",
    "patch",
    "perl",
    "python3",
    "qemu-system-x86",
    "rsync",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "xz-utils",
    "zstd",
];

/// Number of lines that mmdebstrap prints, roughly: for the progress bar.
const LINES: u64 = 2000;

/// Enters the toolchain: mounts the given directories, then executes the program. Arguments:
/// `ROOT [SOURCE PLACE]... -- PROGRAM [ARGUMENT]...`
const ENTER: &str = r#"
set -e
root=$1; shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"#;

/// Runs [`ENTER`], its first argument, on an overlay of the toolchain. Everything written there is in memory and gone
/// when the program ends.
const THROW_AWAY: &str = r#"
set -e
enter=$1 lower=$2; shift 2
mount -t tmpfs tmpfs "$lower/mnt"
mkdir "$lower/mnt/upper" "$lower/mnt/work" "$lower/mnt/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$lower/mnt/upper,workdir=$lower/mnt/work" "$lower/mnt/root"
exec sh -c "$enter" lab "$lower/mnt/root" "$@"
"#;

/// A toolchain that has been made.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    root: PathBuf,
    key: Key,
}

impl Toolchain {
    /// Finds the toolchain in the cache, or makes it.
    pub(crate) fn get(cache: &Cache) -> Result<Self> {
        let key = KeyBuilder::new("toolchain 1")
            .text("suite", SUITE)
            .text("packages", &PACKAGES.join(","))
            .build();
        let dir = cache.get("toolchain", &key, |dir| make(cache, &dir.join("root")))?;
        Ok(Self {
            root: dir.join("root"),
            key,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// `program` in the toolchain, with each (directory, place) of `mounts` visible to it. It is
    /// killed when the thread that started it exits.
    pub(crate) fn command(&self, mounts: &[(&Path, &str)], program: &str) -> Command {
        self.enter(&[ENTER, "lab"], mounts, program)
    }

    /// The same in a throwaway copy of the toolchain.
    pub(crate) fn throwaway(&self, mounts: &[(&Path, &str)], program: &str) -> Command {
        self.enter(&[THROW_AWAY, "lab", ENTER], mounts, program)
    }

    fn enter(&self, script: &[&str], mounts: &[(&Path, &str)], program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount"]);
        command
            .args(["--propagation", "private", "--", "sh", "-c"])
            .args(script);
        command.arg(&self.root);
        for (source, place) in mounts {
            command.arg(source).arg(place);
        }
        command.args(["--", program]);
        command.env_clear().envs([
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
        ]);
        command
    }
}

fn make(cache: &Cache, root: &Path) -> Result<()> {
    machine::check_can_build(cache)?;
    machine::install_mmdebstrap(cache)?;
    let log = cache.dir("logs")?.join("toolchain.log");
    let mut progress = Progress::start("Toolchain (Debian packages)", Some(LINES));

    let mut mmdebstrap = debian::bootstrap(SUITE, PACKAGES, root);
    command::counted(&mut mmdebstrap, &log, &mut progress)
        .context("Make the toolchain with mmdebstrap")?;

    // mmdebstrap recorded where it got the packages from; backports are in the same place.
    let used = fs::read_to_string(root.join("etc/apt/sources.list"))?;
    let Some(line) = debian::backports_line(&used, SUITE) else {
        bail!("mmdebstrap left no source in the toolchain's sources.list:\n{used}");
    };
    fs::write(root.join("etc/apt/sources.list.d/backports.list"), line)?;
    let options: String = debian::apt_options()
        .iter()
        .map(|o| format!("{o};\n"))
        .collect();
    fs::write(root.join("etc/apt/apt.conf.d/99lab"), options)?;
    progress.done();
    Ok(())
}
