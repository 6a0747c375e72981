//! A module that fails to load takes nothing with it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scan;
use fdbox_lab::scenario::HostKind;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "load/each-allocation-fails",
        about: "the module is loaded over and over, with one allocation after the other failing: at last all boxes are there",
        host: HostKind::FailingLoad,
        stages: &[before, after],
    },
    &Scenario {
        name: "load/each-call-fails",
        about: "each ioctl is called over and over, with one allocation after the other failing: ENOMEM, and nothing has changed",
        host: HostKind::FailingLoad,
        stages: &[each_call, nothing_arrived],
    },
];

const BOXES: [&str; 2] = ["load-1", "load-2"];
const PAGES: u64 = 8;

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

fn before(_: &Cx<'_>) -> Result<()> {
    for (seed, name) in (90..).zip(BOXES) {
        let fdbox = FdBox::create(name)?;
        let file = memfd(c"load", PAGES * PAGE)?;
        write_pages(&file, seed, PAGES)?;
        fdbox.put(file, "memory")?;
        fdbox.seal()?;
    }
    Ok(())
}

fn after(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    let quiet = Quiet::begin()?;
    let failures = load_at_last()?;
    quiet.end()?;
    cx.value("failures", failures)?;
    ensure!(failures > 0, "No allocation failed");
    make_missing_nodes()?;
    let info = fdbox::info()?;
    equal("The number of boxes", info.boxes, BOXES.len() as u64)?;
    equal("What was refused", info.features & uapi::FEATURE_REFUSED, 0)?;
    for (seed, name) in (90..).zip(BOXES) {
        let fdbox = FdBox::open(name)?;
        fdbox.unseal()?;
        check_pages(&memory::file(fdbox.get("memory")?), seed, PAGES)?;
        fdbox.delete()?;
    }
    // Loaded once more, with all the memory it wants, it finds nothing: what came was taken.
    rustix::system::delete_module(c"fdbox", 0).context("Unload the module")?;
    host::load_module("fdbox")?;
    equal("The number of boxes then", fdbox::info()?.boxes, 0)
}

fn set_up_failures() -> Result<()> {
    for (name, value) in FAILSLAB {
        let path = format!("/sys/kernel/debug/failslab/{name}");
        fs::write(&path, value).with_context(|| format!("Write {path}"))?;
    }
    Ok(())
}

/// Loads the module with its allocations failing from the first on, then from the second on, and so on
/// until it loads. How often it failed.
fn load_at_last() -> Result<u32> {
    let module = File::open("/lib/modules/fdbox.ko").context("Open the module")?;
    let none = CString::new("")?;
    let load = || rustix::system::finit_module(&module, &none, 0);
    at_last("Load", load, || Ok(())).map(|((), failures)| failures)
}

/// Makes a call with its allocations failing from the first on, then from the second on, and so on until
/// it succeeds; `unchanged` looks, after each failure, that nothing has changed. What the call returned,
/// and how often it failed.
fn at_last<T>(
    what: &str,
    mut call: impl FnMut() -> Result<T, Errno>,
    unchanged: impl Fn() -> Result<()>,
) -> Result<(T, u32)> {
    // Opened once: to open it takes allocations of its own.
    let open = |path| {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.context("The kernel lacks CONFIG_FAULT_INJECTION")
    };
    let (fail, fail_all) = (open(FAIL_NTH)?, open(FAIL_ALL)?);
    let mut text = [0; 16];
    for nth in 1..MOST {
        let number = nth.to_string();
        fail.write_at(number.as_bytes(), 0)
            .context("Have an allocation fail")?;
        fail_all.write_at(b"1", 0)?;
        let result = call();
        let len = fail.read_at(&mut text, 0);
        fail.write_at(b"0", 0)?;
        fail_all.write_at(b"0", 0)?;
        match result {
            // Those that failed could be done without, or none failed.
            Ok(value) if text[..len?].starts_with(b"0") => return Ok((value, nth)),
            Ok(value) => return Ok((value, nth - 1)),
            Err(Errno::NOMEM) => {
                unchanged().with_context(|| format!("{what}, failing at {nth}"))?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{what}, failing at {nth}"));
            }
        }
    }
    anyhow::bail!("{what}: it does not succeed")
}

const CALLED: &str = "load-called";

fn each_call(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    let control = fdbox::control()?;
    let quiet = Quiet::begin()?;
    let gone = || equal("The box", fdbox::listed(CALLED)?.is_some(), false);
    let create = || {
        let mut name = uapi::Named::new(CALLED);
        uapi::call(&control, uapi::CREATE_BOX, &mut name).map(drop)
    };
    let ((), created) = at_last("CREATE_BOX", create, gone)?;
    make_missing_nodes()?;
    let fdbox = FdBox::open(CALLED)?;
    let memory = memfd(c"load", PAGES * PAGE)?;
    write_pages(&memory, 92, PAGES)?;
    // Its number is closed by the call that succeeds.
    let number = std::os::fd::IntoRawFd::into_raw_fd(memory);
    let is = |state, fds| {
        let listed = fdbox::listed(CALLED)?.context("The box in the list")?;
        equal("State and number", (listed.state, listed.fds), (state, fds))
    };
    let put = || fdbox.try_put_number(number, "memory");
    let ((), put) = at_last("PUT_FD", put, || is(uapi::STATE_OPEN, 0))?;
    let before = fdbox::info()?;
    let (open, sealed) = (
        || {
            equal("What the handover keeps", fdbox::info()?, before)?;
            is(uapi::STATE_OPEN, 1)
        },
        || is(uapi::STATE_SEALED, 1),
    );
    let ((), seal) = at_last("SEAL", || fdbox.try_seal(), open)?;
    let ((), unseal) = at_last("UNSEAL", || fdbox.try_unseal(), sealed)?;
    open()?;
    let (file, get) = at_last("GET_FD", || fdbox.try_get("memory"), open)?;
    quiet.end()?;
    check_pages(&memory::file(file), 92, PAGES)?;
    cx.value("failures of each call", [created, put, seal, unseal, get])?;
    ensure!(created > 0 && put > 0 && seal > 0, "No allocation failed");
    fdbox.delete()
}

fn nothing_arrived(_: &Cx<'_>) -> Result<()> {
    Ok(())
}

/// The kernel takes it lightly when it has no memory for a node in /dev, whatever device it is for. By what
/// sysfs says of the device anybody makes it.
fn make_missing_nodes() -> Result<()> {
    for class in ["misc", "fdbox"] {
        for device in fs::read_dir(format!("/sys/class/{class}"))? {
            let reported = fs::read_to_string(device?.path().join("uevent"))?;
            let value = |name: &str| reported.lines().find_map(|line| line.strip_prefix(name));
            let Some(name) = value("DEVNAME=").filter(|name| name.starts_with("fdbox/")) else {
                continue;
            };
            let number = |name: &str| -> Result<u32> {
                let text = value(name).context("The device's number")?;
                Ok(text.parse()?)
            };
            let device = rustix::fs::makedev(number("MAJOR=")?, number("MINOR=")?);
            fs::create_dir_all("/dev/fdbox")?;
            let (path, mode) = (format!("/dev/{name}"), 0o600.into());
            match rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                FileType::CharacterDevice,
                mode,
                device,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context("Make a node"),
            }
        }
    }
    Ok(())
}

/// While it is there, the console hears only of what is worst: the kernel tells allocations that fail
/// with a backtrace. The log has all the same what it says beside that.
struct Quiet {
    usual: String,
    /// Lines of the log before it.
    lines: usize,
}

const PRINTK: &str = "/proc/sys/kernel/printk";

/// KHO warns when it has no memory for a file in debugfs, and goes on. What a warning begins with has
/// another line that says what it is.
const KNOWN: [&str; 2] = ["at kho_add_subtree+", "---[ cut here ]---"];

impl Quiet {
    fn begin() -> Result<Self> {
        let usual = fs::read_to_string(PRINTK)?;
        let lines = host::whole_kernel_log()?.len();
        fs::write(PRINTK, "1")?;
        Ok(Self { usual, lines })
    }

    fn end(self) -> Result<()> {
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
