//! Model-specific registers: which ones make up a vCPU's state, and how they are saved and
//! restored.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::kvm::{KvmError, named};

/// The TSC: saved as its offset from the host's.
pub(super) const MSR_IA32_TSC: u32 = 0x10;
/// The local APIC timer's deadline: compared with the guest's TSC.
pub(super) const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Memory types (MTRRs), Intel SDM volume 3, 12.11. KVM supports all of these but does not list
/// them.
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_VARIABLE_RANGES: u32 = 8;
const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;

/// Machine check banks, Intel SDM volume 3, 17.3: control, status, address and miscellaneous
/// registers of each, starting here.
const MC0_CTL: u32 = 0x400;
const REGISTERS_PER_BANK: u32 = 4;
/// Another register of each bank.
const MC0_CTL2: u32 = 0x280;
/// Beyond this there are other registers.
const MOST_BANKS: u32 = 32;

/// KVM refuses to get or set more at a time: `MAX_IO_MSRS` in arch/x86/kvm.
const MOST_AT_ONCE: usize = 255;

/// The MSRs of a vCPU's state that KVM supports but has not `listed`.
pub(super) fn unlisted(listed: &[u32], mce_banks: u32) -> Vec<u32> {
    let banks = mce_banks.min(MOST_BANKS);
    let variable = MTRR_VARIABLE..MTRR_VARIABLE + 2 * MTRR_VARIABLE_RANGES;
    variable
        .chain(MTRR_FIXED)
        .chain([MTRR_DEFAULT_TYPE])
        .chain(MC0_CTL2..MC0_CTL2 + banks)
        .chain(MC0_CTL..MC0_CTL + REGISTERS_PER_BANK * banks)
        .filter(|index| !listed.contains(index))
        .collect()
}

/// What MSRs of a vCPU hold until somebody writes them. In the order of their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownMsrs(Vec<kvm_msr_entry>);

impl KnownMsrs {
    pub(super) fn of(fd: &VcpuFd, indices: &[u32]) -> Result<Self, KvmError> {
        get(fd, indices).map(Self::new)
    }

    fn new(mut msrs: Vec<kvm_msr_entry>) -> Self {
        msrs.sort_unstable_by_key(|msr| msr.index);
        Self(msrs)
    }

    fn value(&self, index: u32) -> Option<u64> {
        let at = self.0.binary_search_by_key(&index, |msr| msr.index).ok()?;
        self.0.get(at).map(|msr| msr.data)
    }

    /// The saved ones of which nothing is known, and of the others those that differ.
    fn split<'a>(
        &self,
        saved: &[&'a kvm_msr_entry],
    ) -> (Vec<&'a kvm_msr_entry>, Vec<kvm_msr_entry>) {
        let (mut unknown, mut differing) = (Vec::with_capacity(saved.len()), Vec::new());
        for msr in saved {
            match self.value(msr.index) {
                None => unknown.push(*msr),
                Some(value) if value != msr.data => differing.push(**msr),
                Some(_) => {}
            }
        }
        (unknown, differing)
    }
}

/// Reads all readable MSRs; KVM stops at one that is not.
pub(super) fn get(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let wanted = |index: &u32| kvm_msr_entry {
        index: *index,
        ..Default::default()
    };
    let wanted: Vec<_> = indices.iter().map(wanted).collect();
    let mut found = Vec::with_capacity(wanted.len());
    in_chunks(&wanted, |chunk| {
        let mut msrs = msrs_of(chunk)?;
        let read = named("KVM_GET_MSRS", fd.get_msrs(&mut msrs))?;
        found.extend_from_slice(&msrs.as_slice()[..read]);
        Ok(read)
    })?;
    Ok(found)
}

/// Writes the MSRs that differ from their saved values, as far as possible, and returns those that
/// still differ.
///
/// An MSR that already has its saved value is left alone: KVM lists MSRs that cannot be written,
/// and logs each attempt.
pub(super) fn set(
    fd: &VcpuFd,
    saved: &[&kvm_msr_entry],
    known: &KnownMsrs,
) -> Result<Vec<u32>, KvmError> {
    let (unknown, mut differing) = known.split(saved);
    let indices: Vec<u32> = unknown.iter().map(|msr| msr.index).collect();
    differing.extend(differ(&unknown, &get(fd, &indices)?));
    in_chunks(&differing, |chunk| {
        named("KVM_SET_MSRS", fd.set_msrs(&msrs_of(chunk)?))
    })
}

/// Those that do not currently have the saved value. `now` is in the same order, without those that
/// cannot be read.
fn differ(saved: &[&kvm_msr_entry], now: &[kvm_msr_entry]) -> Vec<kvm_msr_entry> {
    let mut now = now.iter().peekable();
    let differs = |msr: &&&kvm_msr_entry| {
        let now = now.next_if(|now| now.index == msr.index);
        now.is_none_or(|now| now.data != msr.data)
    };
    saved.iter().filter(differs).map(|msr| **msr).collect()
}

/// Passes all MSRs to `work` in chunks that KVM accepts. `work` returns how many it has done; the
/// next one was refused by KVM. Returns the refused ones.
fn in_chunks(
    all: &[kvm_msr_entry],
    mut work: impl FnMut(&[kvm_msr_entry]) -> Result<usize, KvmError>,
) -> Result<Vec<u32>, KvmError> {
    let (mut rest, mut refused) = (all, Vec::new());
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(MOST_AT_ONCE)];
        let done = work(chunk)?;
        let skipped = chunk.get(done);
        refused.extend(skipped.map(|msr| msr.index));
        rest = &rest[done.min(chunk.len()) + usize::from(skipped.is_some())..];
    }
    Ok(refused)
}

fn msrs_of(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Lacks {
        what: "room for the MSRs",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }
    }

    #[test]
    fn what_kvm_does_not_list_is_asked_for_too() {
        let all = unlisted(&[0x10, 0x174, 0x2ff], 32);
        for index in [0x200, 0x20f, 0x250, 0x26f, 0x280, 0x29f, 0x400, 0x47f] {
            assert!(all.contains(&index), "{index:#x}");
        }
        assert!(!all.contains(&0x210) && !all.contains(&0x480));
        assert!(!all.contains(&0x2ff));
        // On a CPU with fewer banks there are other registers after them, or none.
        let all = unlisted(&[], 2);
        assert!(all.contains(&0x407) && !all.contains(&0x408) && !all.contains(&0x282));
        assert_eq!(unlisted(&[], 4000), unlisted(&[], 32));
    }

    #[test]
    fn an_msr_that_holds_its_value_is_left_alone() {
        let (other, missing, same) = (msr(0x10, 1), msr(0x11, 0), msr(0x1d9, 0));
        let now = [msr(0x10, 2), msr(0x1d9, 0)];
        let found = differ(&[&other, &missing, &same], &now);
        assert_eq!(found, [other, missing]);
    }

    #[test]
    fn known_msrs_of_a_new_vcpu_are_not_read() {
        let known = KnownMsrs::new(vec![msr(0x401, 0), msr(0x400, u64::MAX)]);
        let saved = [msr(0x10, 1), msr(0x400, u64::MAX), msr(0x401, 5)];
        let (unknown, differing) = known.split(&saved.each_ref());
        assert_eq!(unknown, [&saved[0]]);
        assert_eq!(differing, [saved[2]]);
    }

    /// Like KVM, stops at the first refused MSR, and refuses too many.
    #[test]
    fn all_are_tried_in_pieces_that_kvm_takes() {
        let all: Vec<_> = (0..600).map(|index| msr(index, 0)).collect();
        for refusing in [vec![], vec![0], vec![254, 255, 256], vec![599]] {
            let mut done = Vec::new();
            let refused = in_chunks(&all, |chunk| {
                assert!(chunk.len() < 256);
                let stop = chunk.iter().position(|msr| refusing.contains(&msr.index));
                let taken = stop.unwrap_or(chunk.len());
                done.extend(chunk[..taken].iter().map(|msr| msr.index));
                Ok(taken)
            });
            assert_eq!(refused.unwrap(), refusing);
            let expected: Vec<u32> = (0..600).filter(|at| !refusing.contains(at)).collect();
            assert_eq!(done, expected);
        }
    }
}
