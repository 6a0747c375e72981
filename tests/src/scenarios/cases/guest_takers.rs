//! VMs and guest_memfds that several processes take out of a box, one after the other.

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::guest_memory::{SHARED, check, fill};
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::kvm::{Mapped, Vm};
use crate::memory::{MIB, PAGE, check_pages, memfd, write_pages};
use crate::{host, memory, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guest-memory/takers-that-die",
        about: "files that are taken and kept are not lost when a process that has them is \
                killed",
        host: HostKind::Kexec,
        stages: &[dying_before, dying_after],
    },
    &Scenario {
        name: "guest-memory/takers-pile-up",
        about: "of the VMs of sixty processes that are killed only the last few remain",
        host: HostKind::OneBoot,
        stages: &[takers_pile_up],
    },
    &Scenario {
        name: "guest-memory/to-another-process",
        about: "without a kexec another process gets the same pages in a VM of its own",
        host: HostKind::OneBoot,
        stages: &[another_process],
    },
    &Scenario {
        name: "guest-memory/many",
        about: "a box with a VM and a thousand memories is sealed, and another process gets \
                all of them",
        host: HostKind::OneBoot,
        stages: &[many],
    },
];

/// The seed of the memory content that the helpers check.
pub(super) const TAKERS_SEED: u64 = 45;

/// What the processes that are killed take: the VM, its memory, and a memfd.
const TAKEN: [&str; 3] = ["vm", "ram", "file"];

pub(super) fn dying_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("dying")?;
    let vm = Vm::create()?;
    let memory = vm.guest_memfd(MIB, SHARED)?;
    fill(&memory, 45, MIB / PAGE)?;
    let file = memfd(c"dying", 8 * PAGE)?;
    write_pages(&file, 46, 8)?;
    fdbox.put(memory, "ram")?;
    fdbox.put(file, "file")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()
}

pub(super) fn dying_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("dying")?;
    fdbox.unseal()?;
    // First what the last kernel left, then what a terminated process had.
    for number in ["first", "second"] {
        host::in_a_process_that_dies("take-and-die", &["dying"])?;
        let entries = fdbox.entries()?;
        let live = |entry: &uapi::NextFd| entry.state == uapi::FD_LIVE;
        let what = format!("What is in the box after the {number} taker, as open files");
        equal(
            &what,
            entries.iter().filter(|entry| live(entry)).count(),
            TAKEN.len(),
        )?;
    }
    // It is as good as one that was never taken out: it can be sealed, and another process can get
    // it.
    fdbox.seal()?;
    fdbox.unseal()?;
    let kept = TAKEN.map(|name| fdbox.get_and_keep(name));
    check_pages(&memory::file(fdbox.get("file")?), 46, 8)?;
    host::in_another_process("take-guest", &["dying"])?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    for (name, kept) in TAKEN.into_iter().zip(kept) {
        kept?;
        fails(
            "GET_FD of what was taken for good",
            fdbox.try_get(name),
            Errno::NOENT,
        )?;
    }
    fdbox.delete()
}

/// How many processes are killed at each step; only a few of their VMs may be left each time.
const TAKERS: usize = 20;
const FEW: usize = 4;

fn takers_pile_up(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("pile")?;
    let vm = Vm::create()?;
    let memory = vm.guest_memfd(MIB, SHARED)?;
    fill(&memory, 45, MIB / PAGE)?;
    let file = memfd(c"pile", 8 * PAGE)?;
    write_pages(&file, 46, 8)?;
    fdbox.put(memory, "ram")?;
    fdbox.put(file, "file")?;
    fdbox.put(vm.into_fd(), "vm")?;
    let before = host::kernel_holds()?.vms;
    // Some take only the VM: the memory then belongs to an older VM.
    for helper in ["take-vm-and-die", "take-and-die", "take-vm-and-die"] {
        for _ in 0..TAKERS {
            host::in_a_process_that_dies(helper, &["pile"])?;
        }
        // The parent is notified of a process's death before the kernel has released its files.
        host::until("Few VMs are left", || {
            Ok(host::kernel_holds()?.vms <= before + FEW)
        })?;
        fdbox.seal()?;
        fdbox.unseal()?;
    }
    host::in_another_process("take-guest", &["pile"])?;
    drop(fdbox.get("file")?);
    fdbox.delete()
}

/// The helper `take-vm-and-die BOX`: takes the VM, keeps it in the box as well, and is killed.
pub(crate) fn take_vm_and_die(name: &str) -> Result<()> {
    let _vm = FdBox::open(name)?.get_and_keep("vm")?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    bail!("It outlived SIGKILL")
}

/// The helper `take-and-die BOX`: takes all parts of a guest, keeps them in the box as well, and is
/// killed.
pub(crate) fn take_and_die(name: &str) -> Result<()> {
    let fdbox = FdBox::open(name)?;
    let _vm = usable(fdbox.get_and_keep("vm")?, &fdbox.get_and_keep("ram")?)?;
    check_pages(&memory::file(fdbox.get_and_keep("file")?), 46, 8)?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    bail!("It outlived SIGKILL")
}

/// The VM, if this process can run a guest with it on this memory and the memory has the right
/// content.
fn usable(vm: OwnedFd, memory: &OwnedFd) -> Result<Vm> {
    let vm = Vm::from_fd(vm);
    ensure!(vm.works()?, "KVM does not serve this process by the VM");
    check(memory, TAKERS_SEED, MIB / PAGE)?;
    let mut mapped = Mapped::new(&File::from(memory.try_clone()?), MIB)?;
    vm.bind(memory, &mut mapped)?;
    Ok(vm)
}

/// A VM, and memory of it with known content.
pub(super) struct Guest {
    vm: Vm,
    memory: OwnedFd,
}

impl Guest {
    pub(super) fn create() -> Result<Self> {
        let vm = Vm::create()?;
        let memory = vm.guest_memfd(MIB, SHARED)?;
        fill(&memory, 45, MIB / PAGE)?;
        Ok(Self { vm, memory })
    }

    pub(super) fn put(self, fdbox: &FdBox) -> Result<()> {
        fdbox.put(self.memory, "ram")?;
        fdbox.put(self.vm.into_fd(), "vm")
    }
}

fn another_process(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("another-process")?;
    Guest::create()?.put(&fdbox)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    host::in_another_process("take-guest", &["another-process"])?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fdbox.delete()
}

/// So many memories that a search through all of them for each of them would be noticed.
const MANY: usize = 1000;

fn many_name(number: usize) -> String {
    format!("ram-{number}")
}

fn many(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("many-memories")?;
    let vm = Vm::create()?;
    for number in 0..MANY {
        fdbox.put(vm.guest_memfd(PAGE, SHARED)?, &many_name(number))?;
    }
    // After everything that depends on it.
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()?;
    fdbox.unseal()?;
    host::in_another_process("take-many", &["many-memories"])?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fdbox.delete()
}

/// The helper `take-many BOX`: takes a VM and its many memories.
pub(crate) fn take_many(name: &str) -> Result<()> {
    let fdbox = FdBox::open(name)?;
    let first = fdbox.get(&many_name(0))?;
    for number in 1..MANY {
        drop(fdbox.get(&many_name(number))?);
    }
    let vm = Vm::from_fd(fdbox.get("vm")?);
    vm.bind(
        &first,
        &mut Mapped::new(&File::from(first.try_clone()?), PAGE)?,
    )
}

/// The helper `take-guest BOX`: takes a VM and its memory out of a box, in a separate process.
pub(crate) fn take_guest(name: &str) -> Result<()> {
    take_guest_from(&FdBox::open(name)?)
}

/// Takes a [`Guest`] out of the box and checks that this process can use it.
pub(super) fn take_guest_from(fdbox: &FdBox) -> Result<()> {
    usable(fdbox.get("vm")?, &fdbox.get("ram")?).map(drop)
}
