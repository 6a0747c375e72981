//! A host that leaves for the next kernel while the module loads: it has created some of the boxes
//! that arrived, but not the others.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::leaving::{ready, start};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, PAGE, check_page, memfd, write_page};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "leaving/while-it-loads",
    about: "the reboot waits for a module that is creating the boxes that arrived: all \
                go on to the next kernel",
    host: HostKind::LateModule,
    stages: &[before, between, after],
}];

const BOXES: u64 = 12;
/// The directory of the nodes.
const NODES: &str = "/dev/fdbox";
/// The directory where the kernel lists boxes whose nodes exist.
const DEVICES: &str = "/sys/class/fdbox";

fn name(number: u64) -> String {
    format!("leaving-load-{number}")
}

fn before(_: &Cx<'_>) -> Result<()> {
    for number in 0..BOXES {
        let fdbox = FdBox::create(&name(number))?;
        let memory = memfd(c"leaving", PAGE)?;
        write_page(&memory, 84 + number, 0)?;
        fdbox.put(memory, "memory")?;
        fdbox.seal()?;
    }
    Ok(())
}

/// The module `fdbox_dirlock` blocks the node of the first box until the reboot begins.
fn between(_: &Cx<'_>) -> Result<()> {
    fs::create_dir(NODES)?;
    host::load_module_with("fdbox_dirlock", &format!("directory={NODES}"))?;
    start("load-and-leave", "")
}

/// The helper `load-and-leave`: loads the module, and reports when it is at the first box.
pub(crate) fn load_and_leave() -> Result<()> {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            yield_to_the_reboot()?;
            host::load_module("fdbox")
        });
        host::until("The first box", || {
            let listed = fs::read_dir(DEVICES);
            Ok(listed.is_ok_and(|mut listed| listed.next().is_some()))
        })?;
        ensure!(!load.is_finished(), "The module has loaded already");
        ready()?;
        load.join().map_err(|_| anyhow!("A thread panicked"))?
    })
}

/// Binds this task and the first process, which reboots, to one CPU, and gives the latter priority:
/// a reboot that does not wait for the module is done with the boxes before the next one is
/// created.
fn yield_to_the_reboot() -> Result<()> {
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(Some(Pid::INIT), &cpu).context("Bind the first process to a CPU")?;
    sched_setaffinity(None, &cpu).context("Bind this thread to a CPU")?;
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the struct outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
    ensure!(
        result == 0,
        "sched_setscheduler: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn after(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    equal("The number of boxes", fdbox::info()?.boxes, BOXES)?;
    for number in 0..BOXES {
        let fdbox = FdBox::open(&name(number))?;
        fdbox.unseal()?;
        let memory = memory::file(fdbox.get("memory")?);
        check_page(&memory, 84 + number, 0)?;
        fdbox.delete()?;
    }
    Ok(())
}
