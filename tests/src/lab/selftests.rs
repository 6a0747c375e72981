//! The kernel's own selftests for the code that the project's patches touch, statically linked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::progress::Progress;
use crate::source::Source;
use crate::toolchain::Toolchain;
use crate::{command, package};

/// (folder in tools/testing/selftests, programs).
const PROGRAMS: &[(&str, &[&str])] = &[
    (
        "kvm",
        &[
            "guest_memfd_test",
            "pre_fault_memory_test",
            "set_memory_region_test",
        ],
    ),
    (
        "liveupdate",
        &[
            "liveupdate",
            "luo_kexec_simple",
            "luo_multi_session",
            "luo_stress_files",
            "luo_stress_sessions",
        ],
    ),
    (
        "vfio",
        &[
            "vfio_dma_mapping_test",
            "vfio_dma_mapping_mmio_test",
            "vfio_iommufd_setup_test",
            "vfio_pci_device_test",
            "vfio_pci_driver_test",
        ],
    ),
    ("iommu", &["iommufd", "iommufd_fail_nth"]),
];

/// Arguments: FOLDER/PROGRAM... The library of the KVM tests also contains VFIO's, which these
/// tests do not use. The time limit of a test, 30 s, is meant for hardware: a header with a longer
/// one is mounted over the source's in this build.
const BUILD: &str = r#"
exec 2>&1
harness=tools/testing/selftests/kselftest_harness.h
sed 's/^\(#define TEST_TIMEOUT_DEFAULT\) 30$/\1 600/' /lab/linux/$harness >/lab/work/harness.h
grep -q 'TEST_TIMEOUT_DEFAULT 600' /lab/work/harness.h
mount --bind /lab/work/harness.h /lab/linux/$harness
make -s -C /lab/linux O=/lab/work/obj headers_install INSTALL_HDR_PATH=/lab/work/usr
cd /lab/linux/tools/testing/selftests
headers="-isystem /lab/work/usr/include"
mkdir -p /lab/work/out
for test in "$@"; do
    folder=${test%/*}
    out=/lab/work/out/$folder
    mkdir -p "$out"
    case $folder in
    kvm) set -- LDFLAGS=-static LIBVFIO_O= LDLIBS="-ldl -pthread -lnuma" ;;
    vfio) set -- LDFLAGS="-static -L/lab/uuid/usr/lib/x86_64-linux-gnu" \
        EXTRA_CFLAGS=-I/lab/uuid/usr/include ;;
    *) set -- LDFLAGS=-static ;;
    esac
    make -j"$(nproc)" -C "$folder" OUTPUT="$out" KHDR_INCLUDES="$headers" "$@" "$out/${test#*/}"
    cp "$out/${test#*/}" /lab/work/bin
done
rm -r /lab/work/obj /lab/work/usr /lab/work/out /lab/work/harness.h
"#;

/// Where they are in the host.
pub(crate) const FOLDER: &str = "/selftests";

/// Builds them if they are missing; returns each with its place in the host.
pub(crate) fn get(
    cache: &Cache,
    toolchain: &Toolchain,
    source: &Source,
) -> Result<Vec<(PathBuf, String)>> {
    let key = KeyBuilder::new("selftests 1")
        .text("source", source.key.as_str())
        .text("script", BUILD)
        .text("tests", &paths().join(" "))
        .build();
    let dir = cache.get("selftests", &key, |dir| {
        build(cache, toolchain, source, dir)
    })?;
    let programs = PROGRAMS.iter().flat_map(|(_, programs)| *programs);
    let place = |program: &&str| (dir.join("bin").join(program), format!("{FOLDER}/{program}"));
    Ok(programs.map(place).collect())
}

/// Each of them, as `folder/program`.
fn paths() -> Vec<String> {
    let of_folder = |(folder, programs): &(&str, &[&str])| {
        let path = |program: &&str| format!("{folder}/{program}");
        programs.iter().map(path).collect::<Vec<_>>()
    };
    PROGRAMS.iter().flat_map(of_folder).collect()
}

fn build(cache: &Cache, toolchain: &Toolchain, source: &Source, dir: &Path) -> Result<()> {
    let log = cache.dir("logs")?.join("selftests.log");
    let uuid = package::UUID.get(cache, toolchain)?;
    let mut progress = Progress::start("Kernel selftests", Some(180));
    fs::create_dir(dir.join("bin"))?;
    let mounts = [
        (source.dir.as_path(), "/lab/linux"),
        (dir, "/lab/work"),
        (uuid.as_path(), package::UUID.place),
    ];
    let mut sh = toolchain.command(&mounts, "sh");
    sh.args(["-ec", BUILD, "sh"]).args(paths());
    command::counted(&mut sh, &log, &mut progress).context("Build the kernel's selftests")?;
    progress.done();
    Ok(())
}
