//! Memory that a policy places on NUMA nodes. The policy is not preserved, but the pages are: they
//! stay where they are. A host whose kernel does not support nodes, or that has only one, runs the
//! same with all memory on node 0.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::kvm::{INIT_SHARED, MMAP, Mapped, Vm};
use crate::memory::{self, PAGE, memfd, page_content};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "memory-policy/across-a-kexec",
    about: "memory placed on two nodes by policies arrives unchanged and on the same \
                nodes",
    host: HostKind::Kexec,
    stages: &[before, after],
}];

const BOX: &str = "memory-policy";
const PAGES: u64 = 256;
const MPOL_BIND: libc::c_int = 2;
const MPOL_INTERLEAVE: libc::c_int = 3;

/// The number of nodes: one if the kernel does not support them.
fn nodes() -> usize {
    let is_node = |name: &str| {
        let number = name.strip_prefix("node");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let entries = std::fs::read_dir("/sys/devices/system/node");
    let known = entries.map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| is_node(name)).count()
    });
    known.unwrap_or(1)
}

/// Sets the policy of the mapping to the nodes in `mask`.
fn set_policy(mapped: &mut Mapped, mode: libc::c_int, mask: u64) -> Result<()> {
    let bytes = mapped.bytes();
    // SAFETY: the range is mapped and belongs to this process, and the mask, of 64 bits, outlives
    // the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            bytes.as_mut_ptr(),
            bytes.len(),
            mode,
            &raw const mask,
            64_u64,
            0_u64,
        )
    };
    ensure!(result == 0, "mbind: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The node of each page of the mapping; all pages must be present.
fn placed(mapped: &mut Mapped) -> Result<Vec<u8>> {
    let bytes = mapped.bytes();
    let count = bytes.len() / PAGE as usize;
    let pages: Vec<*const u8> = bytes.chunks(PAGE as usize).map(<[u8]>::as_ptr).collect();
    let mut status = vec![-1_i32; count];
    let (me, nowhere) = (0_i32, std::ptr::null::<i32>());
    // SAFETY: both arrays have `count` elements; without target nodes nothing is moved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            me,
            count,
            pages.as_ptr(),
            nowhere,
            status.as_mut_ptr(),
            0,
        )
    };
    ensure!(
        result == 0,
        "move_pages: {}",
        std::io::Error::last_os_error()
    );
    let node = |status: &i32| u8::try_from(*status).context("A page that is nowhere");
    status.iter().map(node).collect()
}

fn fill(mapped: &mut Mapped, seed: u64) {
    for (index, page) in mapped.bytes().chunks_mut(PAGE as usize).enumerate() {
        page.copy_from_slice(&page_content(seed, index as u64));
    }
}

/// (name, seed, policy, nodes): the policies, for two memfds and for a guest_memfd.
const MEMORIES: [(&str, u64, libc::c_int, u64); 3] = [
    ("spread", 70, MPOL_INTERLEAVE, 0b11),
    ("bound", 71, MPOL_BIND, 0b10),
    ("ram", 72, MPOL_BIND, 0b10),
];

fn before(cx: &Cx<'_>) -> Result<()> {
    let nodes = nodes();
    if nodes == 1 {
        cx.value("skipped", "memory-policy: the policies, on one NUMA node")?;
    }
    let vm = Vm::create()?;
    let fdbox = FdBox::create(BOX)?;
    let mut mappings = Vec::new();
    for (name, seed, policy, mask) in MEMORIES {
        let file = match name {
            "ram" => File::from(vm.guest_memfd(PAGES * PAGE, MMAP | INIT_SHARED)?),
            _ => memfd(c"policy", PAGES * PAGE)?,
        };
        let mut mapped = Mapped::new(&file, PAGES * PAGE)?;
        if nodes > 1 {
            set_policy(&mut mapped, policy, mask).context(name)?;
        }
        fill(&mut mapped, seed);
        if nodes > 1 {
            let mut seen = placed(&mut mapped)?;
            seen.sort_unstable();
            seen.dedup();
            let wanted: &[u8] = if mask == 0b11 { &[0, 1] } else { &[1] };
            equal(&format!("The nodes of {name}"), seen.as_slice(), wanted)?;
        }
        fdbox.put(file, name)?;
        mappings.push(mapped);
    }
    let note = memfd(c"note", MEMORIES.len() as u64 * PAGE)?;
    fdbox.put(note.try_clone()?, "note")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()?;
    // SEAL may have moved pages that were where they cannot be pinned.
    if nodes > 1 {
        for (at, mapped) in (0_u64..).zip(&mut mappings) {
            note.write_all_at(&placed(mapped)?, at * PAGE)?;
        }
    }
    Ok(())
}

fn after(_: &Cx<'_>) -> Result<()> {
    let nodes = nodes();
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let _vm = fdbox.get("vm")?;
    let note = memory::file(fdbox.get("note")?);
    for (at, (name, seed, ..)) in (0_u64..).zip(MEMORIES) {
        let mut mapped = Mapped::new(&memory::file(fdbox.get(name)?), PAGES * PAGE)?;
        for (index, page) in mapped.bytes().chunks(PAGE as usize).enumerate() {
            ensure!(
                page == page_content(seed, index as u64),
                "Page {index} of {name} is not what was written"
            );
        }
        if nodes > 1 {
            let mut noted = vec![0; PAGES as usize];
            note.read_exact_at(&mut noted, at * PAGE)?;
            equal(&format!("The nodes of {name}"), placed(&mut mapped)?, noted)?;
        }
    }
    fdbox.delete()
}
