//! The commands and the keeper that they start.

use std::path::Path;
use std::process::{Command, Output};

use vmm_fdbox::{BoxName, Control, Errno, Home};

fn vmm_example(arguments: &[&str], keeper: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm-example"));
    command.args(arguments).arg("--keeper").arg(keeper);
    command.output().unwrap()
}

#[test]
fn a_keeper_is_started_when_it_is_needed_and_ends_when_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper");
    let status = ["status", "--json", "--home", "holder"];
    let output = vmm_example(&status, &path);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "[]\n",
        "{output:?}"
    );
    // If the keeper is about to exit, the next command starts another one.
    let control = loop {
        assert!(vmm_example(&status, &path).status.success());
        match Control::connect(&path) {
            Ok(control) => break control,
            Err(error) => assert_eq!(error.errno(), Errno::PIPE, "{error}"),
        }
    };
    assert_eq!(control.home(), Home::Holder);
    let name = BoxName::new("vm0").unwrap();
    control.create(&name).unwrap();
    drop(control);
    // With a box the keeper stays, and is found.
    let output = vmm_example(&["status", "--json"], &path);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "[{\"name\":\"vm0\",\"home\":\"holder\",\"state\":\"open\",\"fds\":[]}]\n"
    );
    let output = vmm_example(&["status", "--home", "luo"], &path);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("is a holder, and no luo"), "{why}");
    let output = vmm_example(&["discard", "--box", "vm0"], &path);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_keeper_that_cannot_be_says_why() {
    if Path::new("/dev/liveupdate").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = vmm_example(&["status", "--home", "luo"], &dir.path().join("keeper"));
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("kho=on liveupdate=on"), "{why}");
    assert_eq!(output.status.code(), Some(1));
}
