//! Calls whose allocations fail.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scan;
use rustix::io::Errno;

use crate::host;

/// Makes the n-th allocation of this task fail.
const FAIL_NTH: &str = "/proc/self/fail-nth";
/// Makes all allocations from that one on fail: if one is not essential, it must not hide those
/// after it.
const FAIL_ALL: &str = "/proc/self/make-it-fail";
/// Allocations of this task fail, including those that may sleep, and without a backtrace for each.
const FAILSLAB: [(&str, &str); 6] = [
    ("ignore-gfp-wait", "N"),
    ("verbose", "0"),
    ("task-filter", "Y"),
    ("probability", "100"),
    ("interval", "1"),
    ("times", "-1"),
];
/// More allocations than loading the module needs.
const MOST: u32 = 5000;

/// Whether this kernel has fault injection.
pub(crate) fn is_possible() -> bool {
    fs::exists(FAIL_NTH).unwrap_or(false)
}

pub(crate) fn set_up_failures() -> Result<()> {
    for (name, value) in FAILSLAB {
        let path = format!("/sys/kernel/debug/failslab/{name}");
        fs::write(&path, value).with_context(|| format!("Write {path}"))?;
    }
    Ok(())
}

/// The switches of this task.
pub(crate) struct Switches {
    nth: File,
    all: File,
}

impl Switches {
    /// Opened once, because opening them allocates memory.
    pub(crate) fn open() -> Result<Self> {
        let open = |path| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.context("The kernel lacks CONFIG_FAULT_INJECTION")
        };
        let (nth, all) = (open(FAIL_NTH)?, open(FAIL_ALL)?);
        Ok(Self { nth, all })
    }

    /// Makes the call with its n-th allocation failing, and all later ones if `all`. Returns its
    /// result, and whether there was such an allocation.
    pub(crate) fn call<R>(
        &self,
        nth: u32,
        all: bool,
        call: &mut impl FnMut() -> R,
    ) -> Result<(R, bool)> {
        let mut left = [0; 16];
        let number = nth.to_string();
        self.nth
            .write_at(number.as_bytes(), 0)
            .context("Have an allocation fail")?;
        if all {
            self.all.write_at(b"1", 0)?;
        }
        let result = call();
        let len = self.nth.read_at(&mut left, 0);
        self.nth.write_at(b"0", 0)?;
        self.all.write_at(b"0", 0)?;
        Ok((result, left[..len?].starts_with(b"0")))
    }
}

/// Makes a call with its allocations failing from the first on, then from the second on, and so on
/// until it succeeds; after each failure `unchanged` checks that nothing has changed. Returns the
/// result of the call, and how often it failed.
pub(crate) fn at_last<T>(
    what: &str,
    call: impl FnMut() -> Result<T, Errno>,
    unchanged: impl Fn() -> Result<()>,
) -> Result<(T, u32)> {
    at_last_with(what, &[Errno::NOMEM], call, unchanged)
}

/// The same for a call that may report a failure by any of these errors.
pub(crate) fn at_last_with<T>(
    what: &str,
    errors: &[Errno],
    mut call: impl FnMut() -> Result<T, Errno>,
    unchanged: impl Fn() -> Result<()>,
) -> Result<(T, u32)> {
    let switches = Switches::open()?;
    for nth in 1..MOST {
        match switches.call(nth, true, &mut call)? {
            // The failed allocations were not essential, or none failed.
            (Ok(value), failed) => return Ok((value, nth - u32::from(!failed))),
            (Err(error), _) if errors.contains(&error) => {
                unchanged().with_context(|| format!("{what}, failing at {nth}"))?;
            }
            (Err(error), _) => {
                return Err(error).with_context(|| format!("{what}, failing at {nth}"));
            }
        }
    }
    anyhow::bail!("{what}: it does not succeed")
}

/// Makes a call with only its first allocation failing, then only its second, and so on until all
/// were tried: each call either succeeds without it, or reports a lack of memory. `unchanged` is as
/// above, `again` undoes a successful call. Returns the number of allocations.
pub(crate) fn one_by_one<T>(
    what: &str,
    mut call: impl FnMut() -> Result<T, Errno>,
    unchanged: impl Fn() -> Result<()>,
    again: impl Fn(T) -> Result<()>,
) -> Result<u32> {
    let switches = Switches::open()?;
    for nth in 1..MOST {
        let (result, failed) = switches.call(nth, false, &mut call)?;
        let at = || format!("{what}, the allocation {nth} failing");
        match result {
            Ok(value) => again(value).with_context(at)?,
            Err(Errno::NOMEM) if failed => unchanged().with_context(at)?,
            Err(error) => return Err(error).with_context(at),
        }
        if !failed {
            return Ok(nth - 1);
        }
    }
    anyhow::bail!("{what}: there is no end of allocations")
}

/// While this exists, the console shows only the most severe messages: the kernel logs a backtrace
/// for a failed allocation. The log still contains everything.
pub(crate) struct Quiet {
    usual: String,
    /// The number of lines in the log before.
    lines: usize,
}

const PRINTK: &str = "/proc/sys/kernel/printk";

/// KHO warns if it has no memory for a file in debugfs, and continues. The first line of a warning
/// is followed by one that says what it is. The backtrace of a failed allocation can have a function
/// of lockdep that is no report of it.
const KNOWN: [&str; 3] = [
    "at kho_add_subtree+",
    "---[ cut here ]---",
    "? lockdep_hardirqs_on_prepare+",
];

impl Quiet {
    pub(crate) fn begin() -> Result<Self> {
        let usual = fs::read_to_string(PRINTK)?;
        let lines = host::whole_kernel_log()?.len();
        fs::write(PRINTK, "1")?;
        Ok(Self { usual, lines })
    }

    pub(crate) fn end(self) -> Result<()> {
        fs::write(PRINTK, self.usual.trim())?;
        let log = host::whole_kernel_log()?;
        let reported = |line: &&String| {
            scan::complaint(line).is_some_and(|complaint| complaint != "call trace")
                && !KNOWN.iter().any(|known| line.contains(known))
        };
        let complaints: Vec<_> = log.iter().skip(self.lines).filter(reported).collect();
        ensure!(complaints.is_empty(), "The kernel says {complaints:?}");
        Ok(())
    }
}
