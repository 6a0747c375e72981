//! QEMU as files of the emulated host: the program that the lab itself runs, its libraries, and the
//! few firmware files needed to boot a Linux guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fdbox_lab::bench::QEMU;

use crate::command;
use crate::toolchain::Toolchain;

const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const ROMS: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

/// Each file with its place in the host.
pub(crate) fn get(toolchain: &Toolchain) -> Result<Vec<(PathBuf, String)>> {
    let output = command::output(toolchain.command(&[], "ldd").arg(PROGRAM))?;
    let libraries = libraries(&output);
    ensure!(!libraries.is_empty(), "QEMU has no libraries: {output}");
    let loader = libraries
        .iter()
        .find(|path| path.contains("/ld-linux"))
        .context("QEMU has no loader")?;
    let inside = |path: &str| toolchain.root().join(path.trim_start_matches('/'));
    let mut files = vec![
        (inside(PROGRAM), format!("{QEMU}/qemu-system-x86_64")),
        (inside(loader), format!("{QEMU}/ld.so")),
    ];
    for library in &libraries {
        files.push((inside(library), format!("{QEMU}/lib/{}", name(library))));
    }
    for rom in ROMS {
        files.push((inside(rom), format!("{QEMU}/rom/{}", name(rom))));
    }
    Ok(files)
}

fn name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The paths in the output of ldd: `name => path (address)`, or `path (address)`.
fn libraries(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints_is_understood() {
        let output = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibpixman-1.so.0 => /lib/x86_64-linux-gnu/libpixman-1.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libpixman-1.so.0",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(output), expected);
        assert_eq!(name(expected[0]), "libpixman-1.so.0");
    }
}
