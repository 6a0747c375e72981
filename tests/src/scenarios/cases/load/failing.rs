//! Calls whose allocations fail.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scan;
use rustix::io::Errno;

use crate::host;

/// The n-th allocation of this task fails.
const FAIL_NTH: &str = "/proc/self/fail-nth";
/// From that one on all fail: one that can be done without must not hide those behind it.
const FAIL_ALL: &str = "/proc/self/make-it-fail";
/// What fails: allocations of this task, those that may wait, too, and none of them is told with a
/// backtrace of its own.
const FAILSLAB: [(&str, &str); 6] = [
    ("ignore-gfp-wait", "N"),
    ("verbose", "0"),
    ("task-filter", "Y"),
    ("probability", "100"),
    ("interval", "1"),
    ("times", "-1"),
];
/// More allocations than loading the module takes.
const MOST: u32 = 5000;

pub(super) fn set_up_failures() -> Result<()> {
    for (name, value) in FAILSLAB {
        let path = format!("/sys/kernel/debug/failslab/{name}");
        fs::write(&path, value).with_context(|| format!("Write {path}"))?;
    }
    Ok(())
}

/// The switches of this task.
struct Switches {
    nth: File,
    all: File,
}

impl Switches {
    /// Opened once: to open them takes allocations of its own.
    fn open() -> Result<Self> {
        let open = |path| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.context("The kernel lacks CONFIG_FAULT_INJECTION")
        };
        let (nth, all) = (open(FAIL_NTH)?, open(FAIL_ALL)?);
        Ok(Self { nth, all })
    }

    /// Makes the call with its n-th allocation failing, and all after it if `all`. What it returned, and
    /// whether there was such an allocation.
    fn call<T>(
        &self,
        nth: u32,
        all: bool,
        call: &mut impl FnMut() -> Result<T, Errno>,
    ) -> Result<(Result<T, Errno>, bool)> {
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

/// Makes a call with its allocations failing from the first on, then from the second on, and so on until
/// it succeeds; `unchanged` looks, after each failure, that nothing has changed. What the call returned,
/// and how often it failed.
pub(super) fn at_last<T>(
    what: &str,
    mut call: impl FnMut() -> Result<T, Errno>,
    unchanged: impl Fn() -> Result<()>,
) -> Result<(T, u32)> {
    let switches = Switches::open()?;
    for nth in 1..MOST {
        match switches.call(nth, true, &mut call)? {
            // Those that failed could be done without, or none failed.
            (Ok(value), failed) => return Ok((value, nth - u32::from(!failed))),
            (Err(Errno::NOMEM), _) => {
                unchanged().with_context(|| format!("{what}, failing at {nth}"))?;
            }
            (Err(error), _) => {
                return Err(error).with_context(|| format!("{what}, failing at {nth}"));
            }
        }
    }
    anyhow::bail!("{what}: it does not succeed")
}

/// Makes a call with its first allocation failing, then with its second alone, and so on until all were
/// tried: each call succeeds without it, or says that there is no memory. `unchanged` is as above, `again`
/// undoes a call that succeeded. How many allocations there are.
pub(super) fn one_by_one<T>(
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

/// While it is there, the console hears only of what is worst: the kernel tells allocations that fail
/// with a backtrace. The log has all the same what it says beside that.
pub(super) struct Quiet {
    usual: String,
    /// Lines of the log before it.
    lines: usize,
}

const PRINTK: &str = "/proc/sys/kernel/printk";

/// KHO warns when it has no memory for a file in debugfs, and goes on. What a warning begins with has
/// another line that says what it is.
const KNOWN: [&str; 2] = ["at kho_add_subtree+", "---[ cut here ]---"];

impl Quiet {
    pub(super) fn begin() -> Result<Self> {
        let usual = fs::read_to_string(PRINTK)?;
        let lines = host::whole_kernel_log()?.len();
        fs::write(PRINTK, "1")?;
        Ok(Self { usual, lines })
    }

    pub(super) fn end(self) -> Result<()> {
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
