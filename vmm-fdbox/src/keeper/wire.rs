//! The keeper's protocol, byte for byte. docs/keeper-protocol.md describes it completely.
//!
//! A packet is one request or one reply, with a fixed size and little-endian. A field that a
//! command does not use is 0; a packet in which it is not is refused.

use rustix::io::Errno;

use crate::abi::{FDBOX_COMPATIBLE_LEN, FDBOX_MESSAGE_LEN, FDBOX_NAME_LEN};
use crate::bytes::{array, is_padded, u16_at, u32_at, u64_at};

/// The version of the keeper's protocol.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"FDBK";
/// The size of a request.
pub(crate) const REQUEST_BYTES: usize = 16 + FDBOX_NAME_LEN;
/// The size of a reply.
pub(crate) const REPLY_BYTES: usize =
    NAME_AT + FDBOX_NAME_LEN + FDBOX_COMPATIBLE_LEN + FDBOX_MESSAGE_LEN;

const NAME_AT: usize = 48;
const KIND_AT: usize = NAME_AT + FDBOX_NAME_LEN;
const MESSAGE_AT: usize = KIND_AT + FDBOX_COMPATIBLE_LEN;

const _: () = assert!(REQUEST_BYTES == 272 && REPLY_BYTES == 608);

/// The commands: first those of the keeper, then those of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Info = 1,
    Create = 2,
    Delete = 3,
    NextBox = 4,
    Open = 5,
    Give = 6,
    Owner = 7,
    Ready = 8,
    State = 16,
    Put = 17,
    Get = 18,
    Keep = 19,
    NextFd = 20,
    Seal = 21,
    Unseal = 22,
    Salvage = 23,
    NextLost = 24,
    Claim = 25,
    /// Not a request: confirms the reply to `Get`.
    Got = 26,
}

impl Command {
    const ALL: [Self; 19] = [
        Self::Info,
        Self::Create,
        Self::Delete,
        Self::NextBox,
        Self::Open,
        Self::Give,
        Self::Owner,
        Self::Ready,
        Self::State,
        Self::Put,
        Self::Get,
        Self::Keep,
        Self::NextFd,
        Self::Seal,
        Self::Unseal,
        Self::Salvage,
        Self::NextLost,
        Self::Claim,
        Self::Got,
    ];

    fn of(number: u16) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|command| *command as u16 == number)
    }

    /// Whether the command is about one box, and so is sent on that box's socket.
    pub(crate) fn is_of_box(self) -> bool {
        self as u16 >= Self::State as u16
    }

    fn has_number(self) -> bool {
        matches!(
            self,
            Self::NextBox | Self::Give | Self::NextFd | Self::NextLost | Self::Claim
        )
    }

    fn has_name(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::Delete
                | Self::Open
                | Self::Give
                | Self::Owner
                | Self::Put
                | Self::Get
                | Self::Keep
        )
    }
}

/// Number of `Claim`: shared with other shared claims.
pub(crate) const HOLD_SHARED: u64 = 1;
/// Number of `Claim`: exclusive.
pub(crate) const HOLD_EXCLUSIVE: u64 = 2;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// A cursor, a hold, or an owner: the user in the lower half, the group in the upper one.
    pub(crate) number: u64,
    pub(crate) name: [u8; FDBOX_NAME_LEN],
}

impl Request {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            command,
            number: 0,
            name: [0; FDBOX_NAME_LEN],
        }
    }

    pub(crate) fn number(self, number: u64) -> Self {
        Self { number, ..self }
    }

    pub(crate) fn name(self, name: [u8; FDBOX_NAME_LEN]) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        begin(&mut bytes, self.command);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..].copy_from_slice(&self.name);
        bytes
    }

    /// `None` if it is not valid in this protocol.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        let command = begun(bytes)?;
        let request = Self {
            command,
            number: u64_at(bytes, 8),
            name: array(bytes, 16),
        };
        let name_fits = match command.has_name() {
            true => request.name[0] != 0 && is_padded(&request.name),
            false => request.name == [0; FDBOX_NAME_LEN],
        };
        (name_fits && (command.has_number() || request.number == 0)).then_some(request)
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) command: Command,
    /// `None` on success.
    pub(crate) error: Option<Errno>,
    /// A state, a reason or a home.
    pub(crate) code: u32,
    pub(crate) numbers: [u64; 4],
    pub(crate) name: [u8; FDBOX_NAME_LEN],
    pub(crate) kind: [u8; FDBOX_COMPATIBLE_LEN],
    pub(crate) message: [u8; FDBOX_MESSAGE_LEN],
}

impl Reply {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            command,
            error: None,
            code: 0,
            numbers: [0; 4],
            name: [0; FDBOX_NAME_LEN],
            kind: [0; FDBOX_COMPATIBLE_LEN],
            message: [0; FDBOX_MESSAGE_LEN],
        }
    }

    pub(crate) fn failed(command: Command, errno: Errno) -> Self {
        Self {
            error: Some(errno),
            ..Self::new(command)
        }
    }

    pub(crate) fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut bytes = [0; REPLY_BYTES];
        begin(&mut bytes, self.command);
        let error = self.error.map_or(0, Errno::raw_os_error);
        bytes[8..12].copy_from_slice(&error.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.code.to_le_bytes());
        for (place, number) in bytes[16..NAME_AT].chunks_exact_mut(8).zip(self.numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[NAME_AT..KIND_AT].copy_from_slice(&self.name);
        bytes[KIND_AT..MESSAGE_AT].copy_from_slice(&self.kind);
        bytes[MESSAGE_AT..].copy_from_slice(&self.message);
        bytes
    }

    /// `None` if it is not valid in this protocol.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPLY_BYTES] = bytes.try_into().ok()?;
        let reply = Self {
            command: begun(bytes)?,
            error: error_of(u32_at(bytes, 8))?,
            code: u32_at(bytes, 12),
            numbers: [16, 24, 32, 40].map(|at| u64_at(bytes, at)),
            name: array(bytes, NAME_AT),
            kind: array(bytes, KIND_AT),
            message: array(bytes, MESSAGE_AT),
        };
        let texts: [&[u8]; 3] = [&reply.name, &reply.kind, &reply.message];
        let is_padded = texts.into_iter().all(is_padded);
        is_padded.then_some(reply)
    }
}

fn begin(bytes: &mut [u8], command: Command) {
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&(command as u16).to_le_bytes());
}

fn begun(bytes: &[u8]) -> Option<Command> {
    let is_ours = bytes[..4] == MAGIC && u16_at(bytes, 4) == VERSION;
    let command = Command::of(u16_at(bytes, 6));
    command.filter(|_| is_ours)
}

/// `None` if no kernel has such an errno.
fn error_of(number: u32) -> Option<Option<Errno>> {
    match i32::try_from(number) {
        Ok(0) => Some(None),
        Ok(errno @ 1..4096) => Some(Some(Errno::from_raw_os_error(errno))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
