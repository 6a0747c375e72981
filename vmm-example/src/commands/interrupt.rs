//! What a command does when it is interrupted (SIGINT, SIGTERM), or its terminal closes (SIGHUP).

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::Context;
use rustix::process::Signal;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use vmm_sys_util::signal::register_signal_handler;

use crate::service::signals::hang_up_counts;

/// The signal that came last; 0: none.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Counts the signals that nobody has read yet.
static INTERRUPTS: OnceLock<EventFd> = OnceLock::new();

extern "C" fn note(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CAME.store(signal, Ordering::SeqCst);
    // One write to a descriptor, which a handler may do. It fails only if nobody has read for 2^64 times.
    let _ = INTERRUPTS.get().map(|interrupts| interrupts.write(1));
}

/// From now on an interrupt does not end the process, but has this done in a thread.
pub(crate) fn then(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let interrupts = catch(&[libc::SIGINT, libc::SIGTERM])?;
    watch(move || {
        // A signal that this very thread gets ends it early.
        drop(interrupts.read());
        act();
    })
}

/// From now on SIGTERM and SIGHUP do not end the process, but have this done in a thread, each time. SIGINT, which a
/// terminal sends to all who belong to it, does nothing.
pub(crate) fn each(act: impl Fn(Signal) + Send + 'static) -> anyhow::Result<()> {
    let interrupts = catch(&[libc::SIGTERM])?;
    register(libc::SIGINT, ignore)?;
    watch(move || {
        loop {
            // A signal that this very thread gets ends it early, and is noted then.
            drop(interrupts.read());
            match CAME.swap(0, Ordering::SeqCst) {
                0 => {}
                libc::SIGHUP => act(Signal::HUP),
                _ => act(Signal::TERM),
            }
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
fn catch(signals: &[libc::c_int]) -> anyhow::Result<&'static EventFd> {
    let event = EventFd::new(EFD_CLOEXEC).context("Cannot catch interrupts")?;
    let interrupts = INTERRUPTS.get_or_init(|| event);
    let hang_up = hang_up_counts().then_some(&libc::SIGHUP);
    let mut signals = signals.iter().chain(hang_up);
    signals.try_for_each(|signal| register(*signal, note))?;
    Ok(interrupts)
}

fn watch(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(act)
        .map(drop)
        .context("Cannot catch interrupts")
}
