//! What a VMM beside this kernel needs to build itself before the guest's state is written: a file in the guest's
//! box, in the format of the state.

use std::os::fd::{AsFd, OwnedFd};

use thiserror::Error;
use vmm_fdbox::frame::{FrameError, KnownSection, Need};
use vmm_fdbox::statefd::{SavedState, StateError, StateFd};

use crate::guest::boot::BootStateV1;
use crate::guest::state::{MachineStateV1, PRODUCER};

/// Its name in the box.
pub(crate) const OUTLINE_FD: &str = "vm-outline";

const MACHINE: &str = "machine";
const CPUS: &str = "cpus";
const BOOT: &str = "boot";
/// Small sections.
const CAPACITY: usize = 16 << 10;

/// Why there is no outline.
#[derive(Debug, Error)]
pub(crate) enum OutlineError {
    #[error("The guest's outline cannot be written or read")]
    State(#[from] StateError),
    #[error("The guest's outline cannot be written or read")]
    Frame(#[from] FrameError),
}

/// A guest without its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    /// As in the state.
    pub(crate) machine: MachineStateV1,
    pub(crate) cpus: u32,
    /// What it boots from when it resets.
    pub(crate) boot: Option<BootStateV1>,
}

impl Outline {
    /// A file with it, for the box.
    pub(crate) fn write(&self) -> Result<OwnedFd, OutlineError> {
        let (mut state, fd) = StateFd::create(CAPACITY)?;
        state.write_frame::<OutlineError>(PRODUCER, |frame| {
            frame.add(MACHINE, 1, Need::Required, &self.machine)?;
            frame.add(CPUS, 1, Need::Required, &self.cpus)?;
            match &self.boot {
                Some(boot) => Ok(frame.add(BOOT, 1, Need::Optional, boot)?),
                None => Ok(()),
            }
        })?;
        Ok(fd)
    }

    pub(crate) fn read(fd: impl AsFd) -> Result<Self, OutlineError> {
        let frame = SavedState::read(fd)?.frame;
        Ok(Self {
            machine: frame.read(MACHINE)?,
            cpus: frame.read(CPUS)?,
            boot: frame.read_optional(KnownSection::new(BOOT, 1, 1))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::state::sample::guest_v1;

    #[test]
    fn what_is_written_is_read() {
        let outline = Outline {
            machine: guest_v1().machine,
            cpus: 3,
            boot: guest_v1().boot,
        };
        let file = outline.write().unwrap();
        assert_eq!(Outline::read(&file).unwrap(), outline);
        rustix::io::pwrite(&file, &[0xff; 8], 4096 + 128).unwrap();
        assert!(Outline::read(&file).is_err(), "damaged");
    }
}
