//! A device at rest: in a lifeboat, which has no disk, no network and nobody to talk to.
//!
//! Its driver finds the registers and the configuration that it knows, and may put requests into
//! the rings. They wait there: the next VMM in the host looks at each ring when the guest is home.
//! Nothing of the device's state changes meanwhile, except by a reset.
//!
//! Only a console takes what it is given, and drops it: the driver of the guest's kernel messages
//! spins until it is taken.

use std::io;

use super::device::Device;
use super::device_state::DeviceStateV1;
use super::kind::Kind;
use super::needs;
use super::ring::{RingError, Rings};
use super::{block, console};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Resting(DeviceStateV1);

impl Resting {
    pub(super) fn new(state: DeviceStateV1) -> Self {
        Self(state)
    }

    fn offered(&self) -> (u64, &'static [u16]) {
        let readonly = matches!(&self.0, DeviceStateV1::Block(block) if block.readonly);
        needs::offered(self.0.kind(), readonly)
    }
}

impl Device for Resting {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn features(&self) -> u64 {
        self.offered().0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.offered().1
    }

    fn config(&self) -> Vec<u8> {
        match &self.0 {
            DeviceStateV1::Block(state) => block::config(state.sectors),
            DeviceStateV1::Net(state) => state.mac.to_vec(),
            DeviceStateV1::Console(_) => console::config(),
            DeviceStateV1::Rng(_) => Vec::new(),
            DeviceStateV1::Vsock(state) => state.cid.to_le_bytes().to_vec(),
        }
    }

    /// What was for the driver that is gone.
    fn reset(&mut self) {
        match &mut self.0 {
            DeviceStateV1::Net(state) => state.waiting.clear(),
            DeviceStateV1::Vsock(state) => state.reset_due = false,
            DeviceStateV1::Block(_) | DeviceStateV1::Console(_) | DeviceStateV1::Rng(_) => {}
        }
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match &self.0 {
            DeviceStateV1::Console(_) => console::drop_output(ring, rings),
            _ => Ok(()),
        }
    }

    fn state(&self) -> DeviceStateV1 {
        self.0.clone()
    }

    fn catch_up(&mut self, state: &DeviceStateV1) -> io::Result<()> {
        self.0 = state.clone();
        Ok(())
    }
}
