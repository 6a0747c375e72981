//! The output of a machine's ports, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::Result;
use fdbox_lab::event::{Event, FROM_BOAT};
use fdbox_lab::scan;

/// A line from the machine, and its time.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Since QEMU was started.
    pub at: Duration,
    pub content: LineContent,
}

#[derive(Debug, Clone)]
pub(crate) enum LineContent {
    /// The kernel's console.
    Console(String),
    /// The console of a kernel that runs next to the host's.
    Boat(String),
    /// On that console, the event of a boat whose host is dead.
    BoatEvent(Event),
    /// The event port.
    Event(Event),
    /// From the event port, but not an event: a program wrote to the wrong place.
    Noise(String),
    /// One of the ports closed: the machine is gone.
    Closed,
}

/// Converts a line of text from one port.
pub(crate) type Reader = fn(String) -> LineContent;

impl LineContent {
    pub(crate) fn console(line: String) -> Self {
        Self::Console(scan::plain(&line))
    }

    pub(crate) fn boat(line: String) -> Self {
        let text = scan::plain(&line);
        let event = text.split_once(FROM_BOAT);
        match event.and_then(|(_, event)| serde_json::from_str(event).ok()) {
            Some(event) => Self::BoatEvent(event),
            None => Self::Boat(text),
        }
    }

    pub(crate) fn event(line: String) -> Self {
        match serde_json::from_str(&line) {
            Ok(event) => Self::Event(event),
            Err(_) => Self::Noise(line),
        }
    }
}

/// Reads a port to its end, in a separate thread: each line goes to the log and to the lab.
pub(crate) fn read(
    stream: UnixStream,
    log: PathBuf,
    started: Instant,
    sender: Sender<Line>,
    content: Reader,
) -> Result<()> {
    let mut log = File::create(log)?;
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let at = started.elapsed();
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\r')
                .to_owned();
            // A full disk must not look like a silent machine: the lab still gets the line.
            let _ = writeln!(log, "{:9.3} {text}", at.as_secs_f64());
            if !text.is_empty()
                && sender
                    .send(Line {
                        at,
                        content: content(text),
                    })
                    .is_err()
            {
                break;
            }
        }
        let _ = sender.send(Line {
            at: started.elapsed(),
            content: LineContent::Closed,
        });
    });
    Ok(())
}
