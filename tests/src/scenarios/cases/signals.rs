//! SEAL in a process that receives signals continuously, like a VMM with a timer.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario, guest_memory};
use crate::fdbox::FdBox;
use crate::host;
use crate::kvm::Vm;
use crate::memory::MIB;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guest-memory/periodic-signal",
    about: "SEAL fills the holes of guest memory although a signal arrives every \
                millisecond",
    host: HostKind::OneBoot,
    stages: &[periodic_signal],
}];

const NAME: &str = "periodic-signal";
/// Takes many periods of the timer to fill.
const SIZE: u64 = 64 * MIB;
const PERIOD_US: libc::suseconds_t = 1000;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts SIGALRM, and starts a timer that sends it to this process.
fn start_timer() -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = count;
    // SAFETY: all zero bytes are an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the struct is valid, and the handler only increments a counter, which is
    // async-signal-safe.
    let result = unsafe { libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) };
    ensure!(
        result == 0,
        "sigaction: {}",
        std::io::Error::last_os_error()
    );
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: PERIOD_US,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the struct is valid.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    ensure!(
        result == 0,
        "setitimer: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The helper: seals a box with guest memory that consists of holes, once, and leaves it sealed.
pub(super) fn seal_under_a_timer(name: &str) -> Result<()> {
    let fdbox = FdBox::open(name)?;
    let vm = Vm::create()?;
    fdbox.put(vm.guest_memfd(SIZE, guest_memory::SHARED)?, "ram")?;
    fdbox.put(vm.into_fd(), "vm")?;
    start_timer()?;
    let before = SIGNALS.load(Ordering::Relaxed);
    fdbox
        .seal()
        .context("SEAL with a signal each millisecond")?;
    let during = SIGNALS.load(Ordering::Relaxed) - before;
    ensure!(during > 0, "No signal came while SEAL ran");
    Ok(())
}

fn periodic_signal(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(NAME)?;
    host::in_another_process("seal-under-a-timer", &[NAME])?;
    fdbox.unseal()?;
    fdbox.delete()
}
