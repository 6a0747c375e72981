//! Finds settings on the next kernel's command line that would lose the boxes.

mod words;

use crate::finding::Finding;
use words::{Parameter, is_named, is_space, parameters, to_bool};

const SUBJECT: &str = "Kernel command line";
/// The options that decide how a kernel translates for devices.
const IOMMU_OPTIONS: [&[u8]; 3] = [b"iommu", b"intel_iommu", b"amd_iommu"];
/// The options that change which memory a kernel uses.
const MEMORY_OPTIONS: [&[u8]; 2] = [b"mem", b"memmap"];
const CRASH_OPTIONS: [&[u8]; 1] = [b"crashkernel"];
/// Only crash kernels get this option (`is_kdump_kernel()`), and it turns KHO off.
const CRASH_HEADER: &[u8] = b"elfcorehdr";
/// The space that the bzImage loader reserves for `elfcorehdr=`, which only crash kernels get.
const RESERVED_BYTES: usize = 30;

/// What a command line says about KHO.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kho {
    /// The last value that the kernel understands; it applies each one in turn.
    setting: Option<bool>,
    /// The word with that value, or else with one that the kernel does not understand.
    word: Option<String>,
    /// Whether there is one after `--`, where the kernel does not look.
    is_for_init: bool,
}

impl Kho {
    fn of(cmdline: &str) -> Self {
        let (found, rest) = parameters(cmdline);
        let mut kho = Self::default();
        for parameter in found.iter().filter(|found| is_named(found, b"kho")) {
            // Without a value, the kernel reports an error.
            let setting = parameter.value.and_then(to_bool);
            if setting.is_some() || kho.setting.is_none() {
                kho.setting = setting;
                kho.word = Some(parameter.to_string());
            }
        }
        kho.is_for_init = rest.split(is_space).any(|word| word.starts_with(b"kho="));
        kho
    }
}

/// The value of a boolean option on a command line; `None` if it is not there or not understood.
pub(crate) fn switch(cmdline: &str, name: &str) -> Option<bool> {
    let (found, _) = parameters(cmdline);
    let mut found = found.iter().rev();
    found.find_map(|found| match is_named(found, name.as_bytes()) {
        true => to_bool(found.value?),
        false => None,
    })
}

/// Problems with the command line of the next kernel that affect the handover. `running` is this
/// kernel's; `default` says whether KHO is on in the next kernel if its command line does not set
/// it.
pub(super) fn check(next: &str, running: &str, default: Option<bool>) -> Vec<Finding> {
    if let Some(at) = next.bytes().position(|b| b == 0) {
        let problem = format!("it holds a NUL at byte {at}");
        return vec![Finding::blocker(SUBJECT, problem, "leave it out")];
    }
    let mut findings = Vec::new();
    findings.extend(check_kho(&Kho::of(next), &Kho::of(running), default));
    findings.extend(check_crash_header(next));
    findings.extend(
        Same::ALL
            .iter()
            .filter_map(|same| same.check(next, running)),
    );
    findings
}

fn check_kho(next: &Kho, running: &Kho, default: Option<bool>) -> Option<Finding> {
    let block = |problem: String, remedy| Some(Finding::blocker(SUBJECT, problem, remedy));
    match (next.setting, &next.word) {
        (Some(true), _) => None,
        (Some(false), word) => {
            let word = word.as_deref().unwrap_or_default();
            block(
                format!("{word} turns KHO off, and every box would be lost"),
                "write kho=on",
            )
        }
        (None, Some(word)) => block(
            format!("{word} says neither on nor off, and the kernel ignores it"),
            "write kho=on",
        ),
        (None, None) if next.is_for_init => block(
            "its kho= is after --, where the kernel does not read it".into(),
            "write kho=on before the --",
        ),
        (None, None) => match (default, running.setting) {
            (Some(true), _) => None,
            (Some(false), _) => block(
                "it lacks kho=on, and the next kernel's configuration leaves KHO off".into(),
                "add kho=on",
            ),
            (None, Some(true)) => block(
                "it lacks kho=on, which this kernel was booted with".into(),
                "add kho=on: a kernel that has it by default takes it too",
            ),
            (None, _) => Some(Finding::warning(
                SUBJECT,
                "it lacks kho=on, and whether the next kernel has KHO on by itself cannot be known",
                "add kho=on: a kernel that has it by default takes it too",
            )),
        },
    }
}

/// A crash kernel takes over nothing.
fn check_crash_header(next: &str) -> Option<Finding> {
    let (found, _) = parameters(next);
    let is_there = found.iter().any(|found| is_named(found, CRASH_HEADER));
    is_there.then(|| {
        Finding::blocker(
            SUBJECT,
            "elfcorehdr= makes it a crash kernel's, which has KHO off, and every box would be lost",
            "leave elfcorehdr= out",
        )
    })
}

/// Options that should be the same for the next kernel.
struct Same {
    what: &'static str,
    options: &'static [&'static [u8]],
    remedy: &'static str,
}

impl Same {
    const ALL: [Self; 3] = [
        Self {
            what: "IOMMU options are",
            options: &IOMMU_OPTIONS,
            remedy: "give it the same if a guest drives a device of the host: DMA goes on only if the \
                 next kernel translates in the same way",
        },
        Self {
            what: "memory options are",
            options: &MEMORY_OPTIONS,
            remedy: "give it the same: what is kept may lie where the next kernel is told that there is no \
                 memory",
        },
        Self {
            what: "crashkernel= is",
            options: &CRASH_OPTIONS,
            remedy: "give it the same: without, a panic leaves no dump; with more, it may not fit into what \
                 KHO has free while the kernel boots (kho_scratch=)",
        },
    ];

    fn check(&self, next: &str, running: &str) -> Option<Finding> {
        let (there, here) = (self.of(next), self.of(running));
        (there != here).then(|| {
            let what = self.what;
            Finding::warning(
                SUBJECT,
                format!("its {what} not this kernel's: {there:?} instead of {here:?}"),
                self.remedy,
            )
        })
    }

    /// These options on a command line, in order.
    fn of(&self, cmdline: &str) -> String {
        let (found, _) = parameters(cmdline);
        let is_one = |found: &&Parameter<'_>| {
            let mut options = self.options.iter();
            options.any(|option| is_named(found, option))
        };
        let words: Vec<_> = found
            .iter()
            .filter(is_one)
            .map(ToString::to_string)
            .collect();
        words.join(" ")
    }
}

/// Whether the command line fits into a kernel that takes `max_bytes` (`cmdline_size` of its
/// header).
pub(super) fn check_length(cmdline: &str, max_bytes: usize) -> Option<Finding> {
    // The kernel counts the terminating NUL.
    let max_bytes = max_bytes.saturating_sub(RESERVED_BYTES + 1);
    (cmdline.len() > max_bytes).then(|| {
        let problem = format!(
            "it has {} bytes, and the next kernel takes {max_bytes}",
            cmdline.len()
        );
        Finding::blocker(SUBJECT, problem, "shorten it")
    })
}

/// The value of an early boolean parameter: the last one that the kernel understands.
pub(super) fn is_on(cmdline: &str, name: &str) -> Option<bool> {
    let (found, _) = parameters(cmdline);
    let named = found
        .iter()
        .filter(|found| is_named(found, name.as_bytes()));
    named
        .filter_map(|found| found.value.and_then(to_bool))
        .next_back()
}

#[cfg(test)]
mod tests;
