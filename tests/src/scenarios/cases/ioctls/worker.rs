//! A process that makes random calls, and reports how many.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use fdbox_lab::choices::Choices;
use fdbox_lab::ioctls::Counts;
use rustix::io::Errno;

use super::BOXES;
use super::calls::Call;
use super::{errnos, files};
use crate::check::equal;
use crate::failing::{self, Switches};
use crate::fdbox::{self, FdBox};
use crate::uapi;

/// Calls between two reports.
const CALLS_PER_REPORT: u64 = 50;
/// Files at hand.
const MOST_FILES: usize = 12;
/// An allocation fails in one of so many calls, at most so deep into it.
const CALLS_PER_FAILURE: u64 = 3;
const MOST_ALLOCATIONS: u64 = 60;

/// What a process has done since its last report. Written in one piece, so that reports of several
/// processes do not mix in the pipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    calls: u16,
    succeeded: u16,
    failing: u16,
}

impl Report {
    pub(super) const BYTES: usize = 6;

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self {
            calls: u16::from_le_bytes([a, b]),
            succeeded: u16::from_le_bytes([c, d]),
            failing: u16::from_le_bytes([e, f]),
        }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let [[a, b], [c, d], [e, f]] =
            [self.calls, self.succeeded, self.failing].map(u16::to_le_bytes);
        [a, b, c, d, e, f]
    }

    /// Whether a process has written this, in one piece.
    pub(super) fn is_whole(self) -> bool {
        let most = CALLS_PER_REPORT as u16;
        (1..=most).contains(&self.calls) && self.succeeded.max(self.failing) <= self.calls
    }

    pub(super) fn counts(self) -> Counts {
        Counts {
            calls: self.calls.into(),
            succeeded: self.succeeded.into(),
            failing: self.failing.into(),
            ..Counts::default()
        }
    }
}

/// `SEED:CALLS`: where the random choices begin, and how many calls.
pub(crate) fn work(argument: &str) -> Result<()> {
    let (seed, calls) = argument.split_once(':').context("SEED:CALLS")?;
    let (seed, calls): (u64, u64) = (seed.parse()?, calls.parse()?);
    let mut worker = Worker {
        choices: Choices::from(seed),
        control: fdbox::control()?,
        nodes: Vec::new(),
        files: Vec::new(),
        switches: match failing::is_possible() {
            true => Some(Switches::open()?),
            false => None,
        },
        report: Report::default(),
    };
    for call in 1..=calls {
        let done = worker.step();
        done.with_context(|| format!("Call {call} with the seed {seed}"))?;
        if call.is_multiple_of(CALLS_PER_REPORT) || call == calls {
            let report = std::mem::take(&mut worker.report).to_bytes();
            // Not by `std`, which writes what comes after a newline, and a number may be one, separately.
            let written = rustix::io::write(rustix::stdio::stdout(), &report)?;
            equal("The bytes of a report", written, Report::BYTES)?;
        }
    }
    Ok(())
}

struct Worker {
    choices: Choices,
    control: File,
    nodes: Vec<FdBox>,
    files: Vec<OwnedFd>,
    switches: Option<Switches>,
    report: Report,
}

impl Worker {
    fn step(&mut self) -> Result<()> {
        self.change_files()?;
        self.change_nodes()?;
        let box_index = match self.nodes.len() {
            0 => None,
            len => Some(self.choices.below(len as u64) as usize),
        };
        match box_index {
            Some(index) if !self.choices.one_in(5) => self.call_box(index),
            _ => self.call_control(),
        }
    }

    fn change_files(&mut self) -> Result<()> {
        if self.choices.one_in(3) {
            self.files.extend(files::make(&mut self.choices)?);
        }
        while self.files.len() > MOST_FILES {
            let index = self.choices.below(self.files.len() as u64) as usize;
            self.files.swap_remove(index);
        }
        if let Some(fd) = self.files.last() {
            files::use_somehow(fd, &mut self.choices)?;
        }
        Ok(())
    }

    /// Opens or closes a box.
    fn change_nodes(&mut self) -> Result<()> {
        if self.nodes.len() < BOXES.len() && self.choices.one_in(3) {
            let name = *self.choices.one_of(&BOXES);
            match FdBox::try_open(name) {
                Ok(node) => self.nodes.push(node),
                // It was deleted, perhaps right now.
                Err(error) => {
                    let error = Errno::from_io_error(&error);
                    let is_expected =
                        matches!(error, Some(Errno::NOENT | Errno::NODEV | Errno::NXIO));
                    ensure!(is_expected, "Opening {name} fails with {error:?}");
                }
            }
        }
        if !self.nodes.is_empty() && self.choices.one_in(30) {
            self.nodes.swap_remove(0);
        }
        Ok(())
    }

    fn call_control(&mut self) -> Result<()> {
        let call = match self.choices.one_in(20) {
            true => Call::of_any(&mut self.choices),
            false => Call::of_control(&mut self.choices),
        };
        let node = self.control.as_fd().try_clone_to_owned()?;
        self.make(call, &node, false).map(drop)
    }

    fn call_box(&mut self, index: usize) -> Result<()> {
        let fd = match self.files.is_empty() || self.choices.one_in(20) {
            true => None,
            false => Some(self.choices.below(self.files.len() as u64) as usize),
        };
        let call = match self.choices.one_in(20) {
            true => Call::of_any(&mut self.choices),
            false => {
                let fd = fd.map(|fd| self.files[fd].as_fd());
                Call::of_box(&mut self.choices, fd)
            }
        };
        let node = self.nodes[index].as_fd().try_clone_to_owned()?;
        let command = call.command;
        match (self.make(call, &node, true)?, command, fd) {
            (Ok(_), uapi::PUT_FD, Some(fd)) => {
                // PUT_FD has closed it.
                use std::os::fd::IntoRawFd;
                let _ = self.files.swap_remove(fd).into_raw_fd();
            }
            (Ok(number), uapi::GET_FD, _) => {
                // SAFETY: the kernel has just created this descriptor for the caller.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                files::check(&fd)?;
                self.files.push(fd);
            }
            (Err(Errno::NODEV), ..) => drop(self.nodes.swap_remove(index)),
            _ => {}
        }
        Ok(())
    }

    /// Makes the call, with an allocation failing if that is possible, and checks its errno.
    fn make(
        &mut self,
        mut call: Call,
        node: &OwnedFd,
        is_of_box: bool,
    ) -> Result<Result<i32, Errno>> {
        let command = call.command;
        let nth = match self.choices.one_in(CALLS_PER_FAILURE) {
            true => 1 + self.choices.below(MOST_ALLOCATIONS) as u32,
            false => 0,
        };
        let result = match &self.switches {
            Some(switches) if nth > 0 => {
                let (result, has_failed) = switches.call(nth, false, &mut || call.make(node))?;
                self.report.failing += u16::from(has_failed);
                result
            }
            _ => call.make(node),
        };
        self.report.calls += 1;
        self.report.succeeded += u16::from(result.is_ok());
        if let Err(error) = result {
            let is_allowed = errnos::is_allowed(command, is_of_box, error);
            ensure!(is_allowed, "Command {:#x} fails with {error:?}", command);
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_its_numbers() {
        let report = Report {
            calls: 50,
            succeeded: 30,
            failing: 7,
        };
        assert_eq!(Report::from_bytes(report.to_bytes()), report);
        assert_eq!(report.counts().succeeded, 30);
        assert!(report.is_whole());
        // Two of them, from the third byte on.
        let bytes = [report.to_bytes(), report.to_bytes()].concat();
        let mixed = bytes[2..2 + Report::BYTES].try_into().unwrap();
        assert!(!Report::from_bytes(mixed).is_whole());
    }
}
