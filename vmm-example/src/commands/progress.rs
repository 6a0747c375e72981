//! A line on a terminal that says what is going on, while it goes on.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(250);

/// Where the line is.
struct Screen(Box<dyn Write + Send>);

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

/// What the line says.
#[derive(Debug)]
struct ProgressLine {
    what: String,
    since: Instant,
    over: bool,
    screen: Screen,
}

impl ProgressLine {
    fn clear(&mut self) {
        if !self.over {
            let _ = write!(self.screen.0, "\r\x1b[K");
        }
    }

    fn show(&mut self) {
        if !self.what.is_empty() {
            let seconds = self.since.elapsed().as_secs_f64();
            let line = format!("\r\x1b[K{} ({seconds:.0} s)", self.what);
            let _ = self.screen.0.write_all(line.as_bytes());
            let _ = self.screen.0.flush();
        }
    }
}

/// The line, on standard error; it goes when this does.
#[derive(Debug)]
pub(super) struct Progress {
    line: Arc<(Mutex<ProgressLine>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

fn lock(line: &Mutex<ProgressLine>) -> MutexGuard<'_, ProgressLine> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// A line, if somebody sits there to read it.
    pub(super) fn start() -> Self {
        Self::on(Screen(Box::new(io::stderr())), io::stderr().is_terminal())
    }

    fn on(screen: Screen, is_read: bool) -> Self {
        let line = ProgressLine {
            what: String::new(),
            since: Instant::now(),
            over: !is_read,
            screen,
        };
        let over = line.over;
        let line = Arc::new((Mutex::new(line), Condvar::new()));
        let shown = line.clone();
        let spawn = || thread::Builder::new().spawn(move || show(&shown)).ok();
        Self {
            line,
            thread: if over { None } else { spawn() },
        }
    }

    /// Says something else. Nothing said, nothing shown.
    pub(super) fn say(&self, what: &str) {
        let mut line = lock(&self.line.0);
        line.what = what.into();
        line.since = Instant::now();
        line.clear();
    }

    /// Makes room for another line.
    pub(super) fn clear(&self) {
        lock(&self.line.0).clear();
    }
}

fn show(line: &(Mutex<ProgressLine>, Condvar)) {
    let (mutex, changed) = line;
    let mut line = lock(mutex);
    while !line.over {
        line.show();
        let waited = changed.wait_timeout(line, PACE);
        line = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
        lock(&self.line.0).over = true;
        self.line.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only writes.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const CLEAR: &str = "\r\x1b[K";
    const LIMIT: Duration = Duration::from_secs(20);

    /// Passes on each write.
    struct Sink(Sender<String>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Nobody may listen any more.
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn progress(is_read: bool) -> (Progress, Receiver<String>) {
        let (sender, written) = channel();
        let screen = Screen(Box::new(Sink(sender)));
        (Progress::on(screen, is_read), written)
    }

    #[test]
    fn the_line_says_what_goes_on_and_goes_in_the_end() {
        let (progress, written) = progress(true);
        progress.say("seal");
        assert_eq!(written.recv_timeout(LIMIT).unwrap(), CLEAR);
        // By itself, and again as time goes by.
        for _ in 0..2 {
            let line = written.recv_timeout(LIMIT).unwrap();
            assert!(line.starts_with(&format!("{CLEAR}seal (")), "{line:?}");
        }
        progress.say("pause");
        drop(progress);
        let rest: Vec<String> = written.iter().collect();
        assert_eq!(rest.last().unwrap(), CLEAR);
    }

    #[test]
    fn what_was_said_last_is_shown() {
        let (progress, written) = progress(true);
        progress.say("seal");
        progress.say("pause");
        let mut lines = std::iter::from_fn(|| written.recv_timeout(LIMIT).ok());
        assert!(lines.any(|line| line.contains("pause")));
        assert!(!lines.take(2).any(|line| line.contains("seal")));
    }

    #[test]
    fn where_nobody_reads_nothing_is_written() {
        let (progress, written) = progress(false);
        progress.say("seal");
        progress.clear();
        assert!(progress.thread.is_none());
        drop(progress);
        assert_eq!(written.iter().count(), 0);
    }
}
