// SPDX-License-Identifier: GPL-2.0

//! PUT_FD and GET_FD, and the descriptors that come from the last kernel.

use crate::boxes::entry::{
    Content,
    Incoming,
    Live, //
};
use crate::boxes::fd_box::{
    FdBox,
    State, //
};
use crate::ffi;
use crate::file;
use crate::kexec::kho;
use crate::leaving::Change;
use crate::lending;
use crate::name::Name;
use crate::registry;
use kernel::{
    fs::file::{
        flags,
        FileDescriptorReservation, //
    },
    prelude::*, //
};

impl FdBox {
    /// FDBOX_PUT_FD.
    pub(crate) fn put(&self, name: Name, fd: u32) -> Result {
        let file = file::fget(fd)?;
        let kind = registry::of_file(&file)?;
        let mut held = self.hold(State::must_be_open)?;
        if held.borrowed.is_some() {
            // The host would not get it.
            return Err(EOPNOTSUPP);
        }
        // SAFETY: No precondition.
        if held.slots.len() >= unsafe { ffi::fdbox_shim_max_fds() } as usize {
            return Err(held.slots.named(&name).map_or(ENOSPC, |_| EEXIST));
        }
        held.push(name, Content::Live(Live::new(file.clone(), kind)))?;
        drop(held);
        file::close(fd, &file);
        Ok(())
    }

    /// Adds a descriptor of the last kernel. Only used while the module loads.
    pub(crate) fn put_incoming(&self, name: Name, incoming: Incoming) -> Result {
        self.hold(State::must_be_open)?
            .push(name, Content::Incoming(incoming))
    }

    /// Marks a box of the last kernel as sealed, as it was there.
    pub(crate) fn arrived(&self) -> Result {
        let mut held = self.hold(State::must_be_open)?;
        held.state = State::Sealed { handed_over: false };
        held.required = kho::enabled().then(kho::Required::new).and_then(Result::ok);
        Ok(())
    }

    /// FDBOX_GET_FD; returns the new descriptor's number. With `keep`, the file stays in the box as
    /// well, and may also be one of a sealed box that the other kernel has: to be mapped before the box
    /// is taken.
    pub(crate) fn get(&self, name: &Name, keep: bool) -> Result<u32> {
        let is_away = keep && lending::is_away(&self.name);
        // Dropped after `held`.
        let _change = match is_away {
            true => Some(Change::begin()?),
            false => None,
        };
        let mut held = self.hold(|state| match state {
            State::Lent if keep => Ok(()),
            State::Sealed { .. } if is_away => Ok(()),
            state => state.must_be_open(),
        })?;
        let at = held.slots.named(name).ok_or(match held.state {
            // As of any sealed box: what is in it is not told by GET.
            State::Lent | State::Sealed { .. } => EBUSY,
            State::Open | State::Dead => ENOENT,
        })?;
        let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        let file = held.make_own(at, fd.reserved_fd())?;
        // It was reserved so that nothing is restored in vain, and because KVM names a VM after it.
        drop(fd);
        if matches!(held.state, State::Sealed { .. }) {
            held.freeze_made(at)?;
            return file::receive(&file);
        }
        let given = file::receive(&file)?;
        if !keep {
            held.remove(at);
        }
        held.forget_given();
        Ok(given)
    }
}
