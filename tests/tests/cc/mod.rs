//! C programs that include headers of the lifeboat's module.

use std::path::Path;
use std::process::Command;

/// Compiles the program for this machine, with these flags, and returns what it writes.
pub(crate) fn output(program: &str, flags: &[String]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("boat.c"), dir.path().join("boat"));
    std::fs::write(&source, program).unwrap();
    let status = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../kmod/boat"))
        .args(flags)
        .args(["-o".as_ref(), binary.as_os_str(), source.as_os_str()])
        .status()
        .expect("run cc: install a C compiler and the Linux headers (gcc, libc6-dev)");
    assert!(status.success(), "the header does not compile");
    Command::new(&binary).output().unwrap().stdout
}
