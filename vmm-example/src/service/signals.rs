//! SIGTERM, SIGINT and SIGHUP, as events.

#![allow(unsafe_code, reason = "this file is the thin layer around signalfd")]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::signal::{block_signal, create_sigset};

/// Whether SIGHUP from a closing terminal should end this process: not if it was started to ignore
/// it, as by `nohup`.
pub(crate) fn hang_up_counts() -> bool {
    // SAFETY: sigaction consists of integers, a pointer and a set of bits: all zeros is a valid
    // value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is given, and the old one is written to a live value of its type.
    let asked = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) };
    asked != 0 || action.sa_sigaction != libc::SIG_IGN
}

/// The request that a signal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end; if repeated, immediately.
    End,
    /// The terminal is gone. Both the kernel and the shell send this.
    HungUp,
}

/// The signals that would end this process, blocked so that they can be read.
#[derive(Debug)]
pub(crate) struct Signals(File);

impl Signals {
    /// Blocks them from now on, in this thread and those that it starts.
    pub(crate) fn hold_back() -> io::Result<Self> {
        let mut signals = vec![libc::SIGTERM, libc::SIGINT];
        signals.extend(hang_up_counts().then_some(libc::SIGHUP));
        for signal in &signals {
            block_signal(*signal).map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        let set = create_sigset(&signals)?;
        // SAFETY: `set` is an initialised signal set, which the call only reads.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just created this descriptor; nothing else has its number.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Calls `act` for each of them.
    pub(crate) fn then(self, act: impl FnMut(Asked) + 'static) -> OnSignal {
        OnSignal {
            signals: self.0,
            act: Box::new(act),
        }
    }
}

/// See [`Signals::then`].
pub(crate) struct OnSignal {
    signals: File,
    act: Box<dyn FnMut(Asked)>,
}

impl fmt::Debug for OnSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSignal")
    }
}

impl MutEventSubscriber for OnSignal {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        let mut one = [0; size_of::<libc::signalfd_siginfo>()];
        while self.signals.read_exact(&mut one).is_ok() {
            // The signal's number comes first.
            let number = one.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            (self.act)(match number {
                Some(number) if number == libc::SIGHUP.unsigned_abs() => Asked::HungUp,
                _ => Asked::End,
            });
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.signals, EventSet::IN));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use event_manager::{EventManager, SubscriberOps};

    use super::*;

    /// Returns at once when there is an event.
    const LIMIT_MS: i32 = 10_000;

    #[test]
    fn a_signal_is_an_event() {
        let signals = Signals::hold_back().unwrap();
        let (asked, came) = mpsc::channel();
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(signals.then(move |what| asked.send(what).unwrap()));
        assert_eq!(manager.run_with_timeout(0).unwrap(), 0);
        let mut signals_and_requests =
            vec![(libc::SIGTERM, Asked::End), (libc::SIGINT, Asked::End)];
        signals_and_requests.extend(hang_up_counts().then_some((libc::SIGHUP, Asked::HungUp)));
        for (signal, what) in signals_and_requests {
            // SAFETY: the call has no pointers. The signal is blocked in this thread, which gets it.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
            assert_eq!(manager.run_with_timeout(LIMIT_MS).unwrap(), 1);
            assert_eq!(came.try_recv(), Ok(what));
        }
        assert_eq!(manager.run_with_timeout(0).unwrap(), 0);
    }
}
