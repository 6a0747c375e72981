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

/// The last signal received; 0 if none.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Counts the signals that have not been read yet.
static INTERRUPTS: OnceLock<EventFd> = OnceLock::new();

extern "C" fn note(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CAME.store(signal, Ordering::SeqCst);
    // A single write to a descriptor is allowed in a handler. It fails only after 2^64 unread
    // signals.
    let _ = INTERRUPTS.get().map(|interrupts| interrupts.write(1));
}

/// From now on an interrupt does not end the process, but runs `act` in a thread.
pub(crate) fn then(act: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let interrupts = catch(&[libc::SIGINT, libc::SIGTERM])?;
    watch(move || {
        // A signal to this very thread ends the read early.
        drop(interrupts.read());
        act();
    })
}

/// From now on SIGTERM and SIGHUP do not end the process, but run `act` in a thread, each time.
/// SIGINT, which a terminal sends to all its processes, does nothing.
pub(crate) fn each(act: impl Fn(Signal) + Send + 'static) -> anyhow::Result<()> {
    let interrupts = catch(&[libc::SIGTERM])?;
    register(libc::SIGINT, ignore)?;
    watch(move || {
        loop {
            // A signal to this very thread ends the read early, and is handled then.
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

/// Catches these signals, and SIGHUP unless it is ignored, as under `nohup`.
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
