// SPDX-License-Identifier: GPL-2.0

//! KVM VM.
//!
//! Preserved: the type of the VM.
//!
//! Refused: VMs whose memory or state is encrypted or kept from the host (SEV, SEV-ES, SEV-SNP, TDX,
//! protected VMs).
//!
//! Not preserved: vCPUs, interrupt controllers, clock, memory slots. They are the VMM's: it saves
//! them and builds them again in the VM that it takes out.
//!
//! KVM serves only the process whose address space the VM was created in. So whoever takes out a
//! VM that another process, or a process of the last kernel, put in, gets a new VM of the same
//! type; the process that put it in gets its own VM back.
//!
//! Data: see `abi_kvm.rs`. No extents.

use crate::abi::layout::Layout;
use crate::abi_kvm;
use crate::entry::{
    Content,
    Entry, //
};
use crate::ffi;
use crate::file::{
    self,
    FileRef, //
};
use crate::kind::{
    Kind,
    Link,
    Reason,
    SealCx,
    TakeCx, //
};
use crate::name::Name;
use crate::record::{
    Progress,
    Record, //
};
use kernel::{
    fs::File,
    prelude::*,
    str::{
        CStr,
        CStrExt, //
    },
};

/// What a kernel without our patches lacks.
const PATCH: &str = "kmod/patches/0003-KVM-create-VM-files-for-other-modules.patch";
/// What lacks as long as KVM is a module that is not loaded.
pub(super) const MODULE: &str = "kvm.ko: load kvm-amd or kvm-intel, and try again";

/// ELF's number of the architecture.
const MACHINE: u32 = 62;
#[cfg(not(CONFIG_X86_64))]
compile_error!("fdbox is built and tested for x86-64 only");

pub(crate) struct KvmVm;

/// A VM as long as a file of it is held.
#[derive(Clone, Copy)]
pub(super) struct Vm(*mut c_void);

impl Vm {
    /// The VM behind `file`, if it is one.
    pub(super) fn of(file: &File) -> Option<Vm> {
        // SAFETY: `file` is a live file.
        let vm = unsafe { ffi::fdbox_shim_vm_of(file.as_ptr()) };
        (!vm.is_null()).then_some(Vm(vm))
    }

    /// # Safety
    ///
    /// `vm` is a `struct kvm` that lives as long as the value is used.
    pub(super) unsafe fn from_raw(vm: *mut c_void) -> Vm {
        Vm(vm)
    }

    /// For comparison.
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }

    /// Its address as KVM knows it.
    pub(super) fn as_ptr(self) -> *mut c_void {
        self.0
    }

    /// Whether KVM serves the current task on it.
    pub(super) fn is_mine(self) -> bool {
        // SAFETY: The file that `self` came from is held.
        unsafe { ffi::fdbox_shim_vm_is_mine(self.0) }
    }

    fn kind(self) -> u64 {
        // SAFETY: As above.
        unsafe { ffi::fdbox_shim_vm_type(self.0) }
    }

    /// What keeps its memory or its state from the host, if anything does.
    fn encrypted(self) -> Option<&'static CStr> {
        // SAFETY: As above.
        let what = unsafe { ffi::fdbox_shim_vm_encrypted(self.0) };
        // SAFETY: The function returns NULL or a string constant.
        (!what.is_null()).then(|| unsafe { CStr::from_char_ptr(what) })
    }
}

/// Whether `file` looks like one of `kind` in a kernel that does not serve the kind: so that PUT_FD
/// can say what is missing.
pub(super) fn unserved(kind: &dyn Kind, file: &File, name: &CStr) -> bool {
    if kind.supported().is_ok() {
        return false;
    }
    // SAFETY: `file` is a live file, `name` a NUL-terminated string.
    unsafe { ffi::fdbox_shim_is_named(file.as_ptr(), name.as_char_ptr()) }
}

impl Kind for KvmVm {
    fn compatible(&self) -> &[u8] {
        abi_kvm::KVM_VM
    }

    fn matches(&self, file: &File) -> bool {
        Vm::of(file).is_some() || unserved(self, file, c"kvm-vm")
    }

    fn supported(&self) -> Result<(), &'static str> {
        // SAFETY: No precondition.
        super::lacks(unsafe { ffi::fdbox_shim_kvm_vm_lacks() }, MODULE, PATCH)
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
            kind: vm.kind(),
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
        vm_for_taker(cx, cx.name.try_clone()?, Source::Here(vm))
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        _progress: &mut Progress,
    ) -> Result<FileRef> {
        vm_for_taker(cx, cx.name.try_clone()?, Source::Saved(saved_type(record)?))
    }
}

fn saved_type(record: &Record) -> Result<u64> {
    match abi_kvm::Vm::decode(record.data()) {
        Ok(vm) if vm.machine == MACHINE => Ok(vm.kind),
        _ => Err(EIO),
    }
}

/// Where the VM for the current task comes from.
pub(super) enum Source {
    /// It is in the box: whoever took it out has put a duplicate back.
    Mine(FileRef),
    /// A new one that stands for a VM of another process.
    Here(Vm),
    /// A new one of this type, that of a VM of the last kernel.
    Saved(u64),
}

/// The VM called `name`, for the current task: the one it got already, or a new one.
pub(super) fn vm_for_taker(cx: &mut TakeCx<'_>, name: Name, source: Source) -> Result<FileRef> {
    let (kind, stands_for) = match source {
        Source::Mine(file) => return Ok(file),
        Source::Here(vm) => (vm.kind(), vm.address()),
        Source::Saved(kind) => (kind, 0),
    };
    let given = |link: &&Link| link.name == name && link.stands_for == stands_for;
    let mine = |link: &&Link| Vm::of(&link.file).is_some_and(Vm::is_mine);
    if let Some(link) = cx.links.iter().filter(given).find(mine) {
        return Ok(link.file.clone());
    }
    // SAFETY: No precondition; the file is ours, or it is an error.
    let file = unsafe { file::from_c(ffi::fdbox_shim_vm_create(kind, cx.fd)) }?;
    let link = Link {
        name,
        stands_for,
        file: file.clone(),
    };
    cx.links.push(link, GFP_KERNEL)?;
    Ok(file)
}

/// The source of the VM called `name`, which is in the box or was.
pub(super) fn source_by_name(cx: &TakeCx<'_>, name: &[u8]) -> Result<Source> {
    let called = |entry: &&Entry| entry.name.as_bytes() == name;
    if let Some(entry) = cx.entries.iter().find(called) {
        return match &entry.content {
            Content::Live(live) => match Vm::of(&live.file).ok_or(EIO)? {
                vm if vm.is_mine() => Ok(Source::Mine(live.file.clone())),
                vm => Ok(Source::Here(vm)),
            },
            Content::Incoming(incoming) => saved_type(&incoming.record).map(Source::Saved),
            Content::Taken => Err(EIO),
        };
    }
    let given = |link: &&Link| link.name.as_bytes() == name && link.stands_for == 0;
    let link = cx.links.iter().find(given).ok_or(EIO)?;
    Vm::of(&link.file)
        .map(|vm| Source::Saved(vm.kind()))
        .ok_or(EIO)
}

/// Name and source of the VM at address `vm` of another process, which is in the box or was.
pub(super) fn source_by_vm(cx: &TakeCx<'_>, vm: Vm) -> Result<Option<(Name, Source)>> {
    let is_it = |entry: &&Entry| {
        let found = entry.live_file().and_then(Vm::of);
        found.is_some_and(|found| found.address() == vm.address())
    };
    if let Some(entry) = cx.entries.iter().find(is_it) {
        return Ok(Some((entry.name.try_clone()?, Source::Here(vm))));
    }
    match cx.links.iter().find(|link| link.stands_for == vm.address()) {
        Some(link) => Ok(Some((link.name.try_clone()?, Source::Here(vm)))),
        None => Ok(None),
    }
}
