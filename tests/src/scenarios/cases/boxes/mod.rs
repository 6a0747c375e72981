//! Boxes: how long they live, what they hold, and how they end.

mod here;
mod node;

pub(crate) use here::put_memfd;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, MIB, PAGE, check_pages, memfd, write_pages};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "boxes/sealed-and-open",
        about: "of two boxes the sealed one arrives in the next kernel, the open one does not",
        host: HostKind::Kexec,
        stages: &[two_before, two_after],
    },
    &Scenario {
        name: "boxes/info",
        about: "the module reports its features, those of its kernel, and what it keeps",
        host: HostKind::Kexec,
        stages: &[info_before, info_after],
    },
    &Scenario {
        name: "boxes/owner-and-mode",
        about: "a box's node keeps its owner and mode",
        host: HostKind::Kexec,
        stages: &[owner_before, owner_after],
    },
    &Scenario {
        name: "boxes/owner-of-the-node",
        about: "the owner and mode that count are the latest of the node, not those of an \
                alias on which SEAL was called",
        host: HostKind::Kexec,
        stages: &[node::alias_before, node::alias_between, node::alias_after],
    },
    &Scenario {
        name: "boxes/empty",
        about: "an empty sealed box arrives empty and sealed",
        host: HostKind::Kexec,
        stages: &[empty_before, empty_after],
    },
    &Scenario {
        name: "boxes/longest-names",
        about: "names of 255 bytes, with any bytes except NUL and slash, arrive",
        host: HostKind::Kexec,
        stages: &[names_before, names_after],
    },
    &Scenario {
        name: "boxes/carried-on",
        about: "a sealed box that is never opened goes through two kexecs",
        host: HostKind::Kexec,
        stages: &[carried_before, carried_between, carried_after],
    },
    &Scenario {
        name: "boxes/late-module",
        about: "a host boots without the module: the handover is there when the module is \
                loaded",
        host: HostKind::LateModule,
        stages: &[late_before, late_after],
    },
    &Scenario {
        name: "boxes/outlive-their-program",
        about: "a program puts a memfd and exits; another takes it",
        host: HostKind::OneBoot,
        stages: &[here::outlive],
    },
    &Scenario {
        name: "boxes/many",
        about: "each of two thousand boxes is listed once, found by name, and gone when \
                deleted",
        host: HostKind::OneBoot,
        stages: &[here::many],
    },
    &Scenario {
        name: "boxes/many-descriptors",
        about: "a box with 33,000 descriptors is sealed, and each of them can be taken out \
                by its name",
        host: HostKind::OneBoot,
        stages: &[here::many_descriptors],
    },
    &Scenario {
        name: "boxes/unsealed-leaves-nothing",
        about: "UNSEAL is the exact inverse of SEAL: the handover is as before",
        host: HostKind::OneBoot,
        stages: &[here::inverse],
    },
    &Scenario {
        name: "boxes/seal-is-all-or-nothing",
        about: "a SEAL that fails at one descriptor names it and undoes the ones before",
        host: HostKind::OneBoot,
        stages: &[here::all_or_nothing],
    },
    &Scenario {
        name: "boxes/without-kho",
        about: "without KHO a program puts a memfd, seals and exits; another takes it",
        host: HostKind::WithoutKho,
        stages: &[here::without_kho],
    },
];

const KINDS: u64 = uapi::FEATURE_KHO
    | uapi::FEATURE_MEMFD
    | uapi::FEATURE_KVM_VM
    | uapi::FEATURE_GUEST_MEMFD
    | uapi::FEATURE_IOMMUFD
    | uapi::FEATURE_VFIO_PCI
    | uapi::FEATURE_HUGETLB;

fn info_before(_: &Cx<'_>) -> Result<()> {
    equal("The features", fdbox::info()?.features, KINDS)?;
    let fdbox = FdBox::create("info")?;
    equal(
        "The state in the list",
        state("info")?,
        Some(uapi::STATE_OPEN),
    )?;
    fdbox.seal()?;
    equal(
        "The state in the list",
        state("info")?,
        Some(uapi::STATE_SEALED),
    )
}

fn info_after(_: &Cx<'_>) -> Result<()> {
    let info = fdbox::info()?;
    equal(
        "The features",
        info.features,
        KINDS | uapi::FEATURE_KHO_BOOT,
    )?;
    let fdbox = FdBox::open("info")?;
    fdbox.unseal()?;
    fdbox.delete()?;
    equal("The number of boxes", fdbox::info()?.boxes, info.boxes - 1)
}

fn state(name: &str) -> Result<Option<u32>> {
    Ok(fdbox::listed(name)?.map(|listed| listed.state))
}

fn two_before(_: &Cx<'_>) -> Result<()> {
    for (name, seed) in [("two-sealed", 20), ("two-open", 21), ("two-unsealed", 22)] {
        let fdbox = FdBox::create(name)?;
        let file = memfd(c"two", 8 * PAGE)?;
        write_pages(&file, seed, 8)?;
        fdbox.put(file, "memory")?;
    }
    let unsealed = FdBox::open("two-unsealed")?;
    unsealed.seal()?;
    FdBox::open("two-sealed")?.seal()?;
    unsealed.unseal()
}

fn two_after(_: &Cx<'_>) -> Result<()> {
    for name in ["two-open", "two-unsealed"] {
        let listed = fdbox::listed(name)?;
        equal(name, listed.is_some(), false)?;
        ensure!(
            !Path::new(&fdbox::node_path(name)).exists(),
            "{name} has a node"
        );
    }
    let Some(listed) = fdbox::listed("two-sealed")? else {
        anyhow::bail!("The sealed box is not in the list");
    };
    equal("Its state", listed.state, uapi::STATE_SEALED)?;
    equal("Its number of descriptors", listed.fds, 1)?;
    let fdbox = FdBox::open("two-sealed")?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("memory")?), 20, 8)?;
    fdbox.delete()
}

fn owner_before(_: &Cx<'_>) -> Result<()> {
    let fresh = FdBox::create("owner")?;
    let metadata = fresh.node.metadata()?;
    equal("The mode of a new node", metadata.mode() & 0o777, 0o600)?;
    equal(
        "The owner of a new node",
        (metadata.uid(), metadata.gid()),
        (0, 0),
    )?;
    ensure!(
        metadata.file_type().is_char_device(),
        "The node is no character device"
    );
    fchown(&fresh.node, Some(7), Some(8))?;
    fresh
        .node
        .set_permissions(PermissionsExt::from_mode(0o640))?;
    // SEAL records the attributes of the node.
    FdBox::open("owner")?.seal()
}

fn owner_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("owner")?;
    let metadata = fdbox.node.metadata()?;
    equal("The mode", metadata.mode() & 0o777, 0o640)?;
    equal("The owner", (metadata.uid(), metadata.gid()), (7, 8))?;
    fdbox.unseal()?;
    fdbox.delete()
}

fn empty_before(_: &Cx<'_>) -> Result<()> {
    FdBox::create("nothing")?.seal()
}

fn empty_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("nothing")?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fails(
        "DELETE_BOX of a sealed box",
        fdbox.try_delete(),
        Errno::BUSY,
    )?;
    fdbox.unseal()?;
    fdbox.delete()
}

fn longest_name(first: char) -> String {
    let rest = "!\"#$%&'()*+,-.0123456789:;<=>?@[\\]^_`{|}~ \u{e4}\u{20ac}";
    let mut name: String = first.to_string();
    while name.len() + rest.len() <= 255 {
        name.push_str(rest);
    }
    while name.len() < 255 {
        name.push('x');
    }
    name
}

fn names_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(&longest_name('b'))?;
    fdbox.put(memfd(c"name", PAGE)?, &longest_name('f'))?;
    fdbox.seal()
}

fn names_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(&longest_name('b'))?;
    let names: Vec<String> = fdbox
        .entries()?
        .iter()
        .map(|entry| entry.name.text())
        .collect();
    equal("The names in the box", names, vec![longest_name('f')])?;
    fdbox.unseal()?;
    fdbox.get(&longest_name('f'))?;
    fdbox.delete()
}

fn carried_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("carried")?;
    let file = memfd(c"carried", MIB)?;
    write_pages(&file, 22, MIB / PAGE)?;
    fdbox.put(file, "memory")?;
    fdbox.seal()
}

fn carried_between(_: &Cx<'_>) -> Result<()> {
    let listed = fdbox::listed("carried")?;
    equal(
        "The box in the list",
        listed.map(|listed| listed.state),
        Some(uapi::STATE_SEALED),
    )
}

fn carried_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("carried")?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("memory")?), 22, MIB / PAGE)?;
    fdbox.delete()
}

/// More than could remain untouched by chance.
const LATE_PAGES: u64 = 256 * MIB / PAGE;

fn late_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("late")?;
    let file = memfd(c"late", LATE_PAGES * PAGE)?;
    write_pages(&file, 23, LATE_PAGES)?;
    fdbox.put(file, "memory")?;
    fdbox.seal()
}

fn late_after(_: &Cx<'_>) -> Result<()> {
    ensure!(
        !Path::new(fdbox::CONTROL).exists(),
        "The module was loaded by somebody else"
    );
    // The new kernel works as usual: it must not allocate pages of the handover.
    let other = memfd(c"other", LATE_PAGES * PAGE)?;
    write_pages(&other, 24, LATE_PAGES)?;
    host::load_module("fdbox")?;
    let fdbox = FdBox::open("late")?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("memory")?), 23, LATE_PAGES)?;
    check_pages(&other, 24, LATE_PAGES)?;
    fdbox.delete()
}
