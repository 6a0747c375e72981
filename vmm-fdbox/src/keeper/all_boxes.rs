//! The commands of a keeper's socket.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::server::{Answer, Shared};
use super::wire::{Command, Reply, Request};
use crate::abi;
use crate::coordinator::Owner;
use crate::name::BoxName;

pub(super) fn serve(keeper: &Arc<Shared>, request: &Request, answer: &Answer<'_>) {
    let name = BoxName::from_kernel(&request.name).map_err(|_| Errno::INVAL);
    match request.command {
        Command::Info => answer.reply_with(Ok(info(keeper, answer))),
        Command::NextBox => answer.reply_with(next_box(keeper, request.number, answer)),
        Command::Create => answer.done(name.and_then(|name| keeper.create(name))),
        Command::Delete => answer.done(name.and_then(|name| keeper.delete(&name))),
        Command::Give => {
            let held = name.and_then(|name| keeper.get(&name));
            answer.done(held.and_then(|held| held.give(owner_of(request.number))));
        }
        Command::Owner => answer.reply_with(name.and_then(|name| {
            let Owner { uid, gid } = keeper.get(&name)?.owner();
            let numbers = [uid.into(), gid.into(), 0, 0];
            Ok(Reply {
                numbers,
                ..answer.reply()
            })
        })),
        Command::Open => match name.and_then(|name| keeper.open(&name)) {
            // If nobody receives it, it is closed, which ends its thread.
            Ok(socket) => drop(answer.send(&answer.reply(), Some(socket.as_fd()))),
            Err(errno) => answer.done(Err(errno)),
        },
        Command::Ready => answer.done(make_ready(keeper)),
        _ => answer.done(Err(Errno::PERM)),
    }
}

/// The user is in the lower half, the group in the upper one.
fn owner_of(number: u64) -> Owner {
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    Owner {
        uid: half(number),
        gid: half(number >> 32),
    }
}

fn info(keeper: &Shared, answer: &Answer<'_>) -> Reply {
    let boxes = keeper.boxes().len() as u64;
    Reply {
        code: keeper.backing.home(),
        numbers: [keeper.backing.features(), boxes, 0, 0],
        ..answer.reply()
    }
}

/// The cursor is the number of boxes listed so far.
fn next_box(keeper: &Shared, cursor: u64, answer: &Answer<'_>) -> Result<Reply, Errno> {
    let at = usize::try_from(cursor).unwrap_or(usize::MAX);
    let boxes = keeper.boxes();
    let held = boxes.values().nth(at).cloned().ok_or(Errno::NOENT)?;
    // Another thread may be sealing that box; the others must not wait for it.
    drop(boxes);
    let content = held.content();
    let fds = content.entries().map_or(0, <[_]>::len) as u64;
    Ok(Reply {
        code: match content.is_sealed() {
            Ok(true) => abi::FDBOX_STATE_SEALED,
            _ => abi::FDBOX_STATE_OPEN,
        },
        numbers: [cursor + 1, fds, 0, 0],
        name: held.name.to_kernel(),
        ..answer.reply()
    })
}

fn make_ready(keeper: &Shared) -> Result<(), Errno> {
    let boxes: Vec<_> = keeper.boxes().values().cloned().collect();
    for held in boxes {
        let of = (&held.name, held.owner());
        let made = held.content().make_ready(of, &keeper.backing);
        made.map_err(|refusal| refusal.errno)?;
    }
    Ok(())
}
