//! Runs the function with which patch 0012 reserves preserved memory in the kernel's own memblock simulator, with
//! memory that was partly reserved before.

use anyhow::{Context, Result};

use crate::cache::KeyBuilder;
use crate::command;
use crate::kernel::Flavour;
use crate::lab::Lab;

/// Builds and runs `tests/kernel/kho_noinit.c`. A warning from memblock is an error: the kernel would warn at boot.
const BUILD_AND_RUN: &str = r#"
exec 2>&1
cd /lab/work
mkdir linux asm
ln -s /lab/linux/include/linux/memblock.h linux
ln -s /lab/linux/tools/arch/x86/include/asm/asm.h /lab/linux/tools/arch/x86/include/asm/cmpxchg.h asm
sed -n '/^static void __init kho_reserve_preserved(/,/^}/p' \
    /lab/linux/kernel/liveupdate/kexec_handover.c >kho_reserve_preserved.h
test -s kho_reserve_preserved.h
ln -s /lab/linux/mm/memblock.c .
simulator=/lab/linux/tools/testing/memblock
gcc -I. -I$simulator -I/lab/linux/tools/include -O2 -DCONFIG_PHYS_ADDR_T_64BIT -o noinit \
    /lab/tests/kho_noinit.c memblock.c $simulator/mmzone.c $simulator/lib/slab.c
./noinit 2>warnings
sort warnings | uniq -c
test ! -s warnings
"#;

/// Runs once for each kernel and test.
pub(super) fn survives_overlap(lab: &Lab) -> Result<()> {
    let kernel = lab.kernels()?.get(Flavour::A)?;
    let tests = lab.checkout.join("tests/kernel");
    let key = KeyBuilder::new("noinit 1")
        .text("kernel", kernel.key.as_str())
        .text("script", BUILD_AND_RUN)
        .file(&tests.join("kho_noinit.c"))?
        .build();
    lab.cache.get("noinit", &key, |dir| {
        let log = lab.fresh_log("module-noinit")?;
        let [(linux, _), _] = kernel.mounts();
        let mounts = [
            (linux.as_path(), "/lab/linux"),
            (tests.as_path(), "/lab/tests"),
            (dir, "/lab/work"),
        ];
        let mut sh = lab.toolchain.command(&mounts, "sh");
        sh.args(["-ec", BUILD_AND_RUN]);
        command::logged(&mut sh, &log, |_| {}).context("Preserved memory that was reserved before")
    })?;
    Ok(())
}
