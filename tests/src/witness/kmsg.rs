//! The guest kernel's own log, searched for complaints.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use fdbox_lab::scan;
use rustix::fs::OFlags;

/// How many complaints are described.
const EXAMPLES: usize = 8;

#[derive(Debug)]
pub(crate) struct Kmsg {
    file: File,
    count: u64,
    examples: Vec<String>,
}

impl Kmsg {
    /// Opens the log at its first line.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg");
        Ok(Self {
            file: file.context("Open /dev/kmsg")?,
            count: 0,
            examples: Vec::new(),
        })
    }

    /// The number of lines so far that are complaints, and the first few of them.
    pub(crate) fn complaints(&mut self) -> Result<(u64, Vec<String>)> {
        // One read is one record.
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(count) => self.judge(&String::from_utf8_lossy(&record[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The record was overwritten before it was read; the next read continues.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("Read /dev/kmsg"),
            }
        }
        Ok((self.count, self.examples.clone()))
    }

    fn judge(&mut self, record: &str) {
        // "priority,sequence,time,flags;message", then lines about the device that begin with a
        // space.
        let message = record
            .split_once(';')
            .map_or(record, |(_, message)| message);
        let message = message.lines().next().unwrap_or_default();
        if scan::complaint(message).is_some() {
            self.count += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(message.to_owned());
            }
        }
    }
}
