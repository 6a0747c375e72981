//! A line on a terminal that says what is going on, while it goes on.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(250);

/// What the line says.
#[derive(Debug)]
struct Said {
    what: String,
    since: Instant,
    over: bool,
}

/// The line, on standard error; it goes when this does.
#[derive(Debug)]
pub(super) struct Progress {
    said: Arc<(Mutex<Said>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// A line, if somebody sits there to read it.
    pub(super) fn start() -> Self {
        let said = Said {
            what: String::new(),
            since: Instant::now(),
            over: !io::stderr().is_terminal(),
        };
        let over = said.over;
        let said = Arc::new((Mutex::new(said), Condvar::new()));
        let shown = said.clone();
        let spawn = || thread::Builder::new().spawn(move || show(&shown)).ok();
        Self {
            said,
            thread: if over { None } else { spawn() },
        }
    }

    /// Says something else. Nothing said, nothing shown.
    pub(super) fn say(&self, what: &str) {
        let mut said = lock(&self.said.0);
        said.what = what.into();
        said.since = Instant::now();
        clear(&said);
    }

    /// Makes room for another line.
    pub(super) fn clear(&self) {
        clear(&lock(&self.said.0));
    }
}

fn clear(said: &Said) {
    if !said.over {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn show(said: &(Mutex<Said>, Condvar)) {
    let (mutex, changed) = said;
    let mut said = lock(mutex);
    while !said.over {
        if !said.what.is_empty() {
            let seconds = said.since.elapsed().as_secs_f64();
            let _ = write!(io::stderr(), "\r\x1b[K{} ({seconds:.0} s)", said.what);
            let _ = io::stderr().flush();
        }
        let waited = changed.wait_timeout(said, PACE);
        said = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
        lock(&self.said.0).over = true;
        self.said.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only writes.
            let _ = thread.join();
        }
    }
}
