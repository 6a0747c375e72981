//! The errnos that docs/uapi.md lists for each command.

use rustix::io::Errno;

use crate::uapi;

/// Of all commands. ENOTTY is not among them: only an unknown command has it.
const SHARED: &[Errno] = &[
    Errno::FAULT,
    Errno::INVAL,
    Errno::NODEV,
    Errno::NOMEM,
    Errno::TOOBIG,
];

const PUT: &[Errno] = &[Errno::BADF, Errno::OPNOTSUPP, Errno::BUSY, Errno::EXIST];
/// Without those of files that came from another kernel.
const GET: &[Errno] = &[Errno::BUSY, Errno::NOENT];
/// Without those of an update, of memory that is broken, and of files that came from another kernel.
const SEAL: &[Errno] = &[Errno::BUSY, Errno::NOENT, Errno::OPNOTSUPP];

fn own(command: u32) -> &'static [Errno] {
    match command {
        uapi::CREATE_BOX => &[Errno::EXIST],
        uapi::DELETE_BOX => &[Errno::NOENT, Errno::BUSY],
        uapi::PUT_FD => PUT,
        uapi::GET_FD => GET,
        uapi::SEAL => SEAL,
        uapi::NEXT_BOX | uapi::NEXT_FD | uapi::SEAL_ERROR | uapi::NEXT_LOST => &[Errno::NOENT],
        // Without a lifeboat.
        uapi::BORROW | uapi::LEND => &[Errno::NXIO],
        _ => &[],
    }
}

/// Whether the documentation lets this command of a box, or of the control node, fail so.
pub(super) fn is_allowed(command: u32, is_of_box: bool, error: Errno) -> bool {
    let is_control = matches!(
        command,
        uapi::CREATE_BOX | uapi::DELETE_BOX | uapi::INFO | uapi::NEXT_BOX | uapi::BORROW
    );
    let is_known = (uapi::CREATE_BOX..=uapi::LEND).contains(&command);
    if !is_known || is_control == is_of_box {
        return error == Errno::NOTTY;
    }
    SHARED.contains(&error) || own(command).contains(&error)
}
