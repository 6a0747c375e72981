//! Ends the process if an input takes too long: whoever started it finds the input in the run's directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// How long an input may take. Most take microseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// See the module's documentation. It ends with this value.
pub(super) struct Watchdog {
    executions: Arc<AtomicU64>,
    _end: Sender<()>,
}

impl Watchdog {
    pub(super) fn start(name: &str) -> Self {
        let executions = Arc::new(AtomicU64::new(0));
        let (end, ended) = mpsc::channel();
        let (watched, name) = (executions.clone(), name.to_owned());
        thread::spawn(move || watch(&name, &watched, &ended));
        Self {
            executions,
            _end: end,
        }
    }

    pub(super) fn executing(&self, number: u64) {
        self.executions.store(number, Ordering::Relaxed);
    }
}

fn watch(name: &str, executions: &AtomicU64, ended: &Receiver<()>) {
    let mut last = 0;
    while ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
        let now = executions.load(Ordering::Relaxed);
        if now != 0 && now == last {
            eprintln!("{name}: execution {now} takes longer than {LIMIT:?}");
            std::process::abort();
        }
        last = now;
    }
}
