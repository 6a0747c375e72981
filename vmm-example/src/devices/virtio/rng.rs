//! The entropy device: random numbers from the host's kernel.
//!
//! Crosses an update: nothing of its own.

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};

use super::device::Device;
use super::device_state::{DeviceStateV1, RngStateV1};
use super::kind::Kind;
use super::ring::{Request, RingError, Rings};

pub(super) const RINGS: &[u16] = &[64];
/// The maximum number of bytes for one request.
const MAX_BYTES: usize = 4096;

/// The live device.
#[derive(Debug, Default)]
pub(super) struct Rng;

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        RINGS
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(ring) else {
            return Ok(());
        };
        ring.serve(|request| {
            let written = fill(request);
            counters.bytes(written);
            if written == 0 {
                counters.error();
            }
            Ok(written)
        })
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Rng(RngStateV1 {})
    }
}

/// Fills a request up to the maximum; 0 if there is no entropy.
fn fill(request: &mut Request<'_>) -> usize {
    let mut bytes = [0; MAX_BYTES];
    let wanted = request.output.available_bytes().min(MAX_BYTES);
    match getrandom(&mut bytes[..wanted], GetRandomFlags::empty()) {
        Ok(count) => request.output.write(&bytes[..count]).unwrap_or(0),
        Err(_) => 0,
    }
}
