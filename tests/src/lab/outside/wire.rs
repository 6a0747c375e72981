//! The cable: a stream of frames, each preceded by its length, in the format of QEMU's `-netdev
//! stream`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Size of a length field, which is big-endian.
const LENGTH: usize = 4;
/// The longest frame: 1500 bytes and a header.
const FRAME: usize = 1514;
/// How much may be queued for a host that reads nothing. Anything beyond is lost, like on any
/// cable.
const QUEUE: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    input: VecDeque<u8>,
    output: VecDeque<u8>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: VecDeque::new(),
            output: VecDeque::new(),
        })
    }

    /// Reads and writes what it can without waiting. Returns false if the host is off.
    pub(super) fn pump(&mut self) -> Result<bool> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_off(&error) => return Ok(false),
                Err(error) => return Err(error).context("Read the host's frames"),
            }
        }
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_off(&error) => return Ok(false),
                Err(error) => return Err(error).context("Send the host frames"),
            }
        }
        Ok(true)
    }

    /// Waits until there is something to [`pump`](Self::pump), or until `limit`.
    pub(super) fn wait(&self, limit: Duration) -> Result<()> {
        let wanted = match self.output.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let limit = Timespec::try_from(limit)?;
        match poll(&mut [PollFd::new(&self.stream, wanted)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("Wait for the host's frames"),
        }
    }

    fn frame(&mut self) -> Option<Frame> {
        let mut length = [0; LENGTH];
        if self.input.len() < LENGTH {
            return None;
        }
        for (to, from) in length.iter_mut().zip(&self.input) {
            *to = *from;
        }
        let length = u32::from_be_bytes(length) as usize;
        if self.input.len() < LENGTH + length {
            return None;
        }
        self.input.drain(..LENGTH);
        Some(Frame(self.input.drain(..length).collect()))
    }
}

fn is_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

impl Device for Wire {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Sender<'_>)> {
        let frame = self.frame()?;
        Some((frame, Sender(&mut self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// A received frame.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

/// Sends one frame.
#[derive(Debug)]
pub(super) struct Sender<'a>(&'a mut VecDeque<u8>);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        if self.0.len() + LENGTH + length <= QUEUE {
            self.0.extend((length as u32).to_be_bytes());
            self.0.extend(frame);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(near).unwrap();
        let now = Instant::from_millis(0);
        let sender = wire.transmit(now).unwrap();
        sender.consume(3, |frame| frame.copy_from_slice(b"abc"));
        assert!(wire.pump().unwrap());
        let mut sent = [0; 7];
        far.read_exact(&mut sent).unwrap();
        assert_eq!(&sent, b"\0\0\0\x03abc");
        for byte in sent {
            assert!(wire.receive(now).is_none());
            far.write_all(&[byte]).unwrap();
            assert!(wire.pump().unwrap());
        }
        let (frame, _) = wire.receive(now).unwrap();
        assert_eq!(frame.consume(<[u8]>::to_vec), b"abc");
        drop(far);
        assert!(!wire.pump().unwrap(), "a host that is off");
    }

    #[test]
    fn a_host_that_takes_nothing_costs_frames_and_not_memory() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(near).unwrap();
        for _ in 0..1000 {
            let sender = wire.transmit(Instant::from_millis(0)).unwrap();
            sender.consume(FRAME, |_| ());
        }
        assert!(wire.output.len() <= QUEUE && wire.output.len() > QUEUE / 2);
    }
}
