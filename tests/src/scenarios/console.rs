//! The guest's console: a Unix socket of the VMM, on which the witness reports.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, EventPort};
use fdbox_lab::witness::{self, Report, WitnessEvent, command};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// The time limit for checking every page.
pub(crate) const REPORT_LIMIT: Duration = Duration::from_secs(180);
pub(crate) const BEAT_LIMIT: Duration = Duration::from_secs(60);

/// The events of the witness, as they arrive.
#[derive(Debug)]
pub(crate) struct Console {
    input: UnixStream,
    events: Receiver<WitnessEvent>,
}

impl Console {
    /// Connects to the console at `path`, which is about to appear. Meanwhile `alive` checks
    /// whether it still can.
    pub(crate) fn connect(
        path: &Path,
        port: Arc<EventPort>,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        // The VMM may still have to create its directory, too.
        let mut folders = path.ancestors().skip(1);
        let dir = folders.find(|dir| dir.is_dir());
        let dir = dir.context("The console's path has a directory")?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, dir, inotify::WatchFlags::CREATE)?;
        let deadline = Instant::now() + limit;
        let input = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("Connect to the guest's console");
                }
                Err(_) => {}
            }
            alive()?;
            // The socket exists before it listens: try again soon in any case.
            let soon = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            poll(
                &mut [PollFd::new(&watch.as_fd(), PollFlags::IN)],
                Some(&soon),
            )?;
        };
        // Each console is named after its guest.
        let guest = path.file_stem().unwrap_or_default().to_string_lossy();
        let guest = guest.into_owned();
        let (sender, events) = mpsc::channel();
        let output = BufReader::new(input.try_clone()?);
        std::thread::spawn(move || {
            for line in output.split(b'\n') {
                let Ok(line) = line else { break };
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.is_empty() {
                    continue;
                }
                let event = witness::parse(&text);
                let guest = guest.clone();
                // First of all the lab gets the line: a test that waits for the event may end the host with it.
                if port.send(&Event::Guest { guest, text }).is_err() {
                    break;
                }
                if let Some(event) = event {
                    // There may be no test that waits for it any more.
                    let _ = sender.send(event);
                }
            }
        });
        Ok(Self { input, events })
    }

    /// Waits until the witness sends an event that `wanted` accepts.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(WitnessEvent) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    if let Some(found) = wanted(event) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("The guest gave no {what} in {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("The guest's console closed while waiting for its {what}")
                }
            }
        }
    }

    /// Sends a command to the witness.
    pub(crate) fn say(&mut self, command: &str) -> Result<()> {
        let line = format!("{command}\n");
        self.input
            .write_all(line.as_bytes())
            .context("Write to the guest's console")
    }

    pub(crate) fn wait_for_beat(&self) -> Result<()> {
        let is_beat = |event| matches!(event, WitnessEvent::Beat { .. }).then_some(());
        self.wait("heartbeat", BEAT_LIMIT, is_beat)
    }

    /// Makes the witness check all its memory.
    pub(crate) fn report(&mut self) -> Result<Report> {
        self.say(command::REPORT)?;
        self.wait("report", REPORT_LIMIT, |event| match event {
            WitnessEvent::Report(report) => Some(*report),
            _ => None,
        })
    }

    /// Gives the witness a command that it only confirms.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        self.say(command)?;
        let is_done = |event| matches!(event, WitnessEvent::Done).then_some(());
        self.wait(command, REPORT_LIMIT, is_done)
    }
}
