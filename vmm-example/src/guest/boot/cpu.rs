//! The state in which the first CPU enters a 64-bit kernel: long mode, paging enabled, flat
//! segments.

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use crate::kvm::{KvmError, named};
use crate::memory::layout::{BOOT_STACK, GDT, PAGE_TABLES, ZERO_PAGE};

const PAGE: u64 = 0x1000;
const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 0x80;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Registers of the local APIC: the two local interrupt lines.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTINT: u32 = 7 << 8;

/// Why a CPU could not be prepared.
#[derive(Debug, Error)]
#[error("Cannot set up vCPU {id} for boot")]
pub(crate) struct BootCpuError {
    id: u8,
    source: KvmError,
}

/// The selectors required by the boot protocol are 0x10 (code) and 0x18 (data).
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Writes page tables that identity-map the first GiB, and the descriptor table.
pub(super) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    let large_pages = (0..ENTRIES).map(|n| (n * LARGE_PAGE) | LARGE | PRESENT_WRITABLE);
    let top = (PAGE_TABLES + PAGE) | PRESENT_WRITABLE;
    let next = (PAGE_TABLES + 2 * PAGE) | PRESENT_WRITABLE;
    write_words(memory, "page tables", PAGE_TABLES, [top])?;
    write_words(memory, "page tables", PAGE_TABLES + PAGE, [next])?;
    write_words(memory, "page tables", PAGE_TABLES + 2 * PAGE, large_pages)?;
    write_words(memory, "descriptor table", GDT, DESCRIPTORS)
}

fn write_words(
    memory: &GuestMemoryMmap,
    what: &'static str,
    addr: u64,
    words: impl IntoIterator<Item = u64>,
) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    memory
        .write_slice(&bytes, GuestAddress(addr))
        .map_err(|source| BootError::Write { what, source })
}

/// Prepares a vCPU: the first one to enter the kernel, the others to be woken by it.
pub(crate) fn setup_cpu(fd: &VcpuFd, id: u8, entry: u64) -> Result<(), BootCpuError> {
    setup(fd, id, entry).map_err(|source| BootCpuError { id, source })
}

fn setup(fd: &VcpuFd, id: u8, entry: u64) -> Result<(), KvmError> {
    let mut lapic = named("KVM_GET_LAPIC", fd.get_lapic())?;
    set_lvt_mode(&mut lapic.regs, LVT_LINT0, MODE_EXTINT);
    set_lvt_mode(&mut lapic.regs, LVT_LINT1, MODE_NMI);
    named("KVM_SET_LAPIC", fd.set_lapic(&lapic))?;
    if id != 0 {
        return Ok(());
    }
    let mut sregs = named("KVM_GET_SREGS", fd.get_sregs())?;
    enter_long_mode(&mut sregs);
    named("KVM_SET_SREGS", fd.set_sregs(&sregs))?;
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    named("KVM_SET_FPU", fd.set_fpu(&fpu))?;
    let regs = kvm_regs {
        rip: entry,
        rsp: BOOT_STACK,
        rbp: BOOT_STACK,
        rsi: ZERO_PAGE,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    named("KVM_SET_REGS", fd.set_regs(&regs))
}

/// Sets the delivery mode of an interrupt line and unmasks it.
fn set_lvt_mode(regs: &mut [std::ffi::c_char], offset: usize, mode: u32) {
    for (to, byte) in regs[offset..offset + 4].iter_mut().zip(mode.to_le_bytes()) {
        *to = byte as std::ffi::c_char;
    }
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    let code = segment(2, 0xb, 1, 0);
    let data = segment(3, 0x3, 0, 1);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (size_of_val(&DESCRIPTORS) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// A flat segment for descriptor `index`.
fn segment(index: u16, type_: u8, long: u8, big: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_,
        present: 1,
        s: 1,
        l: long,
        db: big,
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_map_a_gib_onto_itself() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        let word = |addr| memory.read_obj::<u64>(GuestAddress(addr)).unwrap();
        let level = |entry: u64| entry & !0xfff;
        let (top, next) = (word(PAGE_TABLES), word(level(word(PAGE_TABLES))));
        assert_eq!((top & 3, next & 3), (3, 3));
        let leaves = level(next);
        for n in [0, 1, 511] {
            assert_eq!(word(leaves + n * 8), (n * LARGE_PAGE) | 0x83);
        }
    }

    #[test]
    fn selectors_match_the_descriptors() {
        let mut sregs = kvm_sregs::default();
        enter_long_mode(&mut sregs);
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        // Code: 64-bit, present, execute/read. Data: present, read/write.
        assert_eq!(DESCRIPTORS[2] >> 40 & 0xff, 0x9b);
        assert_eq!(DESCRIPTORS[2] >> 53 & 1, 1);
        assert_eq!(DESCRIPTORS[3] >> 40 & 0xff, 0x93);
    }
}
