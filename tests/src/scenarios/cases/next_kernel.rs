//! The checks of the next kernel that an update makes before it changes anything.

use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fdbox_lab::plan;
use fdbox_lab::scenario::HostKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::guest::{port, spec};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::Guest;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guest/no-kernel",
    about: "a next kernel that would not boot, or would lose the boxes, is refused with \
                a reason",
    host: HostKind::GuestOneBoot,
    stages: &[no_kernel],
}];

const FOLDER: &str = "/tmp/next-kernel";
const SHORT: &str = "/tmp/next-kernel/short";
const SHORTER: &str = "/tmp/next-kernel/shorter";
const FIFO: &str = "/tmp/next-kernel/fifo";
const EMPTY: &str = "/tmp/next-kernel/empty";
const SILENT: &str = "/tmp/next-kernel/silent";
const WITHOUT_KVM: &str = "/tmp/next-kernel/without-kvm";
const OLD: &str = "/tmp/next-kernel/old";

/// Images with other properties: the offset from the mark, the byte to place there, and the file.
/// docs/handover-abi.md has the layout.
const FORGED: &[(isize, u8, &str)] = &[
    // Another mark.
    (3, b'y', SILENT),
    // Bit 3 is not set.
    (8, 0b0111_0111, WITHOUT_KVM),
    // setup_type_max, which comes before the mark: the kernel does not support KHO.
    (-4, 9, OLD),
];
const MARK: &[u8] = b"FDBx";

/// Options, and the expected message.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["--kernel", "/guest/initramfs"],
        "it is not a kernel image",
    ),
    (
        &["--kernel", "/no/such/file"],
        "/no/such/file: cannot be opened",
    ),
    (
        &["--kernel", SHORT],
        "it is cut short: it has 3000000 bytes",
    ),
    (
        &["--kernel", SHORTER],
        "it is cut short: it has 20000 bytes",
    ),
    (
        &["--kernel", FOLDER],
        "it is a directory, not a regular file",
    ),
    (&["--kernel", FIFO], "it is a FIFO, not a regular file"),
    (
        &["--kernel", SILENT],
        "it does not say that it takes over memfds, VMs, guest_memfds",
    ),
    (
        &["--kernel", WITHOUT_KVM],
        "it is not built to let fdbox.ko make VMs and guest_memfds, and VMs would be lost",
    ),
    (
        &["--kernel", OLD, "--assume-patches"],
        "it is a kernel that reads no handover",
    ),
    (&["--initramfs", EMPTY], "empty: it is empty"),
    (
        &["--initramfs", FOLDER],
        "it is a directory, not a regular file",
    ),
    (
        &["--initramfs", "/dev/zero"],
        "it is a device, not a regular file",
    ),
    (&["--initramfs", FIFO], "it is a FIFO, not a regular file"),
    (&["--cmdline", "kho=of"], "kho=of turns KHO off"),
    (&["--cmdline", "kho=off kho=junk"], "kho=off turns KHO off"),
    (&["--cmdline", "quiet -- kho=on"], "is after --"),
    (
        &["--cmdline", "quiet"],
        "it lacks kho=on, which this kernel was booted with",
    ),
];

fn make_files() -> Result<()> {
    fs::create_dir_all(FOLDER)?;
    for (path, bytes) in [(SHORT, 3_000_000), (SHORTER, 20_000)] {
        let kernel = File::open(plan::NEXT_KERNEL)?;
        let copied = copy(&mut kernel.take(bytes), &mut File::create(path)?)?;
        equal("The bytes of an image that was cut", copied, bytes)?;
    }
    let kernel = fs::read(plan::NEXT_KERNEL)?;
    let mark = kernel.windows(MARK.len()).position(|bytes| bytes == MARK);
    let mark = mark.context("The next kernel does not say what it takes over")?;
    for (offset, byte, path) in FORGED {
        let mut forged = kernel.clone();
        forged[mark.wrapping_add_signed(*offset)] = *byte;
        fs::write(path, forged)?;
    }
    File::create(EMPTY)?;
    mknodat(CWD, FIFO, FileType::Fifo, Mode::RUSR, 0)?;
    Ok(())
}

fn no_kernel(_: &Cx<'_>) -> Result<()> {
    make_files()?;
    let mut guest = Guest::boot(spec("no-kernel", "guest_memfd", 1), &port()?)?;
    let (before, info) = (guest.report()?, fdbox::info()?);
    for (options, message) in REFUSED {
        let ended = guest.live_update(options)?;
        ensure!(
            ended.status == Some(10) && ended.text.contains(message),
            "{options:?}: exit status {:?}: {}",
            ended.status,
            ended.text
        );
        equal("The module's figures", fdbox::info()?, info)?;
    }
    // Nothing waits for a FIFO: the VMM is free at once.
    equal(
        "The guest's state",
        &guest.spec.status()?["state"],
        &json!("running"),
    )?;
    of_good_files(&guest)?;
    same_guest(&before, &guest.report()?)?;
    fs::remove_dir_all(Path::new(FOLDER))?;
    guest.power_off()
}

/// There are no objections to the lab's own next kernel, nor to one that is accepted because of the
/// operator's options.
fn of_good_files(guest: &Guest) -> Result<()> {
    let word = ["--dry-run", "--kernel", SILENT, "--assume-patches"];
    guest.live_update(&word)?.expect(0)?;
    let ended = guest.live_update(&["--dry-run", "--json"])?;
    ended.expect(0)?;
    let last: Value = serde_json::from_str(ended.text.lines().last().context("It has an end")?)?;
    equal("The result", &last["result"], &json!("ready"))
}
