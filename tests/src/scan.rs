//! Judges a console: any line in which a kernel complains fails the run.

/// Messages by which a kernel reports that something is wrong. Compared without regard to case.
const COMPLAINTS: &[&str] = &[
    "warning:",
    "bug:",
    "oops",
    "call trace",
    "------------[ cut here",
    "lockdep",
    "possible recursive locking",
    "possible circular locking",
    "inconsistent lock state",
    "bad unlock balance",
    "held lock freed",
    "suspicious rcu usage",
    "sleeping function called from invalid",
    "scheduling while atomic",
    "stall",
    "soft lockup",
    "hard lockup",
    "hung task",
    "blocked for more than",
    "leak",
    "unreferenced object",
    "kernel panic",
    "refcount_t",
    // Not the name of a kernel that has it, or of its functions in a backtrace.
    "kasan:",
    "kcsan",
    "ubsan",
    "kfence",
    "general protection fault",
    "unable to handle",
    "double fault",
    "segfault",
    "bad page",
    "list_add corruption",
    "list_del corruption",
    "out of memory",
    "invoked oom-killer",
    "clocksource: timekeeping watchdog",
    "marking tsc unstable",
    "clock skew",
    // A block device whose interrupt was lost, or that hangs.
    "timeout, completion polled",
    "timeout, aborting",
    "timeout, reset controller",
    "i/o error",
    // A network card that hangs.
    "netdev watchdog",
    "detected hardware unit hang",
    "unregister_netdevice: waiting",
    // A device that accessed memory outside its guest.
    "dmar: [dma",
    "dmar: drhd: handling fault",
    "amd-vi: event logged",
    "amd-vi: completion-wait loop timed out",
    // A kernel without an IO-APIC that changes the chipset: a lifeboat must not, for it is the host's.
    "setting elcr to",
];

/// A line that looks like a complaint but is harmless.
struct Allowed {
    line: &'static str,
    /// Why it is harmless.
    #[allow(
        dead_code,
        reason = "read by people: an allowance without a reason is refused in review"
    )]
    reason: &'static str,
}

const ALLOWED: &[Allowed] = &[
    Allowed {
        line: "warning: TCG doesn't support requested feature",
        reason: "QEMU's own, before any kernel runs: its CPU model has features TCG cannot emulate",
    },
    Allowed {
        line: "Speculative Return Stack Overflow: WARNING: See https://",
        reason: "an emulated CPU has no microcode to update, which Debian's kernels want",
    },
];

/// The same for a kernel that runs next to the host's.
const ALLOWED_IN_A_BOAT: &[Allowed] = &[Allowed {
    line: "Warning: unable to open an initial console.",
    reason: "a lifeboat's kernel has no console that a program could write to, by intention",
}];

/// The complaint in `line`, if there is one.
pub fn complaint(line: &str) -> Option<&'static str> {
    unless(ALLOWED, line)
}

/// The complaint in a line of a boat's console, if there is one.
pub fn complaint_in_a_boat(line: &str) -> Option<&'static str> {
    unless(ALLOWED_IN_A_BOAT, line)
}

fn unless(allowed: &[Allowed], line: &str) -> Option<&'static str> {
    if allowed.iter().any(|allowed| line.contains(allowed.line)) {
        return None;
    }
    let lower = line.to_ascii_lowercase();
    COMPLAINTS
        .iter()
        .find(|complaint| begins_a_word(&lower, complaint))
        .copied()
}

/// Whether `wanted` is in `text` at the beginning of a word: "bug:" is not in "debug:".
fn begins_a_word(text: &str, wanted: &str) -> bool {
    text.match_indices(wanted)
        .any(|(at, _)| !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric()))
}

/// Removes terminal colours and other control bytes from a console line.
pub fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // An escape sequence: ESC [ parameters, terminated by a letter.
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.find(|c| c.is_ascii_alphabetic());
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_boat_may_have_no_console_for_programs() {
        let line = "[    0.9] Warning: unable to open an initial console.";
        assert!(complaint(line).is_some());
        assert_eq!(complaint_in_a_boat(line), None);
    }

    #[test]
    fn every_way_a_kernel_complains_is_caught() {
        for line in [
            "[    3.1] WARNING: CPU: 0 PID: 1 at mm/page_alloc.c:4321 foo+0x1/0x2",
            "[    3.1] ------------[ cut here ]------------",
            "[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    3.1] Oops: 0000 [#1] SMP NOPTI",
            "[    3.1] Call Trace:",
            "WARNING: possible recursive locking detected",
            "WARNING: possible circular locking dependency detected",
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:1]",
            "INFO: task foo:12 blocked for more than 120 seconds.",
            "Kernel panic - not syncing: Attempted to kill init!",
            "refcount_t: underflow; use-after-free.",
            "BUG: KASAN: slab-use-after-free in foo",
            "UBSAN: array-index-out-of-bounds in foo.c:1:2",
            "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:1",
            "BUG: scheduling while atomic: sh/1/0x00000002",
            "lab[12]: segfault at 0 ip 0 sp 0 error 4",
            "BUG: Bad page state in process sh  pfn:00001",
            "general protection fault, probably for non-canonical address 0x1",
            "fdbox: memory leak: 3 folios",
            "nvme nvme0: I/O tag 12 (100c) QID 1 timeout, completion polled",
            "blk_update_request: I/O error, dev nvme0n1, sector 8",
            "e1000e 0000:00:02.0 eth0: NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out",
            "e1000e 0000:00:02.0 eth0: Detected Hardware Unit Hang:",
            "DMAR: DRHD: handling fault status reg 2",
            "ACPI: setting ELCR to 0001 (from 0c00)",
            "DMAR: [DMA Write NO_PASID] Request device [01:00.0] fault addr 0x0",
            "vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0003 address=0x0 flags=0x0020]",
        ] {
            assert!(complaint(line).is_some(), "missed: {line}");
        }
    }

    #[test]
    fn ordinary_lines_pass() {
        for line in [
            "Linux version 7.3.4-fdbox-a (lab@lab) (gcc 14.2) #1 SMP",
            "[    0.0] KHO: Failed to reserve scratch buffer for zone Normal",
            "DMAR-IR: IRQ remapping was enabled on dmar0 but we are not in kdump mode",
            "fdbox: box \"vm\" sealed, 5 descriptors",
            "the module was installed",
            "[    0.0] debug: ignoring loglevel setting.",
            "[   22.3] CPU: 0 UID: 0 PID: 120 Comm: exe Tainted: G           O     N  7.3.4-fdbox-kasan #6 PREEMPTLAZY",
            "[   22.3]  ? __kasan_check_write+0x18/0x20",
        ] {
            assert_eq!(complaint(line), None, "{line}");
        }
    }

    #[test]
    fn an_allowance_covers_its_own_line_only() {
        let allowed = "qemu: warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid";
        assert_eq!(complaint(allowed), None);
        assert!(complaint("qemu: warning: something else").is_some());
    }

    #[test]
    fn control_bytes_are_removed() {
        assert_eq!(plain("\u{1b}[0;32mok\u{1b}[m\r"), "ok");
        assert_eq!(plain("\u{1b}[2J\u{1b}[01;00Ha\tb"), "a b");
    }
}
