//! A device's rings while it works: requests come out, answers go in.
//!
//! Everything in a ring comes from the guest and may be wrong. A chain of buffers is checked when
//! it is taken; an invalid one breaks the device until the guest resets it.

use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::counters::Counters;
use super::interrupt::{Interrupt, Reason};

/// The maximum number of requests that a device answers before others get its lock.
pub(super) const BURST: usize = 256;

/// An error of the guest that no correct driver makes.
#[derive(Debug, Error)]
pub(crate) enum RingError {
    #[error("The ring is broken")]
    Queue(#[from] virtio_queue::Error),
    #[error("A chain of buffers loops, or leads out of its table or out of memory")]
    BrokenChain,
    #[error("A chain has a readable buffer after a writable one")]
    WrongOrder,
    #[error("A request lacks a part that it must have")]
    Incomplete,
}

/// A chain of buffers that the guest has made available.
pub(super) struct Request<'a> {
    pub(super) head: u16,
    /// The guest's input.
    pub(super) input: Reader<'a>,
    /// Space for the answer.
    pub(super) output: Writer<'a>,
}

/// A part of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: GuestAddress,
    pub(super) len: usize,
}

/// The locations of a chain's buffers, for a request that is answered later.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    /// The guest's input.
    pub(super) input: Vec<Span>,
    /// Space for the answer.
    pub(super) output: Vec<Span>,
}

/// All rings of a device.
pub(super) struct Rings<'a> {
    pub(super) queues: &'a mut [Queue],
    pub(super) memory: &'a GuestMemoryMmap,
    pub(super) interrupt: &'a Interrupt,
    /// Set when the device is to be parked: it finishes the current request.
    pub(super) stop: &'a AtomicBool,
    /// Wakes the device's thread for each ring.
    pub(super) kicks: &'a [EventFd],
}

impl<'a> Rings<'a> {
    /// Makes the device serve a ring once more, after others have had a turn.
    pub(super) fn again(&self, ring: usize) {
        // If the counter is full, the device wakes up anyway.
        let _ = self.kicks.get(ring).map(|kick| kick.write(1));
    }

    /// A ring; `None` while the driver has not set it up.
    pub(super) fn ring(&mut self, index: usize) -> Option<Ring<'_, 'a>> {
        let queue = self.queues.get_mut(index).filter(|queue| queue.ready())?;
        Some(Ring {
            queue,
            memory: self.memory,
            interrupt: self.interrupt,
            stop: self.stop,
            kick: self.kicks.get(index),
        })
    }

    pub(super) fn counters(&self) -> &'a Counters {
        &self.interrupt.counters
    }
}

/// A ring that the driver has set up.
pub(super) struct Ring<'r, 'a> {
    queue: &'r mut Queue,
    memory: &'a GuestMemoryMmap,
    interrupt: &'a Interrupt,
    stop: &'a AtomicBool,
    /// Wakes the device's thread for this ring.
    kick: Option<&'a EventFd>,
}

impl<'a> Ring<'_, 'a> {
    /// Answers the available requests; `answer` returns the number of bytes it wrote. After
    /// [`BURST`] requests, others get the device's lock.
    pub(super) fn serve(
        mut self,
        mut answer: impl FnMut(&mut Request<'a>) -> Result<usize, RingError>,
    ) -> Result<(), RingError> {
        let mut left = BURST;
        loop {
            self.queue.disable_notification(self.memory)?;
            while let Some(mut request) = self.pop()? {
                let written = answer(&mut request)?;
                self.push(&request, written)?;
                if self.is_stopped() {
                    return self.signal();
                }
                left -= 1;
                if left == 0 {
                    self.again();
                    return self.signal();
                }
            }
            if !self.queue.enable_notification(self.memory)? {
                return self.signal();
            }
        }
    }

    /// Takes the next request.
    pub(super) fn pop(&mut self) -> Result<Option<Request<'a>>, RingError> {
        let Some(chain) = self.queue.iter(self.memory)?.next() else {
            return Ok(None);
        };
        check(chain.clone())?;
        Ok(Some(Request {
            head: chain.head_index(),
            input: chain.clone().reader(self.memory)?,
            output: chain.writer(self.memory)?,
        }))
    }

    /// Takes the next chain as locations of buffers, which are all in guest memory.
    pub(super) fn pop_chain(&mut self) -> Result<Option<Chain>, RingError> {
        let Some(descriptors) = self.queue.iter(self.memory)?.next() else {
            return Ok(None);
        };
        check(descriptors.clone())?;
        let mut chain = Chain {
            head: descriptors.head_index(),
            input: Vec::new(),
            output: Vec::new(),
        };
        for descriptor in descriptors {
            let span = Span {
                at: descriptor.addr(),
                len: descriptor.len() as usize,
            };
            if !self.memory.check_range(span.at, span.len) {
                return Err(RingError::BrokenChain);
            }
            match descriptor.is_write_only() {
                true => chain.output.push(span),
                false => chain.input.push(span),
            }
        }
        Ok(Some(chain))
    }

    /// Takes the next chain, or asks the guest to notify when there is one.
    pub(super) fn pop_chain_or_ask(&mut self) -> Result<Option<Chain>, RingError> {
        if let Some(chain) = self.pop_chain()? {
            return Ok(Some(chain));
        }
        match self.queue.enable_notification(self.memory)? {
            true => self.pop_chain(),
            false => Ok(None),
        }
    }

    /// Makes the device serve this ring once more, after others have had a turn.
    pub(super) fn again(&self) {
        // If the counter is full, the device wakes up anyway.
        let _ = self.kick.map(|kick| kick.write(1));
    }

    pub(super) fn memory(&self) -> &'a GuestMemoryMmap {
        self.memory
    }

    /// Takes the next request, or asks the guest to notify when there is one.
    pub(super) fn pop_or_ask(&mut self) -> Result<Option<Request<'a>>, RingError> {
        if let Some(request) = self.pop()? {
            return Ok(Some(request));
        }
        match self.queue.enable_notification(self.memory)? {
            true => self.pop(),
            false => Ok(None),
        }
    }

    /// Undoes taking the last request.
    pub(super) fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a request to the guest, with this many bytes written.
    pub(super) fn push(&mut self, request: &Request<'_>, written: usize) -> Result<(), RingError> {
        self.push_head(request.head, written)
    }

    /// Returns a chain to the guest, by its first descriptor.
    pub(super) fn push_head(&mut self, head: u16, written: usize) -> Result<(), RingError> {
        // A chain has less than 4 GiB: the iterator over it ends there.
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.interrupt.counters.request();
        Ok(self.queue.add_used(self.memory, head, written)?)
    }

    /// Notifies the guest of returned requests, if it wants to know.
    pub(super) fn signal(&mut self) -> Result<(), RingError> {
        if self.queue.needs_notification(self.memory)? {
            self.interrupt.raise(Reason::Used);
        }
        Ok(())
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Walks a chain to its end: it must have one, and change direction at most once.
fn check(chain: DescriptorChain<&GuestMemoryMmap>) -> Result<(), RingError> {
    let mut writable = false;
    let mut ended = false;
    for descriptor in chain {
        if writable && !descriptor.is_write_only() {
            return Err(RingError::WrongOrder);
        }
        writable = descriptor.is_write_only();
        ended = !descriptor.has_next();
    }
    if ended {
        Ok(())
    } else {
        Err(RingError::BrokenChain)
    }
}
