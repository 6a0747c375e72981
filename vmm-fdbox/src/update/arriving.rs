//! The arriving side, ahead of time: a guest that still runs in another process of this kernel.

use std::os::fd::OwnedFd;

use super::arrival::{self, Arrival, ResumeFailed, ResumePlan};
use super::contents::Contents;
use super::outcome::UpdateError;
use super::step::Step;
use crate::hold::Hold;
use crate::name::{BoxName, FdName};
use crate::store::BoxStore;

/// A guest that another process is about to hand over through an open box. Everything but its state
/// is already in there, so whatever needs only that is built before the guest stops.
///
/// ```no_run
/// use vmm_fdbox::frame::KnownSection;
/// use vmm_fdbox::update::{Arriving, ResumePlan};
/// use vmm_fdbox::{BoxName, Control, FdName};
///
/// let control = Control::open()?;
/// let known = [KnownSection::new("vcpu0", 1, 1)];
/// let name = BoxName::new("vm0")?;
/// let mut arriving = Arriving::open(control, &name)?;
/// let ram = arriving.take(&FdName::new("ram")?)?;
/// // ... build the VM around `ram`, then wait until the other process has paused the guest ...
/// let arrival = arriving.arrive(ResumePlan::new(name, &known))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arriving<S: BoxStore> {
    store: S,
    contents: Contents<S>,
    /// The memfd that the state will be written to.
    state: OwnedFd,
}

impl<S: BoxStore> Arriving<S> {
    /// Opens the guest's box.
    ///
    /// # Errors
    /// [`ResumeFailed`]: the box is unchanged.
    pub fn open(store: S, name: &BoxName) -> Result<Self, Box<ResumeFailed>> {
        let (contents, state) = arrival::open(&store, name, Hold::Shared)?;
        Ok(Self {
            store,
            contents,
            state,
        })
    }

    /// Looks into the box of a guest that runs in another kernel, beside this one. It stays sealed until the
    /// guest is taken with [`Arrival::commit`].
    ///
    /// # Errors
    /// [`ResumeFailed`]: the box is unchanged.
    pub fn open_away(store: S, name: &BoxName) -> Result<Self, Box<ResumeFailed>> {
        let failed = |error| ResumeFailed::new(Step::Open, error, None);
        let mut contents = Contents::open_away(&store, name).map_err(failed)?;
        let state = contents.take_away_state(name).map_err(failed)?;
        Ok(Self {
            store,
            contents,
            state,
        })
    }

    /// Like [`Arrival::take_if_there`].
    ///
    /// # Errors
    /// As there.
    pub fn take_if_there(&mut self, name: &FdName) -> Result<Option<OwnedFd>, UpdateError> {
        self.contents.take_if_there(name)
    }

    /// Like [`Arrival::take`].
    ///
    /// # Errors
    /// As there.
    pub fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        self.contents.take(name)
    }

    /// Reads and checks the state once it has been written. The plan's box is that of
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// As [`Arrival::open`].
    pub fn arrive(self, plan: ResumePlan<'_>) -> Result<Arrival<S>, Box<ResumeFailed>> {
        let start = plan.now();
        Arrival::arrived(self.store, plan, self.contents, &self.state, start)
    }
}
