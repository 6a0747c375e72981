//! The nodes of boxes, and other nodes with the same device numbers.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::cases::Cx;
use crate::check::equal;
use crate::fdbox::{FdBox, node_path};

const ALIASED: &str = "owner-alias";
const REPLACED: &str = "owner-replaced";
const LATE: &str = "owner-late";

/// Creates another node with the box's number at `path`, accessible to anyone, and opens it.
fn alias(fdbox: &FdBox, path: &str) -> Result<FdBox> {
    let number = fdbox.node.metadata()?.rdev();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path, FileType::CharacterDevice, mode, number)
        .with_context(|| format!("Make {path}"))?;
    chown(path, Some(1), Some(2))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
    let node = File::options().read(true).write(true).open(path)?;
    Ok(FdBox {
        node,
        name: fdbox.name.clone(),
    })
}

fn owner(name: &str) -> Result<(u32, u32, u32)> {
    let metadata = std::fs::metadata(node_path(name))?;
    Ok((metadata.mode() & 0o777, metadata.uid(), metadata.gid()))
}

pub(super) fn alias_before(_: &Cx<'_>) -> Result<()> {
    for name in [ALIASED, REPLACED] {
        FdBox::create(name)?;
        let path = node_path(name);
        chown(&path, Some(7), Some(8))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640))?;
    }
    // Changes after SEAL count as well.
    FdBox::create(LATE)?.seal()?;
    std::fs::set_permissions(node_path(LATE), PermissionsExt::from_mode(0o604))?;
    // At another path, and next to the node under another name.
    let fdbox = FdBox::open(ALIASED)?;
    alias(&fdbox, "/dev/fdbox/owner-beside")?.seal()?;
    fdbox.unseal()?;
    alias(&fdbox, "/tmp/owner-alias")?.seal()?;
    // The node no longer belongs to the box: the module only knows its original attributes.
    let fdbox = FdBox::open(REPLACED)?;
    std::fs::remove_file(node_path(REPLACED))?;
    File::create(node_path(REPLACED))?;
    fdbox.seal()?;
    std::fs::remove_file(node_path(REPLACED))?;
    std::fs::remove_file("/dev/fdbox/owner-beside")?;
    Ok(std::fs::remove_file("/tmp/owner-alias")?)
}

pub(super) fn alias_between(_: &Cx<'_>) -> Result<()> {
    equal("Mode and owner, changed late", owner(LATE)?, (0o604, 0, 0))?;
    // It is not unsealed: it is carried on with its present attributes.
    chown(node_path(LATE), Some(3), Some(4))?;
    equal("Mode and owner", owner(ALIASED)?, (0o640, 7, 8))
}

pub(super) fn alias_after(_: &Cx<'_>) -> Result<()> {
    equal("Mode and owner", owner(ALIASED)?, (0o640, 7, 8))?;
    equal(
        "Mode and owner of the one whose node was replaced",
        owner(REPLACED)?,
        (0o600, 0, 0),
    )?;
    equal(
        "Mode and owner of the one that was carried on",
        owner(LATE)?,
        (0o604, 3, 4),
    )?;
    for name in [ALIASED, REPLACED, LATE] {
        let fdbox = FdBox::open(name)?;
        fdbox.unseal()?;
        fdbox.delete()?;
    }
    Ok(())
}
