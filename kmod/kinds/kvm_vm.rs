// SPDX-License-Identifier: GPL-2.0

//! KVM VM.
//!
//! Preserved: the type of the VM.
//!
//! Refused: VMs whose memory or state is encrypted or not accessible to the host (SEV, SEV-ES, SEV-SNP,
//! TDX, protected VMs).
//!
//! Not preserved: vCPUs, interrupt controllers, clock, memory slots. The VMM saves them and builds them
//! again in the VM that it takes out.
//!
//! KVM serves only the process in whose address space the VM was created. So a process that takes out
//! a VM of another process, or of the last kernel, gets a new VM of the same type; the process that put
//! the VM in gets it back.
//!
//! Data: see `abi/kvm.rs`. No extents.

use crate::abi::kvm as abi_kvm;
use crate::abi::layout::Layout;
use crate::boxes::entry::{
    Content,
    Entry, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::name::Name;
use crate::objects::{
    guest_memfd::GuestMemfd,
    vm::{
        self,
        Vm, //
    }, //
};
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::{
    Substitute,
    TakeCx, //
};
use crate::unseal_cx::UnsealCx;
use kernel::{
    fs::File,
    prelude::*,
    str::CStr, //
};

/// What a kernel without our patches lacks.
const PATCH: &str = "kmod/patches/0003-KVM-create-VM-files-for-other-modules.patch";
/// What is missing if KVM is a module that is not loaded.
pub(super) const MODULE: &str = "kvm.ko: load kvm-amd or kvm-intel, and try again";

/// ELF machine number of the architecture.
const MACHINE: u32 = 62;
#[cfg(not(CONFIG_X86_64))]
compile_error!("fdbox is built and tested for x86-64 only");

pub(crate) struct KvmVm;

/// Whether `file` looks like one of `kind`, in a kernel that does not support the kind, so that
/// PUT_FD can report what is missing.
pub(super) fn unserved(kind: &dyn Kind, file: &File, name: &CStr) -> bool {
    if kind.supported().is_ok() {
        return false;
    }
    file::is_called(file, name)
}

impl Kind for KvmVm {
    fn compatible(&self) -> &[u8] {
        abi_kvm::KVM_VM
    }

    fn matches(&self, file: &File) -> bool {
        Vm::of(file).is_some() || unserved(self, file, c"kvm-vm")
    }

    fn supported(&self) -> Result<(), &'static str> {
        super::lacks(vm::lacks(), MODULE, PATCH)
    }

    fn object(&self, file: &File) -> usize {
        Vm::of(file).map_or(0, Vm::address)
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        let Some(what) = Vm::of(cx.file).ok_or(EIO)?.encrypted() else {
            return Ok(());
        };
        Err(cx.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!(
                "the VM is encrypted or protected ({}): nobody can save what is in it, so the next kernel could not run it on; take it out of the box",
                what
            ),
        ))
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let vm = Vm::of(cx.file).ok_or(EIO)?;
        let saved = abi_kvm::Vm {
            kind: vm.vm_type(),
            machine: MACHINE,
        };
        saved.put(record)
    }

    fn unseal(&self, _file: &File, _record: Option<&Record>) {}

    fn take(&self, cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        let vm = Vm::of(file).ok_or(EIO)?;
        if vm.is_mine() {
            return Ok(file.clone());
        }
        let (name, line) = (cx.name(), cx.id());
        vm_for_taker(cx, Line::of_live(line, name, vm)?)
    }

    fn check(&self, _cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        saved_type(record).map(drop)
    }

    fn borrow(&self, cx: &mut TakeCx<'_>, compatible: &[u8], record: &Record) -> Result<FileRef> {
        // It has no memory.
        self.restore(cx, compatible, record, &mut Progress::default())
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        _progress: &mut Progress,
    ) -> Result<FileRef> {
        let (name, line) = (cx.name(), cx.id());
        vm_for_taker(cx, Line::of_saved(line, name, record)?)
    }
}

fn saved_type(record: &Record) -> Result<u64> {
    match abi_kvm::Vm::decode(record.data()) {
        Ok(vm) if vm.machine == MACHINE => Ok(vm.kind),
        _ => Err(EIO),
    }
}

/// A descriptor for which each process gets a VM of its own: see [`Substitute`].
pub(super) struct Line {
    id: u64,
    name: Name,
    from_last_kernel: bool,
    vm_type: u64,
    /// The VM that is in the box; 0 for one of the last kernel.
    vm: usize,
}

impl Line {
    /// For a VM of another process, which is in the box.
    fn of_live(id: u64, name: &Name, vm: Vm<'_>) -> Result<Line> {
        Ok(Line {
            id,
            name: name.try_clone()?,
            from_last_kernel: false,
            vm_type: vm.vm_type(),
            vm: vm.address(),
        })
    }

    /// For a VM of the last kernel, which is in the box.
    fn of_saved(id: u64, name: &Name, record: &Record) -> Result<Line> {
        Ok(Line {
            id,
            name: name.try_clone()?,
            from_last_kernel: true,
            vm_type: saved_type(record)?,
            vm: 0,
        })
    }

    /// For a VM that is not in the box any more.
    fn of_substitute(substitute: &Substitute) -> Result<Line> {
        Ok(Line {
            id: substitute.line,
            name: substitute.name.try_clone()?,
            from_last_kernel: substitute.from_last_kernel,
            vm_type: substitute.tag,
            vm: substitute.object,
        })
    }

    fn into_substitute(self, vm: usize, file: Option<FileRef>) -> Substitute {
        Substitute {
            name: self.name,
            line: self.id,
            from_last_kernel: self.from_last_kernel,
            tag: self.vm_type,
            object: vm,
            file,
        }
    }
}

/// Where the VM for the current task comes from.
pub(super) enum Source {
    /// It is in the box: the process left it there, or put a duplicate back.
    Mine(FileRef),
    /// A new one is created, in place of one of another process or kernel.
    Another(Line),
}

/// The VM for the current task.
pub(super) fn vm_from(cx: &mut TakeCx<'_>, source: Source) -> Result<FileRef> {
    match source {
        Source::Mine(file) => Ok(file),
        Source::Another(line) => vm_for_taker(cx, line),
    }
}

/// The VM of this line for the current task: the one that it got before, or a new one.
fn vm_for_taker(cx: &mut TakeCx<'_>, line: Line) -> Result<FileRef> {
    let is_mine = |file: &&FileRef| Vm::of(file).is_some_and(Vm::is_mine);
    let of_line = cx.substitutes.iter().filter(|it| it.line == line.id);
    let first = of_line.clone().next();
    let from_last_kernel = first.map_or(line.from_last_kernel, |it| it.from_last_kernel);
    if let Some(file) = of_line.filter_map(|it| it.file.as_ref()).find(is_mine) {
        return Ok(file.clone());
    }
    let line = Line {
        from_last_kernel,
        ..line
    };
    let name = line.name.try_clone()?;
    cx.substitutes.reserve(2, GFP_KERNEL)?;
    let file = vm::create(line.vm_type, cx.fd)?;
    let vm = Vm::of(&file).ok_or(EIO)?.address();
    let given = Line { name, ..line };
    // Space was reserved for both. Memory that belonged to the previous VM finds its line by the
    // first.
    if line.vm != 0 && !cx.substitutes.iter().any(|it| it.object == line.vm) {
        let before = line.vm;
        let _ = cx
            .substitutes
            .push_within_capacity(line.into_substitute(before, None));
    }
    let substitute = given.into_substitute(vm, Some(file.clone()));
    let _ = cx.substitutes.push_within_capacity(substitute);
    forget_unneeded(cx);
    Ok(file)
}

/// Drops references to VMs whose process is gone. Their addresses stay as long as memory in the box
/// belongs to them, and so does the last entry of each line, from which the next VM is created.
fn forget_unneeded(cx: &mut TakeCx<'_>) {
    for substitute in cx.substitutes.iter_mut() {
        let vm = substitute.file.as_ref().and_then(|file| Vm::of(file));
        if vm.is_none_or(Vm::is_left) {
            substitute.file = None;
            let vm = substitute.object;
            if !cx.slots.iter().any(|slot| slot.belongs_to(vm)) {
                // Another VM may get this address.
                substitute.object = 0;
            }
        }
    }
    for at in (0..cx.substitutes.len()).rev() {
        let substitute = &cx.substitutes[at];
        let mut later = cx.substitutes[at + 1..].iter();
        let is_last = !later.any(|later| later.line == substitute.line);
        if substitute.object == 0 && substitute.file.is_none() && !is_last {
            let _ = cx.substitutes.remove(at);
        }
    }
}

/// The source of the VM called `name`, which is in the box or was.
pub(super) fn source_by_name(cx: &TakeCx<'_>, name: &[u8]) -> Result<Source> {
    if let Some(entry) = cx.named(name)? {
        return source_of(entry);
    }
    let given = |substitute: &&Substitute| {
        substitute.name.as_bytes() == name && substitute.from_last_kernel
    };
    let substitute = cx.substitutes.iter().find(given).ok_or(EIO)?;
    Ok(Source::Another(Line::of_substitute(substitute)?))
}

/// The source of the VM at address `vm` of another process, which is in the box or was.
pub(super) fn source_by_vm(cx: &TakeCx<'_>, vm: Vm<'_>) -> Result<Option<Source>> {
    if let Some(entry) = cx.of_object(vm.address()) {
        return source_of(entry).map(Some);
    }
    let Some(substitute) = cx.substitutes.iter().find(|it| it.object == vm.address()) else {
        return Ok(None);
    };
    match cx.with_id(substitute.line) {
        Some(entry) => source_of(entry).map(Some),
        None => Ok(Some(Source::Another(Line::of_substitute(substitute)?))),
    }
}

/// The source of the VM of a descriptor in the box.
fn source_of(entry: &Entry) -> Result<Source> {
    let line = match &entry.content {
        Content::Live(live) => match Vm::of(&live.file).ok_or(EIO)? {
            vm if vm.is_mine() => return Ok(Source::Mine(live.file.clone())),
            vm => Line::of_live(entry.id, &entry.name, vm)?,
        },
        Content::Incoming(incoming) => Line::of_saved(entry.id, &entry.name, &incoming.record)?,
    };
    Ok(Source::Another(line))
}

/// Name in the box of the VM that the guest_memfd of `cx` belongs to.
pub(super) fn name_of_vm<'a>(cx: &'a SealCx<'_>) -> Option<&'a Name> {
    let wanted = GuestMemfd::of(cx.file)?.vm().address();
    if let Some(name) = cx.name_of(wanted) {
        return Some(name);
    }
    // A process may have taken the VM, which replaced it in the box, but not yet the memory.
    let line = cx.substitutes.iter().find(|it| it.object == wanted)?.line;
    Some(&cx.slots[cx.slots.with_id(line)?].name)
}
