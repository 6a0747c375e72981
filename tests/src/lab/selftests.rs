//! The kernel's own selftests for what the project's patches touch, built statically.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::command;
use crate::progress::Progress;
use crate::source::Source;
use crate::toolchain::Toolchain;

/// Of tools/testing/selftests/kvm.
const KVM: &[&str] = &["guest_memfd_test", "pre_fault_memory_test"];
/// Of tools/testing/selftests/liveupdate.
const LIVEUPDATE: &[&str] = &["liveupdate", "luo_kexec_simple"];

/// The KVM tests' library also has VFIO's, which these tests do not use and which needs libuuid.
const BUILD: &str = r#"
exec 2>&1
make -s -C /lab/linux O=/lab/work/obj headers_install INSTALL_HDR_PATH=/lab/work/usr
cd /lab/linux/tools/testing/selftests
headers="-isystem /lab/work/usr/include"
for test in $1; do
    make -j"$(nproc)" -C kvm OUTPUT=/lab/work/kvm KHDR_INCLUDES="$headers" LDFLAGS=-static \
        LIBVFIO_O= LDLIBS="-ldl -pthread -lnuma" "/lab/work/kvm/$test"
    cp "/lab/work/kvm/$test" /lab/work/bin
done
for test in $2; do
    make -j"$(nproc)" -C liveupdate OUTPUT=/lab/work/liveupdate KHDR_INCLUDES="$headers" \
        LDFLAGS=-static "/lab/work/liveupdate/$test"
    cp "/lab/work/liveupdate/$test" /lab/work/bin
done
rm -r /lab/work/obj /lab/work/usr /lab/work/kvm /lab/work/liveupdate
"#;

/// Where they are in the host.
pub(crate) const FOLDER: &str = "/selftests";

/// Builds them when missing; returns each with its place in the host.
pub(crate) fn get(
    cache: &Cache,
    toolchain: &Toolchain,
    source: &Source,
) -> Result<Vec<(PathBuf, String)>> {
    let key = KeyBuilder::new("selftests 1")
        .text("source", source.key.as_str())
        .text("script", BUILD)
        .text("tests", &[KVM, LIVEUPDATE].concat().join(" "))
        .build();
    let dir = cache.get("selftests", &key, |dir| {
        build(cache, toolchain, source, dir)
    })?;
    let tests = [KVM, LIVEUPDATE].concat();
    let place = |test: &&str| (dir.join("bin").join(test), format!("{FOLDER}/{test}"));
    Ok(tests.iter().map(place).collect())
}

fn build(cache: &Cache, toolchain: &Toolchain, source: &Source, dir: &Path) -> Result<()> {
    let log = cache.dir("logs")?.join("selftests.log");
    let mut progress = Progress::start("Kernel selftests", Some(140));
    fs::create_dir(dir.join("bin"))?;
    let mounts = [(source.dir.as_path(), "/lab/linux"), (dir, "/lab/work")];
    let mut sh = toolchain.command(&mounts, "sh");
    sh.args(["-ec", BUILD, "sh", &KVM.join(" "), &LIVEUPDATE.join(" ")]);
    command::counted(&mut sh, &log, &mut progress).context("Build the kernel's selftests")?;
    progress.done();
    Ok(())
}
