//! What the emulated host reports to the lab: one JSON object per line, on its second serial port.
//!
//! The first port is the kernel's console, so a program's output and a kernel message never share a
//! line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// The serial port of the events, in the host.
pub const PORT: &str = "/dev/ttyS1";

/// Precedes an event in a line of a lifeboat's console. A boat whose host is dead has no other port.
pub const FROM_BOAT: &str = "lab-event: ";

/// An event in the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A kernel booted and `lab-init` is about to follow its plan.
    Hello(Hello),
    /// A line that a command wrote.
    Output { stream: Stream, text: String },
    /// A command of the plan is about to run.
    Start { command: usize },
    /// A command of the plan ended. A status above 128 is 128 plus the signal that killed it.
    Exit { command: usize, status: i32 },
    /// `lab-init` is about to kexec.
    Jump,
    /// A line that the guest of this name wrote on its console.
    Guest { guest: String, text: String },
    /// A scenario's part of this stage ended.
    Scenario {
        name: String,
        stage: usize,
        error: Option<String>,
        millis: u64,
    },
    /// A result in the form of data: the figures of the demo and the scenarios.
    Value {
        name: String,
        value: serde_json::Value,
    },
    /// The last event of a run: the plan was completed, or the reason why not.
    Verdict { error: Option<String> },
}

/// How the host identifies itself. A stage is identified by all of it, not by `stage` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// 1 for the first kernel, 2 after one kexec, and so on; from the kernel command line.
    pub stage: usize,
    /// `uname -r`.
    pub release: String,
    /// /proc/version.
    pub version: String,
    pub boot_id: String,
    /// CLOCK_BOOTTIME.
    pub uptime_ns: u64,
    /// The raw TSC, which continues across a kexec.
    pub tsc: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// The host's end of the event port. Each event is a single `write`, so that the tty layer does not
/// mix lines of several programs.
#[derive(Debug)]
pub struct EventPort(Mutex<File>);

impl EventPort {
    /// Opens the port and disables the processing of its line discipline.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(PORT)?;
        let mut settings = rustix::termios::tcgetattr(&file)?;
        settings.make_raw();
        rustix::termios::tcsetattr(&file, rustix::termios::OptionalActions::Now, &settings)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Ends a line that the last kernel may have left incomplete.
    pub fn begin(&self) -> io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .write_all(b"\n")
    }

    pub fn send(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .write_all(&line)
    }

    /// Waits until everything written has left the machine: a kexec would truncate it.
    pub fn drain(&self) -> io::Result<()> {
        let file = self.0.lock().unwrap_or_else(|e| e.into_inner());
        Ok(rustix::termios::tcdrain(&*file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_and_survive_the_wire() {
        let event = Event::Scenario {
            name: "memfd/holes".into(),
            stage: 2,
            error: Some("page 3 is 1,\nnot 0".into()),
            millis: 12,
        };
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
