//! A device's interrupts on their way to the guest.
//!
//! Each vector has an event that the host's kernel writes to. While the guest accepts the vector,
//! the event is connected: KVM turns it into the interrupt without involving this process. While
//! the guest masks it, or is parked, the event accumulates: that is the pending state.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::Physical;
use super::msix::VectorStateV1;
use super::{VfioError, sys};
use crate::devices::pci::routes::{InterruptLines, Message};
use crate::kvm::KvmError;

/// An interrupt of the device.
#[derive(Debug)]
struct Line {
    gsi: u32,
    event: EventFd,
    connected: bool,
    routed: Option<Message>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Vectors {
    lines: Arc<dyn InterruptLines>,
    own: Vec<Line>,
    /// Whether MSI-X is enabled in the device.
    armed: bool,
    parked: bool,
}

/// The guest's settings for a device's interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) on: bool,
    pub(super) all_masked: bool,
    pub(super) vectors: &'a [VectorStateV1],
}

impl Vectors {
    /// Interrupts of a parked device, with GSIs from `first_gsi` on.
    pub(super) fn new(
        lines: Arc<dyn InterruptLines>,
        first_gsi: u32,
        count: u16,
    ) -> std::io::Result<Self> {
        let line = |gsi| {
            Ok(Line {
                gsi,
                event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
                connected: false,
                routed: None,
            })
        };
        let gsis = (first_gsi..).take(count.into());
        Ok(Self {
            lines,
            own: gsis.map(line).collect::<std::io::Result<_>>()?,
            armed: false,
            parked: true,
        })
    }

    /// Applies the guest's settings.
    pub(super) fn follow(
        &mut self,
        wanted: Wanted<'_>,
        device: &dyn Physical,
    ) -> Result<(), VectorsError> {
        if self.parked {
            return Ok(());
        }
        if wanted.on && !self.armed {
            let events: Vec<&EventFd> = self.own.iter().map(|line| &line.event).collect();
            device.arm(&events)?;
            self.armed = true;
        }
        for (line, vector) in self.own.iter_mut().zip(wanted.vectors) {
            let listens = wanted.on && !wanted.all_masked && !vector.masked;
            line.set(self.lines.as_ref(), listens.then(|| vector.message()))?;
        }
        if !wanted.on && self.armed {
            device.disarm()?;
            self.armed = false;
            // Nothing is pending in a device whose MSI-X is disabled.
            self.own.iter().for_each(Line::forget);
        }
        Ok(())
    }

    /// From now on events accumulate.
    pub(super) fn park(&mut self) -> Result<(), VectorsError> {
        self.parked = true;
        for line in &mut self.own {
            line.set(self.lines.as_ref(), None)?;
        }
        Ok(())
    }

    /// Continues, and raises each vector that the guest has set up once: the device may have raised
    /// it without anyone noticing. A masked one becomes pending.
    pub(super) fn unpark(
        &mut self,
        wanted: Wanted<'_>,
        device: &dyn Physical,
    ) -> Result<(), VectorsError> {
        self.parked = false;
        self.follow(wanted, device)?;
        if wanted.on {
            let used = self.own.iter().zip(wanted.vectors);
            used.filter(|(_, vector)| vector.is_set_up())
                .for_each(|(line, _)| line.raise());
        }
        Ok(())
    }

    /// Disables MSI-X in the parked device, whose host is about to go away.
    pub(super) fn disarm(&mut self, device: &dyn Physical) -> Result<(), VfioError> {
        if self.armed {
            device.disarm()?;
            self.armed = false;
        }
        Ok(())
    }

    /// Discards pending interrupts of a device that is reset.
    pub(super) fn forget(&self) {
        self.own.iter().for_each(Line::forget);
    }

    /// Whether the vector is waiting for the guest to accept it.
    pub(super) fn is_pending(&self, vector: usize) -> bool {
        self.own
            .get(vector)
            .is_some_and(|line| !line.connected && line.has_news())
    }
}

/// Why the guest's settings could not be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum VectorsError {
    #[error(transparent)]
    Device(#[from] VfioError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl Line {
    /// Connects the event to a message, or to none.
    fn set(
        &mut self,
        lines: &dyn InterruptLines,
        message: Option<Message>,
    ) -> Result<(), KvmError> {
        if let Some(message) = message.filter(|message| self.routed != Some(*message)) {
            lines.route(self.gsi, message)?;
            self.routed = Some(message);
        }
        match (self.connected, message.is_some()) {
            (false, true) => {
                // This raises what is already pending.
                lines.connect(self.gsi, &self.event)?;
                self.forget();
            }
            (true, false) => lines.disconnect(self.gsi, &self.event)?,
            _ => {}
        }
        self.connected = message.is_some();
        Ok(())
    }

    fn raise(&self) {
        // If the counter is full, it is already raised.
        let _ = self.event.write(1);
    }

    fn forget(&self) {
        // An event that was not written has nothing to discard.
        let _ = self.event.read();
    }

    fn has_news(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(
            sys::event_fd(&self.event),
            PollFlags::IN,
        )];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
