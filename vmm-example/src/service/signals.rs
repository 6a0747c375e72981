//! SIGTERM and SIGINT, as events.

#![allow(unsafe_code, reason = "this file is the thin layer around signalfd")]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::signal::{block_signal, create_sigset};

const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// The signals that would end this process, held back to be read.
#[derive(Debug)]
pub(crate) struct Signals(File);

impl Signals {
    /// Holds them back from now on, in this thread and those that it starts.
    pub(crate) fn hold_back() -> io::Result<Self> {
        for signal in SIGNALS {
            block_signal(signal).map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        let set = create_sigset(&SIGNALS)?;
        // SAFETY: `set` is an initialised set of signals, which the call only reads.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just created this descriptor; nothing else knows its number.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Has something done for each of them.
    pub(crate) fn then(self, act: impl FnMut() + 'static) -> OnSignal {
        OnSignal {
            signals: self.0,
            act: Box::new(act),
        }
    }
}

/// See [`Signals::then`].
pub(crate) struct OnSignal {
    signals: File,
    act: Box<dyn FnMut()>,
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
            (self.act)();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.signals, EventSet::IN));
    }
}
