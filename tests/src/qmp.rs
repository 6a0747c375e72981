//! The subset of QEMU's monitor protocol needed to control a machine, and to examine one that
//! hangs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(10);

/// A connection to QEMU's monitor, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Qmp {
    /// Performs the handshake with the monitor at the other end of `stream`.
    pub fn connect(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT))?;
        let mut qmp = Self {
            input: BufReader::new(stream.try_clone()?),
            output: stream,
        };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command of the human monitor and returns what it prints.
    pub fn human(&mut self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(answer.as_str().unwrap_or_default().replace("\r\n", "\n"))
    }

    /// Waits for an event with this name, without a time limit. `None` if QEMU is gone.
    pub fn event(&mut self, name: &str) -> Result<Option<Value>> {
        self.output.set_read_timeout(None)?;
        let mut line = String::new();
        while self.input.read_line(&mut line)? > 0 {
            let event: Value = serde_json::from_str(&line)?;
            if event["event"] == name {
                self.output.set_read_timeout(Some(LIMIT))?;
                return Ok(Some(event));
            }
            line.clear();
        }
        Ok(None)
    }

    /// Ends QEMU.
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit", json!({}))?;
        Ok(())
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.output.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                bail!("QEMU closed its monitor");
            }
            // The greeting and events are neither result nor error.
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }
}
