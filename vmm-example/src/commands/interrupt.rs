//! What a command does when it is interrupted (SIGINT, SIGTERM), or its terminal closes (SIGHUP).

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use vmm_sys_util::signal::register_signal_handler;

use crate::service::signals::hang_up_counts;

/// The signal that came last; 0: none.
static CAME: AtomicI32 = AtomicI32::new(0);

/// How late an interrupt is noticed.
const LOOK: Duration = Duration::from_millis(50);

extern "C" fn note(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CAME.store(signal, Ordering::SeqCst);
}

/// From now on an interrupt does not end the process, but has this done in a thread.
pub(crate) fn then(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    catch(&[libc::SIGINT, libc::SIGTERM])?;
    watch(move || {
        while CAME.load(Ordering::SeqCst) == 0 {
            thread::sleep(LOOK);
        }
        act();
    })
}

/// From now on SIGTERM and SIGHUP do not end the process, but have this done in a thread, each time. SIGINT, which a
/// terminal sends to all who belong to it, does nothing.
pub(crate) fn each(act: impl Fn(Signal) + Send + 'static) -> anyhow::Result<()> {
    catch(&[libc::SIGTERM])?;
    register(libc::SIGINT, ignore)?;
    watch(move || {
        loop {
            match CAME.swap(0, Ordering::SeqCst) {
                0 => {}
                libc::SIGHUP => act(Signal::HUP),
                _ => act(Signal::TERM),
            }
            thread::sleep(LOOK);
        }
    })
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);

fn register(signal: libc::c_int, handler: Handler) -> anyhow::Result<()> {
    register_signal_handler(signal, handler)
        .map_err(std::io::Error::from)
        .context("Cannot catch interrupts")
}

/// These, and SIGHUP unless it was to be ignored, as `nohup` has it.
fn catch(signals: &[libc::c_int]) -> anyhow::Result<()> {
    let hang_up = hang_up_counts().then_some(&libc::SIGHUP);
    let mut signals = signals.iter().chain(hang_up);
    signals.try_for_each(|signal| register(*signal, note))
}

fn watch(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(act)
        .map(drop)
        .context("Cannot catch interrupts")
}
