//! A guest's use of its disk, its network and a passed-through device, as reported on its console.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fdbox_lab::frame::Counted;
use fdbox_lab::witness::{Io, NvmeIo, WitnessEvent, command};

use crate::console::Console;

/// The time limit for some writes and some data in both directions. The connection is retried until
/// the guest is up, and a host that has just started is busy with other things.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// What counts as progress.
const WRITES: u64 = 16;
const BYTES: u64 = 2048;
const FRAMES: u64 = 200;

impl Console {
    /// The results so far; the work starts with the first request.
    pub(crate) fn io(&mut self) -> Result<Io> {
        self.ask_io(command::IO)
    }

    /// Stops it in an orderly way; everything that was written is read once more.
    pub(crate) fn end_io(&mut self) -> Result<Io> {
        self.ask_io(command::END_IO)
    }

    /// Waits until there is progress since `before`, on the disk and in both directions on the
    /// network.
    pub(crate) fn wait_for_io(&mut self, before: Option<&Io>) -> Result<Io> {
        let from = |of: fn(&Io) -> u64| before.map_or(0, of);
        let deadline = Instant::now() + PROGRESS_LIMIT;
        loop {
            let io = self.io()?;
            if io.disk.writes >= from(|io| io.disk.writes) + WRITES
                && io.tcp.sent >= from(|io| io.tcp.sent) + BYTES
                && io.tcp.received >= from(|io| io.tcp.received) + BYTES
            {
                return Ok(io);
            }
            if Instant::now() > deadline {
                bail!("The guest does not go on with disk and network: {io:?}");
            }
            // It sends an event once a second.
            self.wait("heartbeat", ANSWER_LIMIT, |event| {
                matches!(event, WitnessEvent::Beat { .. }).then_some(())
            })?;
        }
    }

    /// Waits until more frames than `before` have arrived at the passed-through card; it is brought
    /// up on the first request.
    pub(crate) fn wait_for_frames(&mut self, before: Option<&Counted>) -> Result<Counted> {
        let wanted = before.map_or(0, |before| before.received) + FRAMES;
        let deadline = Instant::now() + PROGRESS_LIMIT;
        loop {
            self.say(command::FRAMES)?;
            let counted = self.wait("count of frames", ANSWER_LIMIT, |event| match event {
                WitnessEvent::Frames(counted) => Some(counted),
                _ => None,
            })?;
            if counted.received >= wanted {
                return Ok(counted);
            }
            if Instant::now() > deadline {
                bail!("No more frames come: {counted:?}");
            }
            self.wait("heartbeat", ANSWER_LIMIT, |event| {
                matches!(event, WitnessEvent::Beat { .. }).then_some(())
            })?;
        }
    }

    /// How often a register of that card was read, and how often it was wrong; the first request begins with it.
    pub(crate) fn registers(&mut self) -> Result<(u64, u64)> {
        self.say(command::REGISTERS)?;
        self.wait("count of reads", ANSWER_LIMIT, |event| match event {
            WitnessEvent::Registers { reads, wrong } => Some((reads, wrong)),
            _ => None,
        })
    }

    /// The results of the passed-through NVMe drive; the work starts with the first request.
    pub(crate) fn nvme(&mut self) -> Result<NvmeIo> {
        self.ask_nvme(command::NVME)
    }

    /// Stops it in an orderly way; everything that was written is read once more.
    pub(crate) fn end_nvme(&mut self) -> Result<NvmeIo> {
        self.ask_nvme(command::END_NVME)
    }

    /// Waits until more was written to it than `before`.
    pub(crate) fn wait_for_nvme(&mut self, before: Option<&NvmeIo>) -> Result<NvmeIo> {
        let wanted = before.map_or(0, |before| before.disk.writes) + WRITES;
        let deadline = Instant::now() + PROGRESS_LIMIT;
        loop {
            let nvme = self.nvme()?;
            if nvme.disk.writes >= wanted {
                return Ok(nvme);
            }
            if Instant::now() > deadline {
                bail!("The guest does not go on writing to its drive: {nvme:?}");
            }
            self.wait("heartbeat", ANSWER_LIMIT, |event| {
                matches!(event, WitnessEvent::Beat { .. }).then_some(())
            })?;
        }
    }

    fn ask_nvme(&mut self, what: &str) -> Result<NvmeIo> {
        self.say(what)?;
        self.wait(what, ANSWER_LIMIT, |event| match event {
            WitnessEvent::Nvme(nvme) => Some(*nvme),
            _ => None,
        })
    }

    fn ask_io(&mut self, what: &str) -> Result<Io> {
        self.say(what)?;
        self.wait(what, ANSWER_LIMIT, |event| match event {
            WitnessEvent::Io(io) => Some(*io),
            _ => None,
        })
    }
}
