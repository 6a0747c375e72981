//! Operations of a scenario on the host that it runs in.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// How long a line of the kernel's log may take: some are delayed by 5 s if there are many.
const LOG_LIMIT: Duration = Duration::from_secs(60);

/// linux/kexec.h.
const KEXEC_FILE_UNLOAD: u64 = 1;

/// Loads a module of the image, unless it is loaded.
pub(crate) fn load_module(name: &str) -> Result<()> {
    load_module_with(name, "")
}

/// The same with parameters.
pub(crate) fn load_module_with(name: &str, parameters: &str) -> Result<()> {
    let path = format!("/lib/modules/{name}.ko");
    let file = File::open(&path).with_context(|| format!("Open {path}"))?;
    match rustix::system::finit_module(&file, &CString::new(parameters)?, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("Load {path} {parameters}")),
    }
}

/// The time limit for an event that is about to happen.
const SOON: Duration = Duration::from_secs(10);

/// Waits until `done` returns true.
pub(crate) fn until(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    within(SOON, what, done)
}

/// The same, for so long.
pub(crate) fn within(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::yield_now();
    }
    Ok(())
}

/// A figure of /proc/meminfo, in bytes.
pub(crate) fn meminfo(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    let number = line.split_whitespace().next().context("A number")?;
    Ok(number.parse::<u64>()? * 1024)
}

/// Unloads a module, by its name in the kernel; `EAGAIN` while it is in use.
pub(crate) fn unload_module(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    rustix::system::delete_module(&name, libc::O_NONBLOCK)
}

/// Runs one of the helpers (see `cases::help`) in a separate process, and waits for it.
pub(crate) fn in_another_process(helper: &str, arguments: &[&str]) -> Result<()> {
    another_process(helper, arguments, ExitStatus::success)
}

/// Runs a helper that finally kills itself.
pub(crate) fn in_a_process_that_dies(helper: &str, arguments: &[&str]) -> Result<()> {
    another_process(helper, arguments, |status| {
        status.signal() == Some(Signal::KILL.as_raw())
    })
}

fn another_process(
    helper: &str,
    arguments: &[&str],
    is_good: impl FnOnce(&ExitStatus) -> bool,
) -> Result<()> {
    let output = Command::new("/proc/self/exe")
        .arg("help")
        .arg(helper)
        .args(arguments)
        .output()?;
    if !is_good(&output.status) {
        bail!(
            "{helper} {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs `act` in a thread without CAP_SYS_ADMIN.
pub(crate) fn without_cap_sys_admin<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T> {
    without(CapabilitySet::SYS_ADMIN, act)
}

/// Runs `act` in a thread without these capabilities.
pub(crate) fn without<T: Send>(
    dropped: CapabilitySet,
    act: impl FnOnce() -> T + Send,
) -> Result<T> {
    let thread = || -> Result<T> {
        let here = rustix::thread::capabilities(None)?;
        let sets = CapabilitySets {
            effective: here.effective - dropped,
            permitted: here.permitted,
            inheritable: here.inheritable,
        };
        rustix::thread::set_capabilities(None, sets).context("Drop capabilities")?;
        Ok(act())
    };
    std::thread::scope(|scope| match scope.spawn(thread).join() {
        Ok(result) => result,
        Err(_) => bail!("The thread without capabilities panicked"),
    })
}

/// Whether a kernel is loaded for a kexec.
pub(crate) fn next_kernel_is_loaded() -> Result<bool> {
    // Newer kernels have the first file, older ones the second.
    let read = std::fs::read_to_string("/sys/kernel/kexec/loaded")
        .or_else(|_| std::fs::read_to_string("/sys/kernel/kexec_loaded"));
    Ok(read.context("Whether a kernel is loaded")?.trim() == "1")
}

/// Unloads it, whichever process loaded it.
pub(crate) fn unload_next_kernel() -> Result<()> {
    let (none, no_text) = (-1_i64, std::ptr::null::<u8>());
    // SAFETY: with KEXEC_FILE_UNLOAD the call uses none of its other arguments.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            none,
            none,
            0_usize,
            no_text,
            KEXEC_FILE_UNLOAD,
        )
    };
    ensure!(
        result == 0,
        "Unload the next kernel: {}",
        std::io::Error::last_os_error()
    );
    ensure!(!next_kernel_is_loaded()?, "The next kernel is still loaded");
    Ok(())
}

/// The lines of the kernel's log that contain fdbox.
pub(crate) fn kernel_log() -> Result<Vec<String>> {
    let mut log = whole_kernel_log()?;
    log.retain(|line| line.contains("fdbox"));
    Ok(log)
}

/// All lines of the kernel's log.
pub(crate) fn whole_kernel_log() -> Result<Vec<String>> {
    let output = Command::new("/bin/dmesg").output().context("Run dmesg")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Waits until `wanted` accepts the kernel's log.
pub(crate) fn wait_for_log(wanted: impl Fn(&[String]) -> bool) -> Result<()> {
    let deadline = Instant::now() + LOG_LIMIT;
    while !wanted(&whole_kernel_log()?) {
        if Instant::now() > deadline {
            bail!("The kernel does not log what was expected");
        }
        // There is no event for new lines in dmesg's output.
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Resources that the kernel uses on behalf of processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelHolds {
    /// Memory of the kernel itself, as far as it is accounted for.
    pub(crate) kib: u64,
    /// Files without a disk: memfds, including those of a guest's state, and tmpfs.
    pub(crate) shmem_kib: u64,
    /// Memory that is neither free nor in any of the kernel's counters: directly allocated pages.
    pub(crate) raw_kib: u64,
    /// Virtual machines.
    pub(crate) vms: usize,
    /// Processes, including zombies and kernel threads, but for the workers of workqueues: their
    /// number follows the load.
    pub(crate) processes: usize,
}

/// Lines of /proc/meminfo: the kernel's own memory.
const OF_THE_KERNEL: [&str; 5] = [
    "Slab:",
    "KernelStack:",
    "PageTables:",
    "VmallocUsed:",
    "Percpu:",
];
/// All other memory in use, and free memory. Files are part of Cached, including a guest_memfd's
/// pages and Shmem.
const OF_OTHERS: [&str; 6] = [
    "MemFree:",
    "Buffers:",
    "Cached:",
    "SwapCached:",
    "AnonPages:",
    "SecPageTables:",
];

pub(crate) fn kernel_holds() -> Result<KernelHolds> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let kib = |name: &str| -> Result<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.with_context(|| format!("/proc/meminfo has no {name}"))?;
        Ok(number.parse()?)
    };
    let sum = |names: &[&str]| names.iter().map(|name| kib(name)).sum::<Result<u64>>();
    let kernel = sum(&OF_THE_KERNEL)?;
    let known = kernel + sum(&OF_OTHERS)? + kept_at_hand_kib()?;
    // One directory per VM, next to the files with the totals.
    let vms = std::fs::read_dir("/sys/kernel/debug/kvm")?;
    Ok(KernelHolds {
        kib: kernel,
        shmem_kib: kib("Shmem:")?,
        raw_kib: kib("MemTotal:")?.saturating_sub(known),
        vms: vms
            .filter_map(Result::ok)
            .filter(|vm| vm.path().is_dir())
            .count(),
        processes: processes()?,
    })
}

fn processes() -> Result<usize> {
    let names = std::fs::read_dir("/proc")?.filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_string_lossy().parse::<u32>().ok()?;
        // It may have ended since.
        std::fs::read_to_string(entry.path().join("comm")).ok()
    });
    Ok(names.filter(|name| !name.starts_with("kworker/")).count())
}

/// Free pages in the per-CPU lists, which MemFree does not include.
fn kept_at_hand_kib() -> Result<u64> {
    let zoneinfo = std::fs::read_to_string("/proc/zoneinfo")?;
    let count = |line: &str| {
        line.trim()
            .strip_prefix("count:")?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let pages: u64 = zoneinfo.lines().filter_map(count).sum();
    Ok(pages * 4)
}
