//! What a command does when it is interrupted (SIGINT, SIGTERM).

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use vmm_sys_util::signal::register_signal_handler;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How late an interrupt is noticed.
const LOOK: Duration = Duration::from_millis(50);

extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// From now on an interrupt does not end the process, but has this done in a thread.
pub(crate) fn then(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    catch(&[libc::SIGINT, libc::SIGTERM])?;
    watch(move || {
        while !INTERRUPTED.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
        act();
    })
}

/// From now on SIGTERM does not end the process, but has this done in a thread, each time. SIGINT, which a terminal
/// sends to all who belong to it, does nothing.
pub(crate) fn each_term(act: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    catch(&[libc::SIGTERM])?;
    register_signal_handler(libc::SIGINT, ignore)
        .map_err(std::io::Error::from)
        .context("Cannot catch interrupts")?;
    watch(move || {
        loop {
            if INTERRUPTED.swap(false, Ordering::SeqCst) {
                act();
            }
            thread::sleep(LOOK);
        }
    })
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

fn catch(signals: &[libc::c_int]) -> anyhow::Result<()> {
    for signal in signals {
        register_signal_handler(*signal, note)
            .map_err(std::io::Error::from)
            .context("Cannot catch interrupts")?;
    }
    Ok(())
}

fn watch(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(act)
        .map(drop)
        .context("Cannot catch interrupts")
}
