//! Guests and hosts that are reached through a pointer.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::parties::{Guest, Host, NamedFd, PartyError};
use crate::deadline::Deadline;
use crate::finding::Finding;
use crate::frame::FrameWriter;
use crate::kind::Kind;
use crate::name::FdName;

/// A panic in another thread is no reason to leave the guest paused.
fn lock<G: ?Sized>(guest: &Mutex<G>) -> MutexGuard<'_, G> {
    guest.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! guest_behind {
    ($pointer:ty, $this:ident => $shared:expr, $exclusive:expr) => {
        impl<G: Guest + ?Sized> Guest for $pointer {
            fn preflight(&mut self) -> Vec<Finding> {
                let $this = self;
                $exclusive.preflight()
            }

            fn kinds(&self) -> BTreeSet<Kind> {
                let $this = self;
                $shared.kinds()
            }

            fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
                let $this = self;
                $exclusive.take_fds()
            }

            fn quiesce(&mut self, deadline: Deadline) -> Result<(), PartyError> {
                let $this = self;
                $exclusive.quiesce(deadline)
            }

            fn pause(&mut self, deadline: Deadline) -> Result<(), PartyError> {
                let $this = self;
                $exclusive.pause(deadline)
            }

            fn save(
                &mut self,
                frame: &mut FrameWriter<'_>,
                deadline: Deadline,
            ) -> Result<(), PartyError> {
                let $this = self;
                $exclusive.save(frame, deadline)
            }

            fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
                let $this = self;
                $exclusive.give_back(name, fd)
            }

            fn resume_in_place(&mut self) -> Result<(), PartyError> {
                let $this = self;
                $exclusive.resume_in_place()
            }
        }
    };
}

guest_behind!(&mut G, this => (**this), (**this));
guest_behind!(Box<G>, this => (**this), (**this));
guest_behind!(Arc<Mutex<G>>, this => lock(this), lock(this));

macro_rules! host_behind {
    ($pointer:ty) => {
        impl<H: Host + ?Sized> Host for $pointer {
            fn preflight(&mut self) -> Vec<Finding> {
                (**self).preflight()
            }

            fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
                (**self).check_kinds(kinds)
            }

            fn leaves_kernel(&self) -> bool {
                (**self).leaves_kernel()
            }

            fn seals(&self) -> bool {
                (**self).seals()
            }

            fn prebuild(&mut self) -> Result<(), PartyError> {
                (**self).prebuild()
            }

            fn load(&mut self) -> Result<(), PartyError> {
                (**self).load()
            }

            fn unload(&mut self) -> Result<(), PartyError> {
                (**self).unload()
            }

            fn is_left_by_others(&self) -> bool {
                (**self).is_left_by_others()
            }

            fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError> {
                (**self).jump(deadline)
            }
        }
    };
}

host_behind!(&mut H);
host_behind!(Box<H>);
