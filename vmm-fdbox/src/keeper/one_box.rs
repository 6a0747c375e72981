//! The commands of a box's socket.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::answer::Answer;
use super::backing::Backing;
use super::content::{Connection, Content};
use super::entry::Refusal;
use super::held::Held;
use super::wire::{Command, HOLD_EXCLUSIVE, HOLD_SHARED, Reply, Request};
use crate::abi;
use crate::bytes::text_into;
use crate::hold::Hold;
use crate::name::FdName;

/// A box in use by a connection.
pub(super) struct Used<'a> {
    pub(super) held: &'a Held,
    pub(super) by: &'a Connection,
    pub(super) backing: &'a Backing,
}

impl Used<'_> {
    pub(super) fn serve(
        &self,
        content: &mut Content,
        request: &Request,
        put: Option<OwnedFd>,
        answer: &Answer<'_>,
    ) {
        let name = FdName::from_kernel(&request.name).map_err(|_| Errno::INVAL);
        let cursor = usize::try_from(request.number).unwrap_or(usize::MAX);
        match request.command {
            Command::State => answer.reply_with(state(content, answer)),
            Command::Put => answer.done_or(name, |name| self.put(content, name, put, answer)),
            Command::Get => answer.done_or(name, |name| get(content, &name, answer)),
            Command::Keep => answer.done_or(name, |name| keep(content, &name, answer)),
            Command::NextFd => answer.reply_with(next_fd(content, cursor, answer)),
            Command::NextLost => answer.reply_with(next_lost(content, cursor, answer)),
            Command::Seal => match self.seal(content) {
                Ok(()) => answer.done(Ok(())),
                Err(refusal) => answer.reply_with(Ok(refused(&refusal, answer))),
            },
            Command::Unseal => answer.done(content.unseal()),
            Command::Salvage => answer.done(content.salvage()),
            Command::Claim => {
                let hold = hold_of(request.number);
                answer.done(hold.and_then(|hold| content.claim(self.by, hold)));
            }
            _ => answer.done(Err(Errno::PERM)),
        }
    }

    fn seal(&self, content: &mut Content) -> Result<(), Refusal> {
        let held = (&self.held.name, self.held.owner());
        content.seal(held, self.backing)
    }

    /// The descriptor stays in the box only if the client gets the reply.
    fn put(
        &self,
        content: &mut Content,
        name: FdName,
        put: Option<OwnedFd>,
        answer: &Answer<'_>,
    ) -> Result<(), Errno> {
        let fd = put.ok_or(Errno::BADF)?;
        let kind = content.takes(&name, fd.as_fd(), self.backing)?;
        let at = content.put(name, fd, kind);
        if !answer.send(&answer.reply(), None) {
            content.remove(at);
        }
        Ok(())
    }
}

/// Sends a descriptor that stays in the box.
fn keep(content: &Content, name: &FdName, answer: &Answer<'_>) -> Result<(), Errno> {
    let (_, fd) = content.find(name)?;
    answer.send(&answer.reply(), Some(fd));
    Ok(())
}

/// The descriptor leaves the box only if the client confirms that it has it.
fn get(content: &mut Content, name: &FdName, answer: &Answer<'_>) -> Result<(), Errno> {
    let (at, _) = content.find(name)?;
    let entry = content.remove(at);
    let fd = entry.file.as_ref().ok().map(AsFd::as_fd);
    if !(answer.send(&answer.reply(), fd) && answer.is_confirmed()) {
        content.put_back(at, entry);
    }
    Ok(())
}

fn hold_of(number: u64) -> Result<Hold, Errno> {
    match number {
        HOLD_SHARED => Ok(Hold::Shared),
        HOLD_EXCLUSIVE => Ok(Hold::Exclusive),
        _ => Err(Errno::INVAL),
    }
}

fn state(content: &Content, answer: &Answer<'_>) -> Result<Reply, Errno> {
    let code = match content.is_sealed()? {
        true => abi::FDBOX_STATE_SEALED,
        false => abi::FDBOX_STATE_OPEN,
    };
    Ok(Reply {
        code,
        ..answer.reply()
    })
}

fn next_fd(content: &Content, cursor: usize, answer: &Answer<'_>) -> Result<Reply, Errno> {
    let entry = content.entries()?.get(cursor).ok_or(Errno::NOENT)?;
    Ok(Reply {
        code: entry.state(),
        numbers: [cursor as u64 + 1, entry.bytes(), 0, 0],
        name: entry.name.to_kernel(),
        kind: text_into(&entry.kind),
        ..answer.reply()
    })
}

fn next_lost(content: &Content, cursor: usize, answer: &Answer<'_>) -> Result<Reply, Errno> {
    content.entries()?;
    let mut lost = content.lost().skip_while(|(at, _, _)| *at < cursor);
    let (at, entry, lost) = lost.next().ok_or(Errno::NOENT)?;
    let errno = u64::from(lost.errno.raw_os_error().unsigned_abs());
    Ok(Reply {
        code: abi::FDBOX_LOST_DATA,
        numbers: [at as u64 + 1, errno, 0, 0],
        name: entry.name.to_kernel(),
        kind: text_into(&entry.kind),
        message: text_into(lost.message),
        ..answer.reply()
    })
}

fn refused(refusal: &Refusal, answer: &Answer<'_>) -> Reply {
    let name = refusal.name.as_ref().map(FdName::to_kernel);
    Reply {
        error: Some(refusal.errno),
        code: refusal.reason,
        name: name.unwrap_or([0; abi::FDBOX_NAME_LEN]),
        message: text_into(&refusal.message),
        ..answer.reply()
    }
}
