//! One ioctl with random arguments, most of them correct.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use fdbox_lab::choices::Choices;
use rustix::io::Errno;

use super::BOXES;
use crate::fdbox;
use crate::uapi::{self, Borrow, Bytes, Info, Lend, NameArray, Named, Plain, PutFd};

/// The names of descriptors; some of them are wrong.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "vm", "e", "", ".."];
const RIGHT_NAMES: usize = 6;
/// Commands of a box, by how often they are called.
const OF_BOX: [u32; 16] = [
    uapi::PUT_FD,
    uapi::PUT_FD,
    uapi::PUT_FD,
    uapi::PUT_FD,
    uapi::GET_FD,
    uapi::GET_FD,
    uapi::GET_FD,
    uapi::SEAL,
    uapi::SEAL,
    uapi::UNSEAL,
    uapi::UNSEAL,
    uapi::NEXT_FD,
    uapi::SEAL_ERROR,
    uapi::NEXT_LOST,
    uapi::SALVAGE,
    uapi::LEND,
];
const OF_CONTROL: [u32; 6] = [
    uapi::CREATE_BOX,
    uapi::CREATE_BOX,
    uapi::DELETE_BOX,
    uapi::INFO,
    uapi::NEXT_BOX,
    uapi::BORROW,
];
/// One of so many calls gets an argument that is wrong as a whole.
const CALLS_PER_WRONG: u64 = 12;

/// An ioctl, ready to be made.
pub(super) struct Call {
    pub(super) command: u32,
    argument: Argument,
}

enum Argument {
    Named(Named),
    Put(PutFd),
    Info(Info),
    NextBox(uapi::NextBox),
    NextFd(uapi::NextFd),
    SealError(uapi::SealError),
    NextLost(uapi::NextLost),
    Salvage(uapi::Salvage),
    Borrow(Borrow),
    Lend(Lend),
    None,
    /// Of any size and with any flags.
    Bytes(Box<Bytes>),
    /// An address at which there is nothing.
    Nowhere(usize),
}

impl Call {
    /// A command of a box; `fd` is the file for PUT_FD.
    pub(super) fn of_box(choices: &mut Choices, fd: Option<BorrowedFd<'_>>) -> Self {
        let command = *choices.one_of(&OF_BOX);
        Self::of(command, choices, fd)
    }

    pub(super) fn of_control(choices: &mut Choices) -> Self {
        let command = *choices.one_of(&OF_CONTROL);
        Self::of(command, choices, None)
    }

    /// A number that may be no command, or one of another node.
    pub(super) fn of_any(choices: &mut Choices) -> Self {
        let command = uapi::io(choices.below(16) as u32);
        Self::of(command, choices, None)
    }

    fn of(command: u32, choices: &mut Choices, fd: Option<BorrowedFd<'_>>) -> Self {
        let takes_one = !matches!(command, uapi::SEAL | uapi::UNSEAL);
        let argument = match takes_one && choices.one_in(CALLS_PER_WRONG) {
            true => wrong(choices),
            false => right(command, choices, fd),
        };
        Self { command, argument }
    }

    pub(super) fn make(&mut self, node: impl AsFd) -> Result<i32, Errno> {
        let command = self.command;
        fn with<T: Plain>(fd: impl AsFd, command: u32, argument: &mut T) -> Result<i32, Errno> {
            uapi::call(fd, command, argument)
        }
        match &mut self.argument {
            Argument::Named(argument) => with(node, command, argument),
            Argument::Put(argument) => with(node, command, argument),
            Argument::Info(argument) => with(node, command, argument),
            Argument::NextBox(argument) => with(node, command, argument),
            Argument::NextFd(argument) => with(node, command, argument),
            Argument::SealError(argument) => with(node, command, argument),
            Argument::NextLost(argument) => with(node, command, argument),
            Argument::Salvage(argument) => with(node, command, argument),
            Argument::Borrow(argument) => with(node, command, argument),
            Argument::Lend(argument) => with(node, command, argument),
            Argument::Bytes(argument) => with(node, command, &mut **argument),
            Argument::None => uapi::call_plain(node, command, 0),
            Argument::Nowhere(address) => uapi::call_plain(node, command, *address),
        }
    }
}

fn right(command: u32, choices: &mut Choices, fd: Option<BorrowedFd<'_>>) -> Argument {
    let flags = match choices.one_in(40) {
        true => choices.number(),
        false => 0,
    };
    match command {
        uapi::CREATE_BOX | uapi::DELETE_BOX => Argument::Named(Named {
            flags,
            name: NameArray::new(choices.one_of::<&str>(&BOXES)),
        }),
        uapi::GET_FD => Argument::Named(Named {
            flags: flags | (u64::from(choices.one_in(2)) * uapi::GET_KEEP),
            name: name(choices),
        }),
        uapi::PUT_FD => Argument::Put(PutFd {
            flags,
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            pad: 0,
            name: name(choices),
        }),
        uapi::INFO => Argument::Info(Info {
            size: size_of::<Info>() as u32,
            ..Info::default()
        }),
        uapi::NEXT_BOX => Argument::NextBox(fdbox::next_box(choices.below(8))),
        uapi::NEXT_FD => Argument::NextFd(fdbox::next_fd(choices.below(8))),
        uapi::NEXT_LOST => Argument::NextLost(fdbox::next_lost(choices.below(3))),
        uapi::SEAL_ERROR => Argument::SealError(fdbox::no_seal_error()),
        uapi::SALVAGE => Argument::Salvage(fdbox::salvage()),
        uapi::BORROW => Argument::Borrow(Borrow {
            size: size_of::<Borrow>() as u32,
            flags: 0,
            name: name(choices),
        }),
        uapi::LEND => Argument::Lend(Lend {
            size: size_of::<Lend>() as u32,
            act: choices.below(5) as u32,
            ..Lend::default()
        }),
        _ => Argument::None,
    }
}

fn name(choices: &mut Choices) -> NameArray {
    match choices.one_in(30) {
        true => NameArray::of_bytes(&[b'x'; 256]),
        false if choices.one_in(10) => NameArray::new(choices.one_of::<&str>(&NAMES)),
        false => NameArray::new(choices.one_of::<&str>(&NAMES[..RIGHT_NAMES])),
    }
}

fn wrong(choices: &mut Choices) -> Argument {
    match choices.one_in(3) {
        true => Argument::Nowhere(choices.below(4096) as usize),
        false => {
            let size = *choices.one_of(&[0, 1, 8, 16, 56, 264, 280, 336, 528, 584, 600, 4096]);
            let flags = choices.below(3) as u32;
            Argument::Bytes(Box::new(Bytes::growable(
                size,
                flags,
                choices.below(2) as u8,
            )))
        }
    }
}
